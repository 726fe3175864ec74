"""How much of exactness is given for speed, and the reuse of a motion UNet's deep features from step to step.

What a UNet computes deep inside changes slowly and evenly from step to step (DeepCache: Ma et al. 2024). So the deep part runs at every
n-th step only; at the others the last layer of the last block alone runs, on the latents of now and on features that are drawn on in a
straight line from the last two that were computed (as TaylorSeer does: Liu et al. 2025, of first order).

Shapes: `B` clips of a pass, `C` latent channels, `F` frames, `H W` latent height and width.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from cdvideo.animate.sparing import SparingPredictor
from cdvideo.base.catalog import BasePreset
from cdvideo.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Speed:
    """`reuse_every` n: the deep features are computed at every n-th step, and at the `num_whole_first` first and `num_whole_last` last.

    `guided_share`: of the steps, the first ones, have guidance. `num_inference_steps`, where the user gives no number.
    """

    name: str
    reuse_every: int = 1
    guided_share: float = 1.0
    num_inference_steps: int | None = None
    num_whole_first: int = 0
    num_whole_last: int = 0

    def steps_of(self, preset: BasePreset) -> int:
        """Denoising steps where the user gives no number: never more than what is usual with this base and motion module."""
        return self.at_most(preset.num_inference_steps)

    def at_most(self, num_steps: int) -> int:
        """So many steps, or this speed's own where they are fewer."""
        return min(self.num_inference_steps or num_steps, num_steps)

    def is_whole(self, step: int, num_steps: int) -> bool:
        """Whether the deep features are computed at that step, counted from 0, of so many."""
        return step < self.num_whole_first or step >= num_steps - self.num_whole_last or step % self.reuse_every == 0

    def precision(self, dtype: str) -> str:
        """The precision to ask for where the user asks for `dtype`: whoever leaves it open and wants speed gets the faster one."""
        return "fast" if dtype == "auto" and self.name != EXACT.name else dtype


EXACT = Speed(name="exact")
FAST = Speed(name="fast", reuse_every=2, num_whole_first=2, num_whole_last=2)
DRAFT = replace(FAST, name="draft", guided_share=0.8, num_inference_steps=10)
SPEEDS = {speed.name: speed for speed in (EXACT, FAST, DRAFT)}
"""`python -m tests.bench.animate --part render --part quality` says what `fast` saves and how near it stays. In the first steps a clip's
layout is decided, and in the last ones its fine grain: with features of before in those, fast clips are further from exact ones and
flicker more. Ending guidance early costs more of the picture than it saves in time, so only `draft` does that."""


def speed_of(name: str | Speed) -> Speed:
    """The speed of a name, or the very one. Raises UserError for an unknown name."""
    if isinstance(name, Speed):
        return name
    if name not in SPEEDS:
        raise UserError(f"there is no speed {name!r}", remedy=f"one of: {', '.join(SPEEDS)}")
    return SPEEDS[name]


class FeatureReuse:
    """A noise predictor for clips over a `UNetMotionModel` that computes deep features only at the steps that a speed says.

    Between two calls of `begin_step` it may be called for several windows; each has its own features, so memory grows with a clip's
    length. Windows are the same at every step.
    """

    def __init__(self, unet: Any, predict_noise: SparingPredictor, speed: Speed, num_steps: int) -> None:
        self.unet, self.predict_noise, self.speed, self.num_steps = unet, predict_noise, speed, num_steps
        self._step, self._window = -1, 0
        self._features: list[Tensor] = []
        self._computed_at: list[int] = []
        self._slopes: list[Tensor | None] = []

    def begin_step(self) -> None:
        """Says that the next call is of the next step; its timestep may be the same, as some samplers' are."""
        self._step, self._window = self._step + 1, 0

    def __call__(self, latents: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        window, self._window = self._window, self._window + 1
        if not self.speed.is_whole(self._step, self.num_steps):
            # Where guidance has ended, the features of the second half are the prompt's.
            features = self._drawn_on(window)[-latents.shape[0] * latents.shape[2] :]
            return self.predict_noise.within_memory(functools.partial(shallow_noise, self.unet), latents, timestep, states, features)
        noise_pred, features = self._whole(latents, timestep, states)
        self._remember(window, features)
        return noise_pred

    def _remember(self, window: int, features: Tensor) -> None:
        if window == len(self._features):
            self._features.append(features)
            self._computed_at.append(self._step)
            self._slopes.append(None)
            return
        # Where guidance has ended, the features of before are the second half's.
        change = features - self._features[window][-len(features) :]
        self._slopes[window] = change / (self._step - self._computed_at[window])
        self._features[window], self._computed_at[window] = features, self._step

    def _drawn_on(self, window: int) -> Tensor:
        """The window's features at this step, on the line through the last two that were computed."""
        slope = self._slopes[window]
        features = self._features[window]
        return features if slope is None else features + (self._step - self._computed_at[window]) * slope

    def _whole(self, latents: Tensor, timestep: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """The noise by the whole UNet, and what enters its last layer from below, (B F, C', H, W)."""
        entered: list[Tensor] = []
        last = self.unet.up_blocks[-1].resnets[-1]
        num_skipped = self.unet.conv_in.out_channels

        def keep(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            joined = args[0] if args else kwargs["input_tensor"]
            entered.append(joined[:, :-num_skipped])

        handle = last.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            noise_pred = self.predict_noise(latents, timestep, states)
        finally:
            handle.remove()
        # A pass that ran out of memory was begun again, by halves.
        return noise_pred, torch.cat(entered)[-latents.shape[0] * latents.shape[2] :]


def shallow_noise(unet: Any, latents: Tensor, timestep: Tensor, states: Tensor, features: Tensor) -> Tensor:
    """The noise (B, C, F, H, W) in fp32 by the last layer alone, on the deep `features` (B F, C', H, W) of an earlier step."""
    latents = latents.to(features.dtype)
    num_clips, _, num_frames = latents.shape[:3]
    embedding = unet.time_embedding(unet.time_proj(timestep.expand(num_clips)).to(latents.dtype))
    embedding = embedding.repeat_interleave(num_frames, dim=0)
    skipped = unet.conv_in(rearrange(latents, "b c f h w -> (b f) c h w"))
    block = unet.up_blocks[-1]
    hidden = block.resnets[-1](torch.cat([features, skipped], dim=1), embedding)
    if hasattr(block, "attentions"):
        hidden = block.attentions[-1](hidden, encoder_hidden_states=states_by_row(latents, states), return_dict=False)[0]
    hidden = block.motion_modules[-1](hidden, num_frames=num_frames)
    if unet.conv_norm_out:
        hidden = unet.conv_act(unet.conv_norm_out(hidden))
    return rearrange(unet.conv_out(hidden).float(), "(b f) c h w -> b c f h w", f=num_frames)


def states_by_row(latents: Tensor, states: Tensor) -> Tensor:
    """Text states as a UNet wants them for these latents: one for each frame of clips (B, C, F, H, W), frame after frame."""
    if latents.ndim == 4:
        return states
    return states.flatten(0, 1) if states.ndim == 4 else states.repeat_interleave(latents.shape[2], dim=0)
