"""Low-rank changes to a model's weights (Hu et al. 2021, section 4.1): reading them, putting them in, and taking them out again.

For each layer that it changes, a file holds two thin matrices whose product is added to the layer's weight. Shapes: `R` rank, `I` and `O`
the layer's inputs and outputs, `K` the height and width of a convolution's window.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor

from cdvideo.base.weights import State
from cdvideo.errors import UserError

_NOTATIONS = (
    (".processor.", "."),
    (".lora_A.", ".lora.down."),
    (".lora_B.", ".lora.up."),
    (".lora_down.", ".lora.down."),
    (".lora_up.", ".lora.up."),
    (".lora_linear_layer.", ".lora."),
    (".default.", "."),
)
"""How peft, kohya's scripts and older versions of diffusers write what is here `LAYER.lora.down.weight` and `LAYER.lora.up.weight`."""

_TENSOR = re.compile(r"(?P<layer>.+?)(?:[._]lora)?\.(?P<part>down\.weight|up\.weight|alpha)")
_Injection = TypeVar("_Injection", bound="LowRankInjection")


@dataclass(frozen=True)
class LowRank:
    """A change to one layer's weight: `scale * up @ down`, with `up` (O, R) and `down` (R, I), or (O, R, 1, 1) and (R, I, *K)."""

    up: Tensor
    down: Tensor
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the whole change, (O, I) or (O, I, *K)."""
        return self.up.shape[0], *self.down.shape[1:]

    def fits(self, weight: Tensor) -> bool:
        """Whether the weight has the change's shape. A convolution whose window is one cell is a matrix, and the other way round."""
        return _as_matrix(self.shape) == _as_matrix(tuple(weight.shape))

    def change(self, device: torch.device) -> Tensor:
        """The whole change, (O, I) or (O, I, *K), in fp32."""
        up, down = (half.to(device, torch.float32).flatten(1) for half in (self.up, self.down))
        return (self.scale * (up @ down)).view(self.shape)


def _as_matrix(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if shape[2:] == (1, 1) else shape


def low_rank_changes(
    state: State, layer_of: Callable[[str], str], refused: Callable[[str], UserError], settings: Mapping[str, Any] | None = None
) -> dict[str, LowRank]:
    """The changes by layer. `layer_of` gives a layer's name here, from a file's name for it or for a tensor of it.

    An `alpha` beside a pair scales it by alpha / rank, as does peft's `lora_alpha` in `settings`, the file's own account of itself; without
    either the scale is 1. What `refused` makes of a cause is raised for a name of another kind and for a pair that is not whole.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        plain = name
        for theirs, ours in _NOTATIONS:
            plain = plain.replace(theirs, ours)
        match = _TENSOR.fullmatch(plain)
        if match is None:
            raise refused(f"it holds {name}, which is neither half of a low-rank pair nor an alpha")
        parts = found.setdefault(layer_of(match["layer"]), {})
        if match["part"] in parts:
            raise refused(f"it holds {name} twice, in different layouts")
        parts[match["part"]] = value
    return {layer: _paired(layer, parts, settings or {}, refused) for layer, parts in found.items()}


def _paired(layer: str, parts: Mapping[str, Tensor], settings: Mapping[str, Any], refused: Callable[[str], UserError]) -> LowRank:
    for part in ("down.weight", "up.weight"):
        if part not in parts:
            raise refused(f"it lacks the {part.removesuffix('.weight')} matrix of {layer}")
    up, down = parts["up.weight"], parts["down.weight"]
    whole = up.ndim == down.ndim and up.ndim in (2, 4) and up.shape[1] == down.shape[0] and set(up.shape[2:]) <= {1}
    if not whole or not down.numel():
        raise refused(f"the matrices of {layer} do not go together: up {tuple(up.shape)}, down {tuple(down.shape)}")
    if not (up.float().isfinite().all() and down.float().isfinite().all()):
        raise refused(f"the matrices of {layer} hold values that are not numbers")
    rank = down.shape[0]
    try:
        alpha = float(parts["alpha"]) if "alpha" in parts else _alpha_in(settings, layer, rank)
    except (TypeError, ValueError, RuntimeError):
        alpha = math.nan
    if not math.isfinite(alpha):
        raise refused(f"the alpha of {layer} is no number")
    return LowRank(up, down, alpha / (rank**0.5 if settings.get("use_rslora") else rank))


def _alpha_in(settings: Mapping[str, Any], layer: str, rank: int) -> float:
    """peft's `lora_alpha`, or the one that its `alpha_pattern` has for names that end as this layer's; the rank itself without either."""
    for ending, value in settings.get("alpha_pattern", {}).items():
        if f".{layer}".endswith(f".{ending}"):
            return float(value)
    return float(settings.get("lora_alpha", rank))


def adapter_settings(file: Path, prefix: str = "unet.") -> dict[str, Any]:
    """What diffusers writes of peft's settings into a safetensors header; nothing for other files.

    Those of the model that `prefix` stands for, or else what holds of all. Raises UserError where it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            text = (opened.metadata() or {}).get("lora_adapter_metadata", "{}")
    except SafetensorError:
        return {}
    try:
        written = dict(json.loads(text).items())
        own = {name.removeprefix(prefix): value for name, value in written.items() if name.startswith(prefix)}
        return own or {name: value for name, value in written.items() if "." not in name}
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file} has a damaged header", cause=f"its lora_adapter_metadata: {error}", remedy="save it again") from error


class LowRankInjection:
    """Low-rank changes inside weights, which are bit-identical to before once they are ejected. Several add up.

    `weights` holds each layer's, in the model's own memory. `originals` are those of before, by layer, as long as the changes are in.
    """

    def __init__(self, weights: Mapping[str, Tensor], changes: Sequence[tuple[Mapping[str, LowRank], float]]) -> None:
        """`changes` are those of a LoRA, by layer, and its strength. Every layer has to be one of `weights`, and fit."""
        self.weights = weights
        self.originals: dict[str, Tensor] = {}
        try:
            for layer in dict.fromkeys(layer for layers, _ in changes for layer in layers):
                self._change(layer, [(layers[layer], strength) for layers, strength in changes if layer in layers])
        except BaseException:
            self.eject()
            raise

    @torch.no_grad()
    def _change(self, layer: str, changes: Sequence[tuple[LowRank, float]]) -> None:
        weight = self.weights[layer]
        self.originals[layer] = weight.clone()
        whole = [strength * low_rank.change(weight.device).view_as(weight) for low_rank, strength in changes]
        weight.copy_(weight.float() + torch.stack(whole).sum(0))

    @torch.no_grad()
    def eject(self) -> None:
        for layer, original in self.originals.items():
            self.weights[layer].copy_(original)
        self.originals = {}

    def __enter__(self: _Injection) -> _Injection:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.eject()
