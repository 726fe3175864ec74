"""Motion modules and MotionLoRAs out of one layout into the other: AnimateDiff's own files, and diffusers' folders and files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from cdvideo.base import recognise
from cdvideo.base.low_rank import adapter_settings as lora_settings
from cdvideo.base.weights import State, check_same, converted, read_tensors
from cdvideo.errors import UserError
from cdvideo.files import Content, check_free, replace_files
from cdvideo.motion.loading import ADAPTER_CONFIG, file_and_config, locate_motion, renamed
from cdvideo.motion.lora import lora_file
from cdvideo.motion.lora_layout import RENAMED, diffusers_state, motion_changes, official_state
from cdvideo.motion.module import NUM_HEADS, NUM_NORM_GROUPS, POSITIONS, MotionModule, adapter_settings, position_table

LAYOUTS = ("diffusers", "original")
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
_SUFFIXES = (".safetensors", ".ckpt")


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was converted: its kind ("AnimateDiff v2 motion module"), its layout then and now, what it holds, and the files written.

    `rounded` says that a MotionLoRA's scales were multiplied into its matrices, which is not exact unless they are powers of two.
    """

    kind: str
    layout: str
    to: str
    details: str
    files: tuple[Path, ...]
    rounded: bool = False


@dataclass(frozen=True)
class _Read:
    """A motion module's or MotionLoRA's tensors, in the layout that is asked for, and the configuration that goes with a module's."""

    kind: str
    layout: str
    details: str
    state_in: Callable[[str], State]
    config: Mapping[str, Any] | None = None
    rounded: bool = False


def convert(
    source: str, out: Path, *, to: str | None = None, dtype: str | None = None, overwrite: bool = False, offline: bool = False
) -> Conversion:
    """Writes the motion module or MotionLoRA of an alias, hub id, folder or file in the layout `to`, by default the one it is not in.

    Tensors stay as they are, bit for bit, unless `dtype` is "fp16" or "fp32". A module becomes a folder for diffusers and a file for
    AnimateDiff; position tables that were left out are filled in. A MotionLoRA becomes a file, or for diffusers a folder where `out` names
    one. Raises UserError for what is neither, for numbers that `dtype` cannot hold, and where `out` cannot be written.
    """
    path = locate_motion(source, half=False, offline=offline)[1]
    read = _read(source, path)
    target = to or next(layout for layout in LAYOUTS if layout != read.layout)
    file = _file_for(out, target, is_module=read.config is not None)
    beside = {out / "config.json": _config_bytes(read.config)} if read.config is not None and target == "diffusers" else {}
    check_free([file, *beside], overwrite=overwrite)
    state = _in_dtype(read.state_in(target), source, dtype)
    if read.config is not None and file.suffix == ".ckpt":
        _check_needs_no_config(read.config, file)
    files: dict[Path, Content] = {**beside, file: _content(state, file, read.config if target == "original" else None)}
    replace_files(out, files.items())
    return Conversion(
        kind=read.kind, layout=read.layout, to=target, details=f"{read.details}, {_dtypes(state)}", files=tuple(files), rounded=read.rounded
    )


def _read(source: str, path: Path) -> _Read:
    is_lora_folder = path.is_dir() and not any((path / name).is_file() for name in ("config.json", "model_index.json"))
    file, config = (lora_file(path), {}) if is_lora_folder else file_and_config(path, half=False)
    state = read_tensors(file)
    kind = recognise.describe({name: tuple(value.shape) for name, value in state.items()})
    layout = "original" if any(".temporal_transformer." in name for name in state) else "diffusers"
    if kind == recognise.MOTION:
        return _module(source, layout, renamed(state, source), config)
    if kind == recognise.MOTION_LORA:
        return _lora(source, layout, state, file)
    raise UserError(
        f"{source} is neither a motion module nor a MotionLoRA",
        cause=f"it is {recognise.with_article(kind)}",
        remedy="give an AnimateDiff file such as mm_sd_v15_v2.ckpt, or a diffusers folder with a MotionAdapter",
    )


def _module(source: str, layout: str, state: State, config: Mapping[str, Any]) -> _Read:
    module = MotionModule.from_state(state, source=source, **(adapter_settings(config, source) if config else {}))
    if not config and not any(name.endswith(POSITIONS) for name in state):
        raise UserError(
            f"{source} does not say how many frames it is made for",
            cause="it has no position tables and there is no config.json beside it",
            remedy="give the folder that it is from",
        )
    if not module.widths:
        raise UserError(f"{source} is no whole motion module", cause="it lacks down_blocks.0.motion_modules.0.norm.weight")
    complete = {**_defaults(), **(config or _config(module))}
    whole = _with_tables(state, complete, source)

    def state_in(to: str) -> State:
        if to == "diffusers":
            return whole
        return {
            original: value if number == 0 else value.clone()
            for name, value in whole.items()
            for number, original in enumerate(_original_names(name))
        }

    return _Read(f"AnimateDiff {module.version} motion module", layout, f"{module.max_frames} frames", state_in, complete)


def _defaults() -> dict[str, Any]:
    import diffusers

    return {"_class_name": "MotionAdapter", "_diffusers_version": diffusers.__version__}


def _config(module: MotionModule) -> dict[str, Any]:
    """`MotionAdapter`'s arguments, as the module's tensors say."""

    def num_modules(block: str) -> int:
        pattern = re.compile(rf"{re.escape(block)}\.motion_modules\.(\d+)\.")
        return len({match[1] for name in module.state if (match := pattern.match(name))})

    return {
        "block_out_channels": list(module.widths),
        "motion_layers_per_block": [num_modules(f"down_blocks.{level}") for level in range(len(module.widths))],
        "motion_mid_block_layers_per_block": max(1, num_modules("mid_block")),
        "motion_transformer_layers_per_block": module.num_transformer_layers,
        "motion_transformer_layers_per_mid_block": module.num_transformer_layers,
        "motion_num_attention_heads": module.num_heads,
        "motion_norm_num_groups": module.num_norm_groups,
        "motion_max_seq_length": module.max_frames,
        "use_motion_mid_block": module.has_mid_block,
        "conv_in_channels": None,
    }


