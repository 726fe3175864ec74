"""How much of exactness is given for speed, and the reuse of predicted noise from step to step.

What a UNet takes for noise changes slowly and evenly from one denoising step to the next. So it computes at some steps only; at the others
the noise is drawn on from the last two predictions, as multistep solvers do (PNDM: Liu et al. 2022), but with a third of their slope, whose
errors guidance magnifies. Where the UNet computes matters more: at the first steps, in which a clip's layout is decided, and once
shortly before the end, where its fine grain is. `python -m tests.bench.animate --part render --part quality` says what it saves and costs.

Shapes: `B` clips of a pass, `C` latent channels, `F` frames, `H W` latent height and width.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

from cdvideo.base.catalog import BasePreset
from cdvideo.errors import UserError, UserNote
from cdvideo.sampling import NoisePredictor
from cdvideo.sampling.schedules import ADDS_NOISE

DAMPING = 0.35
"""Of the slope. With more of it clips flicker more than exact ones, with none they are further from them."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """`most_apart`: steps from one at which the UNet computes to the next; at those between, noise is drawn on (`is_whole`).

    `guided_share`: of the steps, the first ones, have guidance. `num_inference_steps`, where the user gives no number.
    """

    name: str
    most_apart: int = 1
    guided_share: float = 1.0
    num_inference_steps: int | None = None

    def steps_of(self, preset: BasePreset) -> int:
        """Denoising steps where the user gives no number: never more than what is usual with this base and motion module."""
        return self.at_most(preset.num_inference_steps)

    def at_most(self, num_steps: int) -> int:
        """So many steps, or this speed's own where they are fewer."""
        return min(self.num_inference_steps or num_steps, num_steps)

    def is_whole(self, step: int, num_steps: int) -> bool:
        """Whether the UNet computes at that step, counted from 0, of so many."""
        return self.most_apart == 1 or step in _whole_steps(num_steps, self.most_apart)

    def with_sampler(self, sampler: str) -> Speed:
        """The same where the sampler leaves something to draw on: noise that it adds at every step, no earlier step foresees."""
        return replace(self, most_apart=1) if sampler in ADDS_NOISE else self

    def precision(self, dtype: str) -> str:
        """The precision to ask for where the user asks for `dtype`: whoever leaves it open and wants speed gets the faster one."""
        return "fast" if dtype == "auto" and self.name != EXACT.name else dtype


@functools.cache
def _whole_steps(num_steps: int, most_apart: int) -> frozenset[int]:
    """Where the UNet computes, of so many steps: at the first three, at every second of the first third, then so far apart, and at the last
    but one.

    Of 25 steps, at most three apart, these are 0, 1, 2, 4, 6, 8, 11, 14, 17, 20 and 23. Nor are they further apart than a sixth of all.
    """
    if num_steps <= 3:
        return frozenset(range(num_steps))
    steps, last, num_dense = [0], num_steps - 2, num_steps // 3 // 2 * 2
    furthest = min(most_apart, math.ceil(num_steps / 6))
    while steps[-1] < last:
        gap = 1 if steps[-1] < 2 else 2 if steps[-1] < num_dense else furthest
        steps.append(min(steps[-1] + min(gap, furthest), last))
    return frozenset(steps)


EXACT = Speed(name="exact")
FAST = Speed(name="fast", most_apart=3)
DRAFT = replace(FAST, name="draft", num_inference_steps=12)
SPEEDS = {speed.name: speed for speed in (EXACT, FAST, DRAFT)}
"""`fast` gives up steps of the UNet, `draft` steps altogether, too. None ends guidance early: that costs more of the picture
than it saves in time."""


def speed_of(name: str | Speed) -> Speed:
    """The speed of a name, or the very one. Raises UserError for an unknown name."""
    if isinstance(name, Speed):
        return name
    if name not in SPEEDS:
        raise UserError(f"there is no speed {name!r}", remedy=f"one of: {', '.join(SPEEDS)}")
    return SPEEDS[name]


def recorded_speed(record: Mapping[str, Any]) -> Speed:
    """The speed that a clip's record names. Raises UserError where it is one that this version cannot repeat."""
    if record["name"] == EXACT.name:
        return EXACT
    if set(record) != {field.name for field in fields(Speed)}:
        raise UserError(
            f"the clip was rendered at a speed {record['name']!r} of an earlier version, which reused other things",
            remedy="render it anew from its prompt and seed, which `cdvideo info` shows",
        )
    return Speed(**record)


def at_some_steps(predict_noise: NoisePredictor, speed: Speed, num_steps: int, *, sampler: str) -> NoisePredictor:
    """The predictor for one denoising of so many steps at that speed. Says so where the sampler leaves nothing to draw on."""
    if speed.most_apart == 1:
        return predict_noise
    if speed.with_sampler(sampler).most_apart == 1:
        cause = f"the sampler {sampler} adds new noise at every step, which no earlier one foresees"
        warnings.warn(f"{cause}: the UNet computes at every step, as at --speed exact", UserNote, stacklevel=2)
        return predict_noise
    return NoiseReuse(predict_noise, speed, num_steps)


class NoiseReuse:
    """A noise predictor that asks another one at the steps that a speed says, and draws on from the last two answers at the others.

    It is called once a step.
    """

    def __init__(self, predict_noise: NoisePredictor, speed: Speed, num_steps: int) -> None:
        self.predict_noise, self.speed, self.num_steps = predict_noise, speed, num_steps
        self._step, self._computed_at = -1, 0
        self._noise: Tensor | None = None
        self._slope: Tensor | None = None

    def __call__(self, latents: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        self._step += 1
        # Where guidance has ended, that of the second half is the prompt's.
        last, slope = (value if value is None else value[-len(states) :] for value in (self._noise, self._slope))
        if last is not None and not self.speed.is_whole(self._step, self.num_steps):
            # The very last step holds what was seen: what is drawn on there would flicker.
            if slope is None or self._step == self.num_steps - 1:
                return last
            return last + DAMPING * (self._step - self._computed_at) * slope
        noise_pred = self.predict_noise(latents, timestep, states)
        if last is not None:
            self._slope = (noise_pred - last) / (self._step - self._computed_at)
        self._noise, self._computed_at = noise_pred, self._step
        return noise_pred
