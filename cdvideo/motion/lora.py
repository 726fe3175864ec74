"""MotionLoRAs: small changes to a motion module's attention, each for one move of the camera (Guo et al. 2023, section 4.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cdvideo.base import recognise
from cdvideo.base.catalog import CAMERAS
from cdvideo.base.hub import fetch
from cdvideo.base.layout import choose, lora_requirements
from cdvideo.base.loading import locate
from cdvideo.base.low_rank import LowRank, LowRankInjection, adapter_settings
from cdvideo.base.weights import State, digest, read_tensors
from cdvideo.errors import UserError
from cdvideo.files import replace_files
from cdvideo.motion.lora_layout import motion_changes, official_state
from cdvideo.motion.module import MotionModule
from cdvideo.resources import resource
from cdvideo.strengths import split_strength


@dataclass(frozen=True, kw_only=True)
class MotionLora:
    """Changes to layers of a motion module, under diffusers' names. `fingerprint` is over the tensors as they lie in the file."""

    source: str
    canonical_id: str
    layers: Mapping[str, LowRank]
    fingerprint: str

    @classmethod
    def from_state(
        cls, state: State, *, source: str, canonical_id: str | None = None, settings: Mapping[str, Any] | None = None
    ) -> MotionLora:
        """The MotionLoRA of these tensors, in any layout that `motion_changes` reads."""
        return cls(
            source=source,
            canonical_id=canonical_id or source,
            layers=motion_changes(state, source, settings),
            fingerprint=digest(state, lambda value: value.float().contiguous().view(torch.uint8)),
        )


WeightedLora = tuple[MotionLora, float]
"""A MotionLoRA and its strength; 1 is what it was trained for, a negative one moves the other way."""


class LoraInjection(LowRankInjection):
    """MotionLoRAs inside a motion module or a UNet that it is attached to, bit-identical to before once they are ejected.

    A motion module takes them before it is attached, a motion UNet afterwards. Several add up. Raises UserError where one does not fit.
    """

    def __init__(self, target: MotionModule | nn.Module, loras: Sequence[WeightedLora]) -> None:
        weights = _weights(target) if loras else {}
        for lora, _ in loras:
            _check_fits(lora, weights)
        super().__init__(weights, [(lora.layers, strength) for lora, strength in loras])


def _weights(target: MotionModule | nn.Module) -> dict[str, Tensor]:
    """The matrices of all layers in the motion modules, by layer, in the target's own memory."""
    state = target.state if isinstance(target, MotionModule) else target.state_dict()
    return {
        name.removesuffix(".weight"): value
        for name, value in state.items()
        if ".motion_modules." in name and name.endswith(".weight") and value.ndim == 2
    }


def _check_fits(lora: MotionLora, weights: Mapping[str, Tensor]) -> None:
    for layer, low_rank in lora.layers.items():
        if layer not in weights:
            cause = f"it changes {layer}, which the module has not"
            if layer.startswith("mid_block.") and not any(name.startswith("mid_block.") for name in weights):
                cause = "it is made for a module with a middle block (AnimateDiff v2), and this one has none"
            raise _misfit(lora, cause)
        if low_rank.shape != weights[layer].shape:
            width, own = low_rank.shape[1], weights[layer].shape[1]
            cause = f"it is made for a module of width {width}, this one has {own} (in {layer})"
            if width == own:
                cause = f"{layer} is {low_rank.shape} in the MotionLoRA, {tuple(weights[layer].shape)} in the module"
            raise _misfit(lora, cause)


def _misfit(lora: MotionLora, cause: str) -> UserError:
    return UserError(
        f"the MotionLoRA {lora.source} does not fit the motion module",
        cause=cause,
        remedy="give one that was trained on this motion module, or choose that module with --motion",
    )


def load_motion_lora(source: str, *, motion: MotionModule, kind: str, offline: bool = False) -> MotionLora:
    """The MotionLoRA of a camera move's name, a hub id, a diffusers folder or a file, which fits `motion`.

    `kind` is the base's (`BasePreset.kind`) and decides what the names stand for. Raises UserError where it cannot be found or read, is
    something else (and says what), or was made for another module.
    """
    canonical_id, path = locate_motion_lora(source, kind=kind, offline=offline)
    file = lora_file(path) if path.is_dir() else path
    state = read_tensors(file)
    _check_kind(file, state)
    lora = MotionLora.from_state(state, source=source, canonical_id=canonical_id, settings=adapter_settings(file))
    _check_fits(lora, _weights(motion))
    return lora


def locate_motion_lora(source: str, *, kind: str, offline: bool = False) -> tuple[str, Path]:
    """(canonical id, local path) of a MotionLoRA; `kind` is the base's. Raises UserError where it cannot be found."""
    aliases = CAMERAS[kind]
    return locate(
        source,
        kind="camera move",
        aliases=aliases,
        shipped=lambda name: resource(*aliases[name].home.split("/")),
        fetch_from_hub=lambda location: fetch(location, lora_requirements(), what="MotionLoRA", offline=offline),
    )


def lora_file(folder: Path) -> Path:
    """The MotionLoRA's file in a folder. Raises UserError where there is none."""
    files, missing = choose(lora_requirements(), lambda name: (folder / name).is_file())
    if missing:
        raise UserError(f"{folder} holds no MotionLoRA", cause=f"it lacks {missing[0]}", remedy="give the file itself")
    return folder / files[0]


def _check_kind(file: Path, state: State) -> None:
    remedies = {
        recognise.MOTION: "give it with --motion",
        recognise.SD15: "give it with --base",
        "a LoRA": "it changes the base's pictures, not their motion; give a MotionLoRA, such as --camera zoom-in",
    }
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    otherwise = "give a MotionLoRA, such as --camera zoom-in"
    recognise.refuse_others(recognise.MOTION_LORA, shapes, str(file), called="MotionLoRA", remedies=remedies, otherwise=otherwise)


def parse_camera(text: str) -> tuple[str, float]:
    """(source, strength) from "zoom-in" or "pan-left:0.6". Raises UserError for a strength that is no finite number."""
    return split_strength(text, what="a camera move", example="zoom-in:0.6")


def save_motion_lora(path: Path, state: State) -> None:
    """Writes tensors in any layout of a MotionLoRA as AnimateDiff's own, in fp16, whole or not at all. Alphas go into `up`."""
    from safetensors.torch import save

    tensors = {name: value.half().cpu().contiguous() for name, value in official_state(motion_changes(state, str(path))).items()}
    replace_files(path, [(path, save(tensors, metadata={"format": "pt"}))])
