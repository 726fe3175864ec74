"""What a clip or a still is asked for: checked, filled in from the base's preset, and as its record keeps it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cdvideo.animate.key_frames import CURVES, check_key_frames
from cdvideo.base import Base
from cdvideo.base.catalog import BasePreset
from cdvideo.errors import UserError
from cdvideo.motion import WeightedLora
from cdvideo.numbers import is_number, is_whole, plain_number, written
from cdvideo.video.clip import MIN_FPS
from cdvideo.video.resampling import MAX_FPS

MAX_FRAMES = 4096
LEAST_LOOP = 8
MOST_GUIDANCE = 100
MOST_STEPS = 1000
"""Stable Diffusion is trained on as many levels of noise."""

Course = Mapping[int, float]
"""Values by frame: 1.0 at frame 0 and 0.3 at frame 12 is {0: 1.0, 12: 0.3}."""


def sampling_settings(
    base: Base,
    preset: BasePreset,
    *,
    size: tuple[int, int] | str | None,
    num_inference_steps: int | None,
    guidance_scale: float | None,
    negative: str | None,
    seed: int,
    schedule: str,
    sampler: str | None,
) -> dict[str, Any]:
    """What clips and stills have in common, as a record keeps it; what is None becomes the `preset`'s own. Raises UserError."""
    width, height = _sides(size, preset)
    check_size(width, height, base.latent_factor)
    check_numbers(seed=seed, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale)
    return {
        "negative": preset.negative_prompt if negative is None else negative,
        "seed": int(seed),
        "size": [width, height],
        "steps": int(preset.num_inference_steps if num_inference_steps is None else num_inference_steps),
        "guidance": plain_number(preset.guidance_scale if guidance_scale is None else guidance_scale),
        "schedule": schedule,
        "sampler": preset.sampler if sampler is None else sampler,
    }


def _sides(size: Any, preset: BasePreset) -> tuple[int, int]:
    if size is None:
        return preset.native_size, preset.native_size
    if isinstance(size, str):
        return parse_size(size)
    try:
        width, height = size
        if is_whole(width) and is_whole(height):
            return int(width), int(height)
    except (TypeError, ValueError):
        pass
    raise UserError(f"{size!r} is no size", remedy="give (width, height) in whole pixels, such as (512, 512)")


def check_size(width: int, height: int, latent_factor: int) -> None:
    """Raises UserError for a size in pixels that cannot be rendered; with a factor of 1, for one that no base renders."""
    if problem := describe_size_problem(width, height, latent_factor):
        raise UserError(problem[0], remedy=problem[1])


def check_numbers(*, seed: int, num_inference_steps: int | None, guidance_scale: float | None) -> None:
    """Raises UserError for what no base takes. What is None is a base's own."""
    if not is_whole(seed) or not 0 <= seed < 2**63:
        raise UserError(f"{seed!r} is no seed", remedy="choose --seed from 0 to 9223372036854775807")
    if num_inference_steps is not None and not (is_whole(num_inference_steps) and 1 <= num_inference_steps <= MOST_STEPS):
        raise UserError(f"cannot sample in {num_inference_steps!r} steps", remedy=f"choose --steps from 1 to {MOST_STEPS}; 25 is usual")
    if guidance_scale is not None and not (is_number(guidance_scale) and 0 <= guidance_scale <= MOST_GUIDANCE):
        raise UserError(f"{written(guidance_scale)} is no guidance", remedy=f"choose --guidance from 0 to {MOST_GUIDANCE}; 7.5 is usual")


def check_length(num_frames: int, fps: float, *, loop: bool) -> None:
    """Raises UserError for a clip of no or too many frames, or of a rate that nothing plays."""
    least = LEAST_LOOP if loop else 1
    if not is_whole(num_frames) or not least <= num_frames <= MAX_FRAMES:
        what = "loop" if loop else "render"
        raise UserError(f"cannot {what} {num_frames!r} frames", remedy=f"choose --frames from {least} to {MAX_FRAMES}; 16 is usual")
    if not is_number(fps) or not MIN_FPS <= fps <= MAX_FPS:
        raise UserError(f"cannot play {written(fps)} frames a second", remedy=f"choose --fps from {MIN_FPS:g} to {MAX_FPS}; 8 is usual")


