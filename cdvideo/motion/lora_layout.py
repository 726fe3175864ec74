"""The names that a MotionLoRA's tensors may have in a file: AnimateDiff's own, diffusers' and peft's.

All three hold, for each layer that they change, two thin matrices whose product is added to the layer's weight (Hu et al. 2021, section
4.1). Shapes: `R` rank, `I` and `O` the layer's inputs and outputs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
_NOTATIONS = ((".processor.", "."), (".lora_A.", ".lora.down."), (".lora_B.", ".lora.up."), (".default.", "."))
_TENSOR = re.compile(r"(?P<layer>.+?)(?:[._]lora)?\.(?P<part>down\.weight|up\.weight|alpha)")
_LAYER = re.compile(r"(?P<place>.+\.motion_modules\.\d+)\.(?P<block>transformer_blocks\.\d+)\.attn(?P<attention>[12])\.(?P<matrix>to_\w+)")


@dataclass(frozen=True)
class LowRank:
    """A change to one layer's weight: `scale * up @ down`, with `up` (O, R) and `down` (R, I)."""

    up: Tensor
    down: Tensor
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        return self.up.shape[0], self.down.shape[1]

    def change(self, device: torch.device) -> Tensor:
        """The whole change, (O, I) in fp32."""
        return self.scale * (self.up.to(device, torch.float32) @ self.down.to(device, torch.float32))


def low_rank_changes(state: State, source: str, settings: Mapping[str, Any] | None = None) -> dict[str, LowRank]:
    """The changes by layer, under diffusers' names, such as `mid_block.motion_modules.0.transformer_blocks.0.attn1.to_q`.

    An `alpha` beside a pair scales it by alpha / rank, as does peft's `lora_alpha` in `settings`, the file's own account of itself; without
    either the scale is 1. Raises UserError for a name of another kind and for a pair that is not whole.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        match = _TENSOR.fullmatch(_plain(name))
        if match is None:
            raise _unreadable(source, f"it holds {name}, which is neither half of a low-rank pair nor an alpha")
        layer = re.sub(r"\.to_out$", ".to_out.0", match["layer"])
        parts = found.setdefault(layer, {})
        if match["part"] in parts:
            raise _unreadable(source, f"it holds {name} twice, in different layouts")
        parts[match["part"]] = value
    return {layer: _pair(layer, parts, source, settings or {}) for layer, parts in found.items()}


def official_name(layer: str, part: str) -> str:
    """The name of a layer's "down" or "up" matrix in AnimateDiff's own files. Raises ValueError for no attention of a motion module."""
    match = _LAYER.fullmatch(layer.removesuffix(".0"))
    if match is None:
        raise ValueError(f"{layer} is no attention matrix of a motion module")
    attention = f"attention_blocks.{int(match['attention']) - 1}"
    return f"{match['place']}.temporal_transformer.{match['block']}.{attention}.processor.{match['matrix']}_lora.{part}.weight"


def _plain(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    for theirs, ours in (*RENAMED, *_NOTATIONS):
        name = name.replace(theirs, ours)
    return name


def _pair(layer: str, parts: Mapping[str, Tensor], source: str, settings: Mapping[str, Any]) -> LowRank:
    for part in ("down.weight", "up.weight"):
        if part not in parts:
            raise _unreadable(source, f"it lacks the {part.removesuffix('.weight')} matrix of {layer}")
    up, down = parts["up.weight"], parts["down.weight"]
    if up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0] or not down.numel():
        raise _unreadable(source, f"the matrices of {layer} do not go together: up {tuple(up.shape)}, down {tuple(down.shape)}")
    rank = down.shape[0]
    try:
        alpha = float(parts["alpha"]) if "alpha" in parts else _alpha_in(settings, layer, rank)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _unreadable(source, f"the alpha of {layer} is no number") from error
    return LowRank(up, down, alpha / (rank**0.5 if settings.get("use_rslora") else rank))


def _alpha_in(settings: Mapping[str, Any], layer: str, rank: int) -> float:
    """peft's `lora_alpha`, or the one that its `alpha_pattern` has for names that end as this layer's; the rank itself without either."""
    for ending, value in settings.get("alpha_pattern", {}).items():
        if f".{layer}".endswith(f".{ending}"):
            return float(value)
    return float(settings.get("lora_alpha", rank))


def _unreadable(source: str, cause: str) -> UserError:
    return UserError(f"{source} is no MotionLoRA that can be used", cause=cause, remedy="give one in AnimateDiff's or diffusers' layout")
