"""What a clip will take of memory and time, found out before it is rendered by rendering far smaller or shorter ones on the same device.

A tensor's memory grows in a straight line with frames times pixels above what text and timesteps take, since attention holds no matrix of
scores. So two clips of one step on a small picture, with one frame and with three, say how much a large one takes. On a
GPU it takes less: feed-forwards of many rows are computed by parts there.
"""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cdvideo.animate.render import BlackFrames, Studio
from cdvideo.animate.reuse import EXACT, Speed, speed_of
from cdvideo.base.model import DECODED_AT_ONCE
from cdvideo.errors import UserNote
from cdvideo.sampling.windows import window_frames
from cdvideo.video.gather import MOST_IN_MEMORY

PROBE_SIDE = 64
"""Pixels a side of the small picture; 8 latent cells, of which the UNet makes one in its middle."""
PROBE_FRAMES = (1, 3)
LARGE_PIXELS = 16 * 256 * 256
"""Of the frames that are rendered at once. Clips with fewer take little more than the weights."""
PATIENCE_S = 30.0
"""Where a step of a whole window would take longer than this, a step of one frame is measured and multiplied."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of the models' weights, and of all other tensors that are there at the same time at most."""

    weights: int
    working: int

    @property
    def total(self) -> int:
        return self.weights + self.working


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds of a window's step at which the UNet computes, and of decoding a frame; measured on clips of `measured_frames`.

    Steps behind the `speed`'s guided share, which compute half as much where there is guidance, are not among those measured.
    """

    whole_seconds: float
    frame_seconds: float
    window: int
    measured_frames: int
    speed: Speed = EXACT
    is_guided: bool = True

    def seconds(self, *, num_frames: int, num_steps: int, loop: bool = False) -> float:
        """Of a clip of so many frames and steps. A window of fewer frames takes its share of one."""
        windows = window_frames(num_frames, window=self.window, loop=loop)
        share = len(windows[0]) / self.window
        num_guided = round(self.speed.guided_share * num_steps) if self.is_guided else num_steps
        steps_seconds = sum(
            self.whole_seconds * (1 if step < num_guided else 0.5) for step in range(num_steps) if self.speed.is_whole(step, num_steps)
        )
        return len(windows) * share * steps_seconds + num_frames * self.frame_seconds


def is_large(studio: Studio, *, num_frames: int, size: tuple[int, int] | None = None) -> bool:
    """Whether it is worth the time of a few steps to say beforehand what a clip takes."""
    side = studio.base.preset.native_size
    width, height = size or (side, side)
    return min(num_frames, studio.window) * width * height >= LARGE_PIXELS


def memory_of(studio: Studio, *, num_frames: int, size: tuple[int, int] | None = None) -> Memory:
    """What a clip of the studio takes of the device's memory; `size` is (width, height) in pixels, the base's own by default."""
    side = studio.base.preset.native_size
    width, height = size or (side, side)
    growth = width * height / PROBE_SIDE**2
    probes = [_tensor_bytes(studio, frames) for frames in PROBE_FRAMES]
    denoising, decoding = (
        _in_a_line([min(frames, at_once) for frames in PROBE_FRAMES], found, min(num_frames, at_once) * growth)
        for at_once, found in zip((studio.window, DECODED_AT_ONCE), zip(*probes, strict=True), strict=True)
    )
    finished = min(3 * num_frames * width * height, MOST_IN_MEMORY)
    return Memory(weights=_weight_bytes(studio), working=round(max(denoising, decoding)) + finished)


def pace_of(studio: Studio, *, num_frames: int, settings: Mapping[str, Any]) -> Pace:
    """How fast the studio renders clips with these settings of `Studio.clip`, of which size, speed, guidance and prompts count."""
    speed = speed_of(settings.get("speed", "exact")).with_sampler(settings.get("sampler") or studio.preset.sampler)
    plain = {name: settings[name] for name in ("size", "guidance_scale", "negative") if name in settings}
    prompt = next(iter(settings["prompts"].values()))
    frames = min(num_frames, studio.window)
    whole, decode = _timed(studio, prompt, 1, plain)
    measured = 1
    if frames > 1 and whole * frames <= PATIENCE_S:
        whole, decode = _timed(studio, prompt, frames, plain)
        measured = frames
    guidance = settings.get("guidance_scale")
    return Pace(
        whole_seconds=whole * studio.window / measured,
        frame_seconds=decode / measured,
        window=studio.window,
        measured_frames=measured,
        speed=speed,
        is_guided=(studio.preset.guidance_scale if guidance is None else guidance) > 1,
    )


def _timed(studio: Studio, prompt: str, num_frames: int, settings: Mapping[str, Any]) -> tuple[float, float]:
    """Seconds of a whole step, and of decoding all frames.

    The first step is not counted: nothing is warm yet. Nor is the second on a GPU, in which kernels are recorded. A step is told of once it
    has ended.
    """
    ends: list[float] = []
    steps = 3 if studio.base.device.type == "cuda" else 2
    with _a_trial():
        studio.clip(prompt, num_frames=num_frames, num_inference_steps=steps, on_step=lambda *_: ends.append(_now(studio)), **settings)
    return ends[-1] - ends[-2], _now(studio) - ends[-1]


@contextmanager
def _a_trial() -> Iterator[None]:
    """Within it, what is said is not said: after a step or two all frames may be black, and what the user should know comes again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserNote)
        try:
            yield
        except BlackFrames:
            return


def _now(_: Studio) -> float:
    return time.perf_counter()


def _in_a_line(frames: Sequence[int], found: Sequence[int], wanted: float) -> float:
    """The value at `wanted` on the line through two points."""
    (first, last), (low, high) = frames, found
    return low + (wanted - first) * (high - low) / (last - first)


def _tensor_bytes(studio: Studio, num_frames: int) -> tuple[int, int]:
    """The most bytes of tensors at once while a clip is denoised, and while it is decoded."""
    denoising = []
    with PeakBytes() as counted:

        def on_step(step: int, steps: int) -> None:
            denoising.append(counted.peak)
            counted.peak = counted.live

        with _a_trial():
            studio.clip("", num_frames=num_frames, size=(PROBE_SIDE, PROBE_SIDE), num_inference_steps=1, on_step=on_step)
    return denoising[-1], counted.peak


def _weight_bytes(studio: Studio) -> int:
    base, motion = studio.base, studio.motion
    models: list[nn.Module] = [base.unet, base.text_encoder, base.vae]
    tensors = [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]
    tensors += motion.state.values() if motion else []
    return sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


class PeakBytes(TorchDispatchMode):
    """Within it, the bytes of all tensors that are made are counted: those that are there now, and the most that were there at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in given:
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key).atexit = False

    def _forget(self, key: int) -> None:
        self.live -= self._sizes.pop(key)
