"""What a film's pixels come from besides its plan: a base, a motion module, concepts and camera moves, each known by its fingerprint.

Fingerprints are over weights, which take time to load. A film's folder remembers them by the weights' files (path, size and time of
change), so that what lies there already is found without loading anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cdvideo.base.catalog import BasePreset, motion_preset_for, preset_for
from cdvideo.base.device import resolve_device, resolve_dtype
from cdvideo.base.loading import locate_base
from cdvideo.base.lora import locate_lora
from cdvideo.concept import Concept
from cdvideo.errors import UserError
from cdvideo.files import replace_files
from cdvideo.motion.loading import locate_motion
from cdvideo.motion.lora import locate_motion_lora, parse_camera
from cdvideo.storyboard.planning import FilmPlan

MEMORY = "fingerprints.json"

Stamp = list[list[Any]]
"""What tells a model's files from others without reading them: path, size and time of change of each."""


@dataclass(frozen=True, kw_only=True)
class Makings:
    """`base` and `motion` are fingerprints; `concepts` and `cameras` are some by file, and by a camera move's source.

    `preset` is the base's as the motion module needs it, and `loras` describe what that and the film's look put into the image model.
    """

    preset: BasePreset
    base: str
    motion: str
    dtype: torch.dtype
    concepts: Mapping[Path, str]
    cameras: Mapping[str, str]
    loras: Sequence[Mapping[str, Any]] = ()


def concept_files(plan: FilmPlan) -> list[Path]:
    return list(dict.fromkeys(path for shot in plan.shots for path in shot.concepts))


def camera_sources(plan: FilmPlan) -> list[str]:
    return list(dict.fromkeys(parse_camera(move)[0] for shot in plan.shots for move in shot.cameras))


def remembered(plan: FilmPlan, folder: Path, *, device: str, dtype: str) -> Makings | None:
    """The makings of a film whose takes are kept in `folder`, or None where one of them is not remembered there. Loads no base."""
    chosen = resolve_dtype(dtype, resolve_device(device))
    memory = _read(folder / MEMORY)

    def recalled(kind: str, name: str, preset: BasePreset | None = None) -> dict[str, Any]:
        entry = memory[_key(kind, name, chosen)]
        if entry["files"] != stamp(_files(kind, name, chosen, preset)):
            raise KeyError(name)
        return dict(entry)

    try:
        base = recalled("base", plan.base)
        preset = preset_for(base["unet"])
        name = plan.motion or preset.default_motion
        motion = recalled("motion", name)
        preset = preset.with_motion(motion_preset_for(locate_motion(name, half=chosen != torch.float32, offline=True)[0]))
        cameras = {source: recalled("camera", source, preset)["fingerprint"] for source in camera_sources(plan)}
        loras = {
            entry["digest"]: entry
            for entry in (
                *motion["loras"],
                *({**recalled("lora", source)["lora"], "strength": strength} for source, strength in plan.loras),
            )
        }
    except (KeyError, TypeError, UserError):
        return None
    return Makings(
        preset=preset,
        base=base["fingerprint"],
        motion=motion["fingerprint"],
        dtype=chosen,
        concepts={path: Concept.load(path).digest for path in concept_files(plan)},
        cameras=cameras,
        loras=list(loras.values()),
    )


def remember(plan: FilmPlan, folder: Path, makings: Makings, unet_config: Mapping[str, Any]) -> None:
    """Notes in `folder` what `remembered` needs. What others noted there meanwhile is kept."""
    preset = makings.preset
    told = {name: unet_config.get(name) for name in ("cross_attention_dim", "sample_size")}
    motion = plan.motion or preset.default_motion
    own = [source for source, _ in plan.loras]
    new: dict[tuple[str, str], dict[str, Any]] = {
        ("base", plan.base): {"fingerprint": makings.base, "unet": told},
        ("motion", motion): {"fingerprint": makings.motion, "loras": [one for one in makings.loras if one["file"] not in own]},
    }
    new |= {("camera", source): {"fingerprint": fingerprint} for source, fingerprint in makings.cameras.items()}
    new |= {("lora", one["file"]): {"lora": one} for one in makings.loras if one["file"] in own}
    memory = _read(folder / MEMORY)
    entries = {
        _key(kind, name, makings.dtype): {"files": stamp(_files(kind, name, makings.dtype, preset)), **entry}
        for (kind, name), entry in new.items()
    }
    if memory | entries != memory:
        text = json.dumps(memory | entries, indent=1)
        replace_files(folder / MEMORY, [(folder / MEMORY, text.encode())])


def stamp(files: Iterable[Path]) -> Stamp:
    """What the files are known by without being read."""
    found = [(file, file.stat()) for file in sorted(files)]
    return [[str(file), stat.st_size, stat.st_mtime_ns] for file, stat in found]


def files_below(path: Path) -> list[Path]:
    """The file itself, or all files of a folder."""
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]


def _files(kind: str, name: str, dtype: torch.dtype, preset: BasePreset | None) -> list[Path]:
    """The files of a model; raises UserError where it is not on this machine."""
    half = dtype != torch.float32
    if kind == "base":
        path = locate_base(name, half=half, offline=True)[1]
    elif kind == "motion":
        path = locate_motion(name, half=half, offline=True)[1]
    elif kind == "lora":
        path = locate_lora(name, offline=True)
    else:
        assert preset is not None
        path = locate_motion_lora(name, kind=preset.kind, offline=True)[1]
    return files_below(path)


def _key(kind: str, name: str, dtype: torch.dtype) -> str:
    return f"{kind} {name} {dtype}"


def _read(file: Path) -> dict[str, Any]:
    """The memory in a file; an empty one where there is none, or none that can be read."""
    try:
        memory = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return memory if isinstance(memory, dict) else {}
