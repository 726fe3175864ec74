"""Opening a studio from a command's options, and saving what it renders; shared by `animate` and `image`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from cdvideo import base, motion
from cdvideo.animate import Studio, parse_size, parse_values, replay
from cdvideo.animate.reuse import speed_of
from cdvideo.animate.settings import check_numbers, check_size
from cdvideo.animate.starting import check_start, read_start, steps_left
from cdvideo.animate.tokens import describe_prompt
from cdvideo.base.lora import load_lora, parse_lora
from cdvideo.cli.progress import duration, size_of, steps_bar
from cdvideo.concept import Concept
from cdvideo.errors import UserError
from cdvideo.files import check_writable
from cdvideo.storyboard import slug
from cdvideo.video import Clip, check_destination, read_record, write


def split_settings(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `Studio` renders with, under its own names, and the rest. Raises UserError for what can be told before a base is loaded."""
    rest = dict(given)
    sampling = {name: rest.pop(name) for name in ("prompt", "negative", "seed", "sampler", "init", "strength")}
    size = rest.pop("size")
    sampling["size"] = parse_size(size) if size else None
    sampling["num_inference_steps"] = rest.pop("steps")
    sampling["guidance_scale"] = rest.pop("guidance")
    if sampling["size"]:
        width, height = sampling["size"]
        check_size(width, height, latent_factor=1)
    check_numbers(**{name: sampling[name] for name in ("seed", "num_inference_steps", "guidance_scale")})
    check_start(sampling["init"], sampling["strength"])
    if sampling["init"]:
        read_start(sampling["init"], most=1)
    return sampling, rest


def over_time(given: dict[str, Any]) -> dict[str, Any]:
    """What changes over a clip, taken out of `given`, under `Studio.clip`'s names."""
    prompts: dict[int, str] = {}
    for frame, prompt in given.pop("prompts_at"):
        if frame in prompts:
            raise UserError(f"there are two prompts at frame {frame}", remedy="give --prompt-at once for each frame")
        prompts[frame] = prompt
    courses = [parse_values(text) for text in given.pop("concept_strengths")]
    return {"prompts": prompts, "travel": given.pop("travel"), "concept_strengths": courses}


def check_preview(path: Path | None) -> None:
    """Raises UserError where a preview is asked for that is no PNG, or cannot be written."""
    if path is None:
        return
    if path.suffix.lower() != ".png":
        raise UserError(f"a preview is a PNG, and {path} is none", remedy=f"write --preview {path.with_suffix('.png')}")
    check_writable(path)


def open_studio(
    chosen: Sequence[tuple[Path, float]],
    *,
    with_motion: bool,
    base_name: str | None,
    device: str,
    dtype: str,
    offline: bool,
    motion_name: str | None = None,
    motion_norm: str = "frame",
    joining: str = "local",
    loras: Sequence[str] = (),
) -> Studio:
    weighted = [parse_lora(text) for text in loras]
    concepts = [(Concept.load(path), strength) for path, strength in chosen]
    name = base_name or (concepts[0][0].header.base if concepts else "pocket")
    loaded = base.load(name, device=device, dtype=dtype, offline=offline)
    module = motion.motion_for(loaded, motion_name, offline=offline) if with_motion else None
    loaded_loras = [(load_lora(source, base=loaded, offline=offline), strength) for source, strength in weighted]
    return Studio(loaded, concepts, module, motion_norm=motion_norm, joining=joining if len(concepts) > 1 else None, loras=loaded_loras)


def say_prompts(studio: Studio, prompts: Sequence[str]) -> None:
    """Says of each prompt how long it is and whom it names."""
    concepts = [concept for concept, _ in studio.concepts]
    for prompt in dict.fromkeys(prompts):
        click.echo(f"prompt: {describe_prompt(studio.base.tokenizer, prompt, concepts)}", err=True)


def say_cost(studio: Studio, settings: dict[str, Any]) -> None:
    """Says what a clip with these settings of `Studio.clip` will take of the device's memory and of time, where it is large."""
    from cdvideo.animate.preflight import is_large, memory_of, pace_of

    num_frames, size = settings["num_frames"], settings["size"]
    if not is_large(studio, num_frames=num_frames, size=size):
        return
    memory = memory_of(studio, num_frames=num_frames, size=size)
    parts = f"{size_of(memory.weights)} of weights, {size_of(memory.working)} while rendering"
    click.echo(f"memory: about {size_of(memory.total)} on {studio.base.device}: {parts}", err=True)
    prompts = {0: settings["prompt"] or "", **settings["prompts"]}
    asked = {name: value for name, value in settings.items() if value is not None}
    pace = pace_of(studio, num_frames=num_frames, settings={**asked, "prompts": prompts})
    num_steps = settings["num_inference_steps"] or speed_of(settings["speed"]).steps_of(studio.preset)
    if settings["init"]:
        num_steps = max(steps_left(num_steps, settings["strength"]), 1)
    seconds = pace.seconds(num_frames=num_frames, num_steps=num_steps, loop=settings["loop"]) * settings["freeinit"]
    measured = "a step of one frame" if pace.measured_frames == 1 else "a step"
    click.echo(f"time: about {duration(seconds)}: {num_steps} steps, as {measured} took just now", err=True)


def default_outs(prompt: str, *suffixes: str) -> tuple[Path, ...]:
    """A name from the prompt that is not taken yet with any of the suffixes, in the working folder."""
    stem = slug(prompt)[:60]
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    every = (tuple(Path(f"{name}.{suffix}") for suffix in suffixes) for name in names)
    return next(paths for paths in every if not any(path.exists() for path in paths))


def render_again(source: Path, outs: Sequence[Path], *, still: bool, device: str, offline: bool) -> None:
    """Renders what made `source`, a clip or a `still`, once more, from the record inside it, and saves it."""
    record = read_record(source)
    if record is None:
        raise UserError(f"{source} does not say how it was made", remedy="give --prompt and the settings")
    if still and "frames" in record:
        raise UserError(f"{source} is a clip, not a picture", remedy=f"cdvideo animate --replay {source}")
    if not still and record.get("kind") == "still":
        raise UserError(f"{source} is a picture, not a clip", remedy=f"cdvideo image --replay {source}")
    destinations = tuple(outs) or default_outs(f"{source.stem}-again", *(("png",) if still else ("mp4", "gif")))
    for path in destinations:
        check_destination(path, num_frames=record.get("frames"), fps=record.get("resampled", {}).get("interpolate") or record.get("fps"))
    with steps_bar("rendering again") as on_step:
        clip = replay(record, source, device=device, offline=offline, on_step=on_step)
    save(clip, destinations)


def save(clip: Clip, destinations: Sequence[Path]) -> None:
    for path in destinations:
        write(clip, path)
        click.echo(f"wrote {path}")
