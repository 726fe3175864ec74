"""The noise schedules and the samplers that follow them, owned by name and never inherited from a checkpoint.

A video sampled with Stable Diffusion's `scaled_linear` betas comes out grey: AnimateDiff's modules were trained with `linear` ones.
"""

from __future__ import annotations

from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
)

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

_DDIM_ALONE = ("clip_sample", "thresholding", "set_alpha_to_one")

SAMPLERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler-a": (EulerAncestralDiscreteScheduler, {}),
    "dpm++2m": (DPMSolverMultistepScheduler, {}),
    "dpm++2m-karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "lcm": (LCMScheduler, {"clip_sample": False, "set_alpha_to_one": False}),
}
"""`ddim` is AnimateDiff's own; `lcm` is for models distilled for few steps."""

ADDS_NOISE = ("euler-a", "lcm")
"""Samplers that draw noise at every step."""


def make_scheduler(name: str, num_inference_steps: int, sampler: str = "ddim") -> Any:
    """A scheduler of the named schedule and sampler with timesteps on the CPU. Raises UserError for an unknown name or step count."""
    if name not in SCHEDULES:
        raise UserError(f"no schedule {name!r}", remedy=f"one of: {', '.join(SCHEDULES)}")
    if sampler not in SAMPLERS:
        raise UserError(f"no sampler {sampler!r}", remedy=f"one of: {', '.join(SAMPLERS)}")
    kind, own = SAMPLERS[sampler]
    settings = {key: value for key, value in SCHEDULES[name].items() if sampler == "ddim" or key not in _DDIM_ALONE}
    scheduler = kind(**settings, **own)
    most, usual = scheduler.config.get("original_inference_steps", 1000), 6 if sampler == "lcm" else 25
    if not 1 <= num_inference_steps <= most:
        raise UserError(
            f"cannot sample in {num_inference_steps} steps with {sampler}", remedy=f"choose --steps from 1 to {most}; {usual} is usual"
        )
    scheduler.set_timesteps(num_inference_steps)
    return scheduler
