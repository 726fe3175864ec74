"""Rendering a clip again from the record in its file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdvideo import base, motion
from cdvideo.animate.render import Studio
from cdvideo.animate.reuse import EXACT, recorded_speed
from cdvideo.animate.settings import describe_cameras
from cdvideo.animate.starting import start_from
from cdvideo.base.device import threads_of
from cdvideo.base.lora import ImageLora, load_lora
from cdvideo.concept import CONCEPTS, Concept
from cdvideo.errors import UserError, UserNote
from cdvideo.sampling import OnStep
from cdvideo.video import Clip
from cdvideo.video.resampling import resampled


def replay(record: Mapping[str, Any], source: Path, *, device: str = "auto", offline: bool = False, on_step: OnStep | None = None) -> Clip:
    """The clip, or still, of the record in `source`, rendered again: the same frames on the same kind of device and versions.

    A CPU computes with as many threads as then, where it has as many processors. Raises UserError that names what is missing or differs:
    base, motion module, camera move, LoRA or concept.
    """
    if record.get("kind") not in ("clip", "still"):
        raise UserError(
            f"{source} cannot be rendered again",
            cause=f"its record is of a {record.get('kind') or 'file without a kind'}, not of a clip or a still",
            remedy="a film is rendered by: cdvideo storyboard render",
        )
    threads = record.get("threads")
    try:
        # More than there are processors would take much longer.
        with threads_of(threads if threads and threads <= (os.cpu_count() or 1) else None):
            return _replay(record, source, device, offline, on_step)
    except KeyError as missing:
        cause = f"its record lacks {missing}; it was made by cdvideo {record.get('versions', {}).get('cdvideo', 'of an unknown version')}"
        raise UserError(f"{source} cannot be rendered again", cause=cause, remedy="give the prompt and settings by hand") from missing


def _replay(record: Mapping[str, Any], source: Path, device: str, offline: bool, on_step: OnStep | None) -> Clip:
    speed = recorded_speed(record["speed"]) if record["kind"] == "clip" else EXACT
    loaded = base.load(record["base"], device=device, dtype=_dtype_name(record["dtype"]), offline=offline)
    _same(source, f"the base {record['base']}", record["base_fingerprint"], loaded.fingerprint)
    changed = [
        f"{name} {was} then, {base.versions().get(name)} now"
        for name, was in record["versions"].items()
        if base.versions().get(name) != was
    ]
    if changed:
        warnings.warn(f"other versions may render other pixels: {', '.join(changed)}", UserNote, stacklevel=3)
    concepts = [(_concept(entry, source), float(entry["strength"])) for entry in record["concepts"]]
    settings = {name: record[name] for name in ("negative", "seed", "schedule", "sampler")}
    settings |= {"size": tuple(record["size"]), "num_inference_steps": record["steps"], "guidance_scale": record["guidance"]}
    settings |= _init(record, source)
    loras = [(_lora(entry, source, loaded, offline), float(entry["strength"])) for entry in record.get("loras", ())]
    if record["kind"] == "still":
        with Studio(loaded, concepts, joining=record["joining"], loras=loras) as studio:
            return studio.still(record["prompt"], **settings, on_step=on_step)
    module = motion.motion_for(loaded, record["motion"], offline=offline)
    _same(source, f"the motion module {record['motion']}", record["motion_fingerprint"], module.fingerprint)
    with Studio(loaded, concepts, module, motion_norm=record["motion_norm"], joining=record["joining"], loras=loras) as studio:
        cameras = studio.camera_moves([(move["name"], float(move["strength"])) for move in record["cameras"]], offline=offline)
        for move, now in zip(record["cameras"], describe_cameras(cameras), strict=True):
            _same(source, f"the camera move {move['name']}", move["fingerprint"], now["fingerprint"])
        clip = studio.clip(
            **settings,
            **_over_time(record),
            num_frames=record["frames"],
            fps=record["fps"],
            cameras=cameras,
            loop=record["loop"],
            freeinit=record["freeinit"],
            speed=speed,
            on_step=on_step,
        )
    return resampled(clip, **record.get("resampled", {}))


def _over_time(record: Mapping[str, Any]) -> dict[str, Any]:
    """What changes over a clip, with the frames as numbers again."""
    prompts = record["prompts"] or {"0": record["prompt"]}
    return {
        "prompts": {int(frame): prompt for frame, prompt in prompts.items()},
        "travel": record["travel"],
        "concept_strengths": [{int(frame): value for frame, value in course.items()} for course in record["concept_strengths"]],
    }


def _init(record: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """What the frames started from: its file, where it was or beside the clip, known by what it looks like."""
    if (entry := record.get("init")) is None:
        return {}
    if not entry["file"]:
        raise UserError(
            f"what {source} started from is in no file",
            cause="it was a clip in memory, as a shot's that continues the one before it",
            remedy="render that again: a film's shot with cdvideo storyboard render",
        )
    name = Path(entry["file"])
    num_frames = record.get("frames")
    for path in dict.fromkeys([name, source.parent / name.name]):
        if path.exists():
            start = start_from(path, entry["strength"], size=tuple(record["size"]), num_frames=num_frames)
            if start.digest == entry["digest"]:
                return {"init": path, "strength": entry["strength"]}
    raise UserError(
        f"what {source} started from is not here",
        cause=f"{name} {'shows other frames now' if name.exists() else 'does not exist'}",
        remedy=f"put the file of then at {name}",
    )


def _dtype_name(dtype: str) -> str:
    return {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}[dtype]


def _same(source: Path, what: str, then: str, now: str) -> None:
    if then != now:
        raise UserError(
            f"{source} was made with other weights",
            cause=f"{what} had the fingerprint {then} then and has {now} now",
            remedy="find the weights of then, or render anew from the prompt",
        )


def _lora(entry: Mapping[str, Any], source: Path, loaded: base.Base, offline: bool) -> ImageLora:
    """The LoRA of a record's entry: by its name of then, or beside the clip, known by its digest."""
    beside = source.parent / Path(entry["file"]).name
    name = str(beside) if beside.exists() and not Path(entry["file"]).exists() else entry["file"]
    found = load_lora(name, base=loaded, offline=offline)
    _same(source, f"the LoRA {name}", entry["digest"], found.digest)
    return found


def _concept(entry: Mapping[str, Any], source: Path) -> Concept:
    """The concept of a record's entry: where it was, beside the clip, or under `concepts/`, known by its digest."""
    name = Path(entry["file"] or "concept.safetensors")
    candidates = dict.fromkeys([name, source.parent / name.name, *sorted(CONCEPTS.glob("*.safetensors"))])
    found = []
    for path in candidates:
        if not path.exists():
            continue
        try:
            concept = Concept.load(path)
        except UserError:
            if path == name:
                raise
            continue
        if concept.digest == entry["digest"]:
            return concept
        found.append(path)
    others = ", ".join(map(str, found))
    raise UserError(
        f"the concept of {', '.join(entry['tokens'])} that made {source} is not here",
        cause=f"{others} differ{'s' if len(found) == 1 else ''} from it" if found else f"there is no {name}",
        remedy=f"put the file that it was made with at {name}",
    )
