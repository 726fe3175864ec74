"""Clips longer than a motion module sees at once: overlapping windows over the whole UNet, blended at every step.

Shapes: `B` batch, `C` latent channels, `F` frames of the clip, `W` frames of a window, `H W` latent height and width, `L` text tokens,
`D` text width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cdvideo.sampling.denoise import NoisePredictor

WINDOW = 16
OVERLAP = 4
JOIN_FRAMES = 6
"""On either side of the place where a loop begins again: as many as make it seamless."""
SHUFFLED = 4
"""Noise beyond the first window is that window's, shuffled within so many frames: FreeNoise's stride (Qiu et al. 2024, section 3.2)."""


def overlap_of(window: int) -> int:
    """How many frames neighbouring windows of at most `window` frames share, or one more."""
    return min(OVERLAP, window // 4)


def window_frames(num_frames: int, *, window: int = WINDOW, loop: bool = False, turns: bool = True) -> list[list[int]]:
    """The frames of each window as the motion module sees them: every frame is in one, and neighbours share some.

    Where it `turns`, every second window is seen from its last frame to its first. A motion module knows where in its window a frame is,
    and begins a motion that leads somewhere at the first: seen like this, neighbours agree on where it is when one meets the other, and
    what has walked to the right walks back. Windows of one clip are of one size, at most `window`, and evenly spread.

    With `loop` the last frame's neighbour is the first. A clip that fits into one window is one; such a loop has a second one, half of it
    further, in whose middle its end meets its beginning.
    """
    if num_frames <= window:
        whole = list(range(num_frames))
        half = num_frames // 2
        return [whole, whole[half:] + whole[:half]] if loop else [whole]
    overlap = overlap_of(window)
    # A loop's windows share frames all around, a clip's at one end less; and only an even number of turns leads back.
    ends = 0 if loop else overlap
    count = -(-(num_frames - ends) // (window - overlap))
    count += count % 2 if loop else 0
    size = -(-(num_frames - ends) // count) + overlap
    steps = (count, num_frames) if loop else (count - 1, num_frames - size)
    starts = [round(index * steps[1] / steps[0]) for index in range(count)]
    windows = [[(start + index) % num_frames for index in range(size)] for start in starts]
    return [frames[::-1] if turns and number % 2 else frames for number, frames in enumerate(windows)]


def window_weights(size: int, overlap: int = OVERLAP) -> Tensor:
    """How much each frame of a window counts, (W,): 1 in the middle, falling linearly over the overlap towards both ends."""
    position = torch.arange(1, size + 1, dtype=torch.float32)
    return (torch.minimum(position, position.flip(0)) / (overlap + 1)).clamp(max=1)


def join_weights(num_frames: int) -> Tensor:
    """How much the second window of a loop that fits into one counts at each frame, (F,): only around where the loop begins again.

    A motion's phase goes by a frame's place in its window, and two windows that both counted everywhere would draw it twice.
    """
    from_join = torch.minimum(torch.arange(num_frames), torch.arange(num_frames).flip(0)) + 0.5
    return (1 - from_join / min(JOIN_FRAMES, num_frames / 2)).clamp(min=0)


def windowed(
    predict_noise: NoisePredictor,
    *,
    window: int = WINDOW,
    loop: bool = False,
    turns: bool = True,
) -> NoisePredictor:
    """`predict_noise` for clips (B, C, F, H, W) of any length: of each window on its own, blended where windows overlap.

    Text states are (B, L, D), or (B, F, L, D) where frames have their own, and then each window gets its frames'. Windows are the same at
    every step: a motion's phase goes by a frame's place in its window, and moving ones would draw it at many phases at once.
    """

    def predict(latents: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        num_frames = latents.shape[2]
        windows = window_frames(num_frames, window=window, loop=loop, turns=turns)
        if len(windows) == 1:
            return predict_noise(latents, timestep, states)
        if num_frames <= window:
            join = join_weights(num_frames)
            shares = [1 - join, join[windows[1]]]
        else:
            shares = [window_weights(len(frames), overlap_of(window)) for frames in windows]
        total, weight = (
            latents.new_zeros((len(states), *latents.shape[1:]), dtype=torch.float32),
            torch.zeros(num_frames, device=latents.device),
        )
        for frames, share in zip(windows, shares, strict=True):
            weights = share.to(latents.device)
            own_states = states[:, frames] if states.ndim == 4 else states
            total[:, :, frames] += weights[:, None, None] * predict_noise(latents[:, :, frames], timestep, own_states).float()
            weight[frames] += weights
        return (total / weight[:, None, None]).to(latents.dtype)

    return predict


def long_noise(noise: Tensor, windows: Sequence[Sequence[int]], generator: torch.Generator, *, shuffled: int = SHUFFLED) -> Tensor:
    """Noise (B, C, F, H, W) for all frames of the windows from that of the first (B, C, W, H, W), whose frames it gives again, shuffled.

    A frame gets what is near its place in its window. Windows that see the same noise in another order agree on what they show (FreeNoise:
    Qiu et al. 2024).
    """
    order = {frame: place for place, frame in enumerate(windows[0])}
    for frames in windows[1:]:
        places = [
            place for some in torch.arange(len(frames)).split(shuffled) for place in some[torch.randperm(len(some), generator=generator)]
        ]
        for frame, place in zip(frames, places, strict=True):
            order.setdefault(frame, int(place))
    return noise[:, :, [order[frame] for frame in sorted(order)]]
