"""Motion modules from an alias, the hub, a diffusers folder, or AnimateDiff's own checkpoints."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cdvideo.base import Base, recognise
from cdvideo.base.catalog import MOTIONS, motion_preset_for
from cdvideo.base.hub import fetch
from cdvideo.base.layout import choose, motion_requirements, weight_files
from cdvideo.base.loading import locate
from cdvideo.base.lora import load_lora
from cdvideo.base.weights import State, read_json, read_tensors
from cdvideo.errors import UserError
from cdvideo.motion.attach import check_widths
from cdvideo.motion.lora_layout import RENAMED
from cdvideo.motion.module import POSITIONS, MotionModule, adapter_settings
from cdvideo.resources import resource

ADAPTER_CONFIG = "cdvideo_motion_adapter"
"""Where a file's header keeps a `MotionAdapter`'s configuration, as JSON."""
_POSITIONS = re.compile(r"\.attention_blocks\.(\d+)\.pos_encoder\.pe$")


def load_motion(source: str, *, base_unet: Any, dtype: torch.dtype, device: torch.device, offline: bool = False) -> MotionModule:
    """The motion module of an alias, a hub id, a folder with a `MotionAdapter`, or an AnimateDiff checkpoint of v1, v2 or v3.

    Raises UserError where it cannot be found or read, is something else (and says what), or belongs to another base than `base_unet`.
    """
    half = dtype != torch.float32
    canonical_id, path = locate_motion(source, half=half, offline=offline)
    file, config = file_and_config(path, half=half)
    state = read_tensors(file)
    _check_kind(file, state)
    settings = adapter_settings(config, source) if config else {}
    module = MotionModule.from_state(
        renamed(state, source), source=source, canonical_id=canonical_id, dtype=dtype, device=device, **settings
    )
    check_widths(base_unet, module)
    return replace(module, preset=motion_preset_for(canonical_id))


def locate_motion(source: str, *, half: bool, offline: bool = False) -> tuple[str, Path]:
    """(canonical id, local path) of a motion module; `half` prefers fp16 files. Raises UserError where it cannot be found."""
    return locate(
        source,
        kind="motion module",
        aliases=MOTIONS,
        shipped=lambda name: resource("motion_modules", name),
        fetch_from_hub=lambda location: fetch(location, motion_requirements(half=half), what="motion module", offline=offline),
    )


def motion_for(base: Base, source: str | None = None, *, offline: bool = False) -> MotionModule:
    """The motion module of `source`, or the base's own where that is None, for the base in its precision and on its device.

    A known module that needs LoRAs in the image model comes with them, for a `Studio` to put in.

    Raises UserError as `load_motion` does.
    """
    chosen = source or base.preset.default_motion
    module = load_motion(chosen, base_unet=base.unet, dtype=base.dtype, device=base.device, offline=offline)
    own = module.preset.loras if module.preset else ()
    return replace(module, loras=tuple((load_lora(name, base=base, offline=offline), strength) for name, strength in own))


def file_and_config(path: Path, *, half: bool) -> tuple[Path, dict[str, Any]]:
    """The file of a motion module's tensors, and the configuration that comes with it; {} where none does.

    `half` prefers a folder's fp16 file. Raises UserError for a folder that is no motion module's.
    """
    if path.is_dir():
        return _file_in(path, half), read_json(path / "config.json")
    return path, _config_inside(path) or _config_beside(path)


def _config_inside(file: Path) -> dict[str, Any]:
    """The configuration that a conversion left in the header of a file in AnimateDiff's layout."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            return dict(json.loads((opened.metadata() or {}).get(ADAPTER_CONFIG, "{}")))
    except (SafetensorError, OSError):
        return {}
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} has a damaged header", cause=f"its {ADAPTER_CONFIG}: {error}", remedy="convert it again") from error


def _file_in(folder: Path, half: bool) -> Path:
    if (folder / "model_index.json").is_file():
        raise UserError(f"{folder} is no motion module", cause="it is a base model", remedy="give it with --base")
    missing = choose(motion_requirements(half=half), lambda name: (folder / name).is_file())[1]
    if missing:
        raise UserError(
            f"{folder} is no motion module", cause=f"it lacks {', '.join(missing)}", remedy="give a folder with a MotionAdapter"
        )
    return folder / choose([weight_files("", half=half)], lambda name: (folder / name).is_file())[0][0]


def _config_beside(file: Path) -> dict[str, Any]:
    """The configuration beside a file taken out of a `MotionAdapter`'s folder, if that is what it is."""
    config = file.parent / "config.json"
    if file.stem.startswith("diffusion_pytorch_model") and config.is_file():
        return read_json(config)
    return {}


def _check_kind(file: Path, state: State) -> None:
    kind = recognise.describe({name: tuple(value.shape) for name, value in state.items()})
    if kind == recognise.MOTION:
        return
    remedy = "give a motion module, such as --motion v2"
    if kind == recognise.MOTION_LORA:
        remedy = "a MotionLoRA goes on top of a motion module: give it with --camera, and the module itself with --motion"
    elif kind == recognise.SD15:
        remedy = "give it with --base"
    raise UserError(f"{file} is no motion module", cause=f"it is {recognise.with_article(kind)}", remedy=remedy)


def renamed(state: State, source: str) -> State:
    """The tensors under `MotionAdapter`'s names. AnimateDiff's original files hold each position table once for each attention."""
    result: State = {}
    for original, value in state.items():
        name = original.removeprefix("module.")
        if _POSITIONS.search(name):
            name = _POSITIONS.sub(POSITIONS, name)
        for old, new in RENAMED:
            name = name.replace(old, new)
        if name in result and not (name.endswith(POSITIONS) and torch.equal(result[name], value)):
            raise UserError(f"the motion module {source} cannot be used", cause=f"it holds {name} twice, with different values")
        result[name] = value
    return result