def _with_tables(state: State, config: Mapping[str, Any], source: str) -> State:
    """The tensors with the position tables that were left out, in `MotionAdapter`'s order. Raises UserError where it has not just them."""
    from diffusers import MotionAdapter

    arguments = {name: value for name, value in config.items() if not name.startswith("_")}
    try:
        with torch.device("meta"):
            own = MotionAdapter(**arguments).state_dict()
    except (TypeError, ValueError, IndexError) as error:
        raise UserError(f"{source} is no motion module that can be used", cause=f"its configuration: {error}") from error
    dtype = next(iter(state.values())).dtype
    tables = {
        name: position_table(value.shape[-1], value.shape[1]).to(dtype)
        for name, value in own.items()
        if name.endswith(POSITIONS) and name not in state
    }
    whole = {**state, **tables}
    check_same(own, whole, what="motion module", where=source)
    return {name: whole[name] for name in own}


def _original_names(name: str) -> list[str]:
    """AnimateDiff's name of a `MotionAdapter`'s tensor; of a position table both, since each attention has its own."""
    if name.endswith(POSITIONS):
        stem = _original_names(name.removesuffix(POSITIONS) + ".")[0].removesuffix(".")
        return [f"{stem}.attention_blocks.{number}.pos_encoder.pe" for number in (0, 1)]
    name = re.sub(r"(\.motion_modules\.\d+\.)", r"\1temporal_transformer.", name)
    for theirs, ours in RENAMED[1:]:
        name = name.replace(ours, theirs)
    return [name]


def _lora(source: str, layout: str, state: State, file: Path) -> _Read:
    changes = motion_changes(state, source, lora_settings(file))

    def state_in(to: str) -> State:
        if to == "diffusers":
            return diffusers_state(changes)
        try:
            return official_state(changes)
        except ValueError as error:
            raise UserError(
                f"{source} cannot be written in AnimateDiff's layout", cause=str(error), remedy="use it as it is, with --camera"
            ) from error

    ranks = sorted({low_rank.down.shape[0] for low_rank in changes.values()})
    details = f"{len(changes)} layers of rank {', '.join(map(str, ranks))}"
    return _Read("AnimateDiff MotionLoRA", layout, details, state_in, rounded=any(low_rank.scale != 1 for low_rank in changes.values()))


def _file_for(out: Path, to: str, *, is_module: bool) -> Path:
    """The file that holds the tensors. Raises UserError where `out` is no name for what is written."""
    is_file = out.suffix in (*_SUFFIXES, ".bin", ".pt", ".pth")
    if to == "diffusers" and not is_file:
        return out / ("diffusion_pytorch_model.safetensors" if is_module else "pytorch_lora_weights.safetensors")
    if to == "diffusers" and is_module:
        raise UserError(
            f"diffusers keeps a motion module in a folder, and {out} is a file's name", remedy=f"give --out {out.with_suffix('')}"
        )
    allowed = _SUFFIXES if to == "original" else _SUFFIXES[:1]
    if out.suffix not in allowed:
        remedy = f"give --out {out.with_suffix('.safetensors')}"
        raise UserError(f"{out} is no name for what is written", cause=f"it ends in none of {', '.join(allowed)}", remedy=remedy)
    return out


def _in_dtype(state: State, source: str, dtype: str | None) -> State:
    """The tensors in a precision; None is as they are. Raises UserError naming the first that overflows."""
    cast = {name: converted(value, DTYPES[dtype], None) if dtype else value for name, value in state.items()}
    for name, value in cast.items():
        if value is not state[name] and not torch.isfinite(value).all() and torch.isfinite(state[name]).all():
            raise UserError(f"{source} does not fit into {dtype}", cause=f"{name} holds larger numbers", remedy="leave --dtype out")
    return cast


def _check_needs_no_config(config: Mapping[str, Any], file: Path) -> None:
    own = (config.get("motion_num_attention_heads", NUM_HEADS), config.get("motion_norm_num_groups", NUM_NORM_GROUPS))
    if own != (NUM_HEADS, NUM_NORM_GROUPS):
        raise UserError(
            f"{file.suffix} files cannot hold this motion module",
            cause=f"it has {own[0]} heads and {own[1]} groups, not AnimateDiff's {NUM_HEADS} and {NUM_NORM_GROUPS}, and nowhere to say so",
            remedy=f"give --out {file.with_suffix('.safetensors')}, which says it",
        )


def _config_bytes(config: Mapping[str, Any]) -> bytes:
    return (json.dumps(dict(sorted(config.items())), indent=2) + "\n").encode()


def _content(state: State, file: Path, config: Mapping[str, Any] | None) -> Content:
    def pickled(opened: BinaryIO) -> None:
        torch.save({"state_dict": state}, opened)

    def plain(opened: BinaryIO) -> None:
        from safetensors.torch import save

        metadata = {"format": "pt"} | ({ADAPTER_CONFIG: json.dumps(config)} if config is not None else {})
        opened.write(save({name: value.contiguous() for name, value in state.items()}, metadata=metadata))

    return pickled if file.suffix == ".ckpt" else plain


def _dtypes(state: State) -> str:
    names = {torch.float16: "fp16", torch.float32: "fp32", torch.bfloat16: "bf16"}
    return " and ".join(sorted({names.get(value.dtype, str(value.dtype)) for value in state.values()}))
