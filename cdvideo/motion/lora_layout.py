"""The names that a MotionLoRA's tensors may have in a file: AnimateDiff's own, diffusers' and peft's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cdvideo.base.low_rank import LowRank, low_rank_changes
from cdvideo.base.weights import State
from cdvideo.errors import UserError

RENAMED = (
    (".temporal_transformer.", "."),
    (".attention_blocks.0.", ".attn1."),
    (".attention_blocks.1.", ".attn2."),
    (".norms.0.", ".norm1."),
    (".norms.1.", ".norm2."),
    (".ff_norm.", ".norm3."),
)
"""AnimateDiff's names for the parts of a motion transformer, and diffusers'."""

_PREFIXES = ("module.", "base_model.model.", "unet.")
_LAYER = re.compile(r"(?P<place>.+\.motion_modules\.\d+)\.(?P<block>transformer_blocks\.\d+)\.attn(?P<attention>[12])\.(?P<matrix>to_\w+)")


def motion_changes(state: State, source: str, settings: Mapping[str, Any] | None = None) -> dict[str, LowRank]:
    """The changes by layer, under diffusers' names, such as `mid_block.motion_modules.0.transformer_blocks.0.attn1.to_q`.

    Alphas and `settings` count as `low_rank_changes` says. Raises UserError for a tensor of another kind and for a pair that is not whole.
    """
    return low_rank_changes(state, _layer, lambda cause: _unreadable(source, cause), settings)


def official_state(changes: Mapping[str, LowRank]) -> State:
    """The changes as AnimateDiff's own files hold them, which know no alpha: what it scales by is multiplied into `up`.

    Raises ValueError for a layer that is no attention of a motion module.
    """
    state: State = {}
    for layer, low_rank in changes.items():
        state[official_name(layer, "down")] = low_rank.down
        state[official_name(layer, "up")] = _scaled_up(low_rank)
    return state


def diffusers_state(changes: Mapping[str, LowRank]) -> State:
    """The changes as diffusers saves them, under peft's names; what an alpha scales by is multiplied into `lora_B`."""
    state: State = {}
    for layer, low_rank in changes.items():
        state[f"unet.{layer}.lora_A.weight"] = low_rank.down
        state[f"unet.{layer}.lora_B.weight"] = _scaled_up(low_rank)
    return state


def _scaled_up(low_rank: LowRank) -> Tensor:
    """`up` times the scale, in its own precision: itself where the scale is 1."""
    return low_rank.up if low_rank.scale == 1 else (low_rank.up.float() * low_rank.scale).to(low_rank.up)


def official_name(layer: str, part: str) -> str:
    """The name of a layer's "down" or "up" matrix in AnimateDiff's own files. Raises ValueError for no attention of a motion module."""
    match = _LAYER.fullmatch(layer.removesuffix(".0"))
    if match is None:
        raise ValueError(f"{layer} is no attention matrix of a motion module")
    attention = f"attention_blocks.{int(match['attention']) - 1}"
    return f"{match['place']}.temporal_transformer.{match['block']}.{attention}.processor.{match['matrix']}_lora.{part}.weight"


def _layer(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    name = f"{name}."
    for theirs, ours in RENAMED:
        name = name.replace(theirs, ours)
    return re.sub(r"\.to_out$", ".to_out.0", name.removesuffix("."))


def _unreadable(source: str, cause: str) -> UserError:
    return UserError(f"{source} is no MotionLoRA that can be used", cause=cause, remedy="give one in AnimateDiff's or diffusers' layout")