def check_rounds(freeinit: int, *, starts: bool) -> None:
    """Raises UserError for a number of FreeInit's rounds that is none, and where there is no noise to steady."""
    if not is_whole(freeinit) or not 1 <= freeinit <= 10:
        raise UserError(f"cannot render a clip {freeinit!r} times over", remedy="choose --freeinit from 1 (off) to 10; 3 is usual")
    if freeinit > 1 and starts:
        raise UserError(
            "--freeinit steadies the noise that a clip starts from, and --init starts from frames", remedy="leave one of them out"
        )


def prompts_by_frame(prompt: str | None, prompts: Mapping[int, str] | None, travel: str, num_frames: int) -> dict[int, str]:
    """The prompt of each key frame, in order: `prompts`, and `prompt` at frame 0. Raises UserError where there is none, or two at one."""
    if travel not in CURVES:
        raise UserError(f"there is no travel {travel!r}", remedy=f"one of: {', '.join(CURVES)}")
    course = dict(prompts or {})
    if prompt is not None:
        if 0 in course:
            raise UserError("there are two prompts at frame 0", remedy="leave out --prompt, or --prompt-at 0")
        course[0] = prompt
    if not course:
        raise UserError("there is no prompt", remedy="say what the clip is to show")
    for text in course.values():
        check_prompt(text)
    check_key_frames(list(course), num_frames, "the prompt")
    return {int(frame): text for frame, text in sorted(course.items())}


def check_prompt(prompt: Any) -> None:
    """Raises UserError for what is no text."""
    if not isinstance(prompt, str):
        raise UserError(f"{prompt!r} is no prompt", remedy="give a text")


def strengths_by_frame(courses: Course | Sequence[Course], num_concepts: int, num_frames: int) -> list[dict[int, float]]:
    """The course of each concept's strength, none where no course is given; a single one is that of all. Raises UserError."""
    given: list[Any] = list(courses) if isinstance(courses, list | tuple) else [courses] if courses is not None and courses != {} else []
    if not given:
        return []
    if not num_concepts:
        raise UserError(
            "there is no concept whose strength could change",
            remedy="name one in the prompt, such as V*, or give --concept; or leave --concept-strength out",
        )
    if len(given) not in (1, num_concepts):
        raise UserError(
            f"{len(given)} courses of strength for {num_concepts} concepts",
            remedy="give --concept-strength once for all concepts, or once for each, in their order",
        )
    for course in given:
        if not isinstance(course, Mapping) or not all(is_number(value) and math.isfinite(value) for value in course.values()):
            raise UserError(f"{course!r} is no course of strengths", remedy="give values by frame, such as {0: 1.0, 12: 0.3}")
        check_key_frames(list(course), num_frames, "the concept's strength")
    every = given if len(given) == num_concepts else given * num_concepts
    return [{int(frame): plain_number(value) for frame, value in sorted(course.items())} for course in every]


def describe_cameras(cameras: Sequence[WeightedLora]) -> list[dict[str, Any]]:
    """What a record says of a clip's camera moves."""
    return [{"name": lora.source, "strength": strength, "fingerprint": lora.fingerprint} for lora, strength in cameras]


def describe_size_problem(width: int, height: int, latent_factor: int = 8) -> tuple[str, str] | None:
    """What is wrong with a size in pixels and the way out, or None."""
    if min(width, height) < 64 or max(width, height) > 4096:
        return f"cannot render at {width}x{height}", "choose --size from 64x64 to 4096x4096"
    if width % latent_factor or height % latent_factor:
        near = f"{round(width / latent_factor) * latent_factor}x{round(height / latent_factor) * latent_factor}"
        return f"{width}x{height} is no multiple of {latent_factor} on both sides", f"choose --size {near}"
    return None


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) from "512x384". Raises UserError for anything else."""
    width, cross, height = text.lower().partition("x")
    if not cross or not width.strip().isdecimal() or not height.strip().isdecimal():
        raise UserError(f"{text!r} is no size", remedy="write it as WIDTHxHEIGHT in pixels, such as 512x512")
    return int(width), int(height)
