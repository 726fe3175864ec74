"""The noise schedules, owned by name and never inherited from a checkpoint.

A video sampled with Stable Diffusion's `scaled_linear` betas comes out grey: AnimateDiff's modules were trained with `linear` ones.
"""

from __future__ import annotations

from typing import Any

from diffusers import DDIMScheduler

from cdvideo.errors import UserError

_COMMON: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "clip_sample": False,
    "thresholding": False,
    "prediction_type": "epsilon",
}

SCHEDULES: dict[str, dict[str, Any]] = {
    "animatediff": {**_COMMON, "beta_schedule": "linear", "timestep_spacing": "linspace", "set_alpha_to_one": False},
    "animatediff-original": {**_COMMON, "beta_schedule": "linear", "timestep_spacing": "leading", "set_alpha_to_one": True},
    "stable-diffusion": {**_COMMON, "beta_schedule": "scaled_linear", "timestep_spacing": "leading", "set_alpha_to_one": False},
}
"""`animatediff`: as diffusers and ClassDiffusion sample it; `animatediff-original`: as its authors do; `stable-diffusion`: for stills."""


def make_scheduler(name: str, num_inference_steps: int, device: Any = "cpu") -> DDIMScheduler:
    """A DDIM scheduler of the named schedule with its timesteps set. Raises UserError for an unknown name or step count."""
    if name not in SCHEDULES:
        raise UserError(f"no schedule {name!r}", remedy=f"one of: {', '.join(SCHEDULES)}")
    if not 1 <= num_inference_steps <= 1000:
        raise UserError(f"cannot sample in {num_inference_steps} steps", remedy="choose --steps from 1 to 1000; 25 is usual")
    scheduler = DDIMScheduler(**SCHEDULES[name])
    scheduler.set_timesteps(num_inference_steps, device=device)
    return scheduler
