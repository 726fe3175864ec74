"""A motion module: its tensors under diffusers' names, and what its tensors say about its shape."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cdvideo.base.catalog import MotionPreset
from cdvideo.base.lora import WeightedImageLora
from cdvideo.base.weights import converted, digest, lay_together
from cdvideo.errors import UserError

POSITIONS = ".pos_embed.pe"
DEFAULT_MAX_FRAMES = 32
NUM_HEADS, NUM_NORM_GROUPS = 8, 32
"""AnimateDiff's own, which its files do not say."""
_V1_MAX_FRAMES = 24


@dataclass(frozen=True, kw_only=True)
class MotionModule:
    """An AnimateDiff motion module. `state` holds `MotionAdapter`'s parameters, and position tables where the file had them.

    `version` is the family by shape: "v2" has a middle block, "v3" has none, "v1" has none and a table of 24 frames. `fingerprint` is over
    the weights as they lie in the file, whatever they are cast to afterwards. `preset` is how a known module is to be sampled, and `loras`
    are those that it needs in the image model.
    """

    source: str
    canonical_id: str
    state: Mapping[str, Tensor]
    num_heads: int | tuple[int, ...]
    num_norm_groups: int
    max_frames: int
    fingerprint: str
    preset: MotionPreset | None = None
    loras: tuple[WeightedImageLora, ...] = ()

    @classmethod
    def from_state(
        cls,
        state: Mapping[str, Tensor],
        *,
        source: str,
        canonical_id: str | None = None,
        num_heads: int | tuple[int, ...] = NUM_HEADS,
        num_norm_groups: int = NUM_NORM_GROUPS,
        max_frames: int = DEFAULT_MAX_FRAMES,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> MotionModule:
        """The module of these tensors, cast to `dtype` on `device` where given. A position table among them decides `max_frames`."""
        table = next((value for name, value in state.items() if name.endswith(POSITIONS)), None)
        weights = {name: value for name, value in state.items() if not name.endswith(POSITIONS)}
        return cls(
            source=source,
            canonical_id=canonical_id or source,
            state=placed(state, dtype, device),
            num_heads=num_heads,
            num_norm_groups=num_norm_groups,
            max_frames=max_frames if table is None else int(table.shape[1]),
            fingerprint=digest(weights, lambda value: value.float().contiguous().view(torch.uint8)),
        )

    @classmethod
    def from_adapter(cls, adapter: Any, *, source: str, canonical_id: str | None = None) -> MotionModule:
        """The module of a diffusers `MotionAdapter`, sharing its memory."""
        return cls.from_state(adapter.state_dict(), source=source, canonical_id=canonical_id, **adapter_settings(adapter.config, source))

    @cached_property
    def version(self) -> str:
        if self.has_mid_block:
            return "v2"
        return "v1" if self.max_frames <= _V1_MAX_FRAMES else "v3"

    @property
    def has_mid_block(self) -> bool:
        return any(name.startswith("mid_block.") for name in self.state)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, from the norms of the way down."""
        found = {}
        for name, value in self.state.items():
            if match := re.fullmatch(r"down_blocks\.(\d+)\.motion_modules\.0\.norm\.weight", name):
                found[int(match[1])] = int(value.shape[0])
        return tuple(found[level] for level in sorted(found))

    @property
    def num_transformer_layers(self) -> int:
        """Transformer blocks in each motion transformer."""
        layers = {match[1] for name in self.state if (match := re.search(r"\.transformer_blocks\.(\d+)\.", name))}
        return max(1, len(layers))


def adapter_settings(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`from_state`'s settings out of a `MotionAdapter` configuration. Raises UserError where it describes another kind of module."""
    if config.get("conv_in_channels"):
        raise UserError(
            f"the motion module {where} cannot be used",
            cause=f"it is made for image-to-video: its UNet takes {config['conv_in_channels']} channels (PIA)",
            remedy="choose a text-to-video module, such as --motion v2",
        )
    heads = config.get("motion_num_attention_heads", NUM_HEADS)
    return {
        "num_heads": heads if isinstance(heads, int) else tuple(heads),
        "num_norm_groups": config.get("motion_norm_num_groups", NUM_NORM_GROUPS),
        "max_frames": config.get("motion_max_seq_length", DEFAULT_MAX_FRAMES),
    }


def placed(state: Mapping[str, Tensor], dtype: torch.dtype | None, device: torch.device | None) -> dict[str, Tensor]:
    """The tensors in `dtype` on `device`: those themselves that are so already. What is brought to a GPU lies as `lay_together` lays it."""
    found = {name: converted(value, dtype, device) for name, value in state.items()}
    brought = {name: value for name, value in found.items() if value is not state[name]}
    if device is not None and device.type == "cuda":
        lay_together(brought)
    return found | brought


def position_table(width: int, max_frames: int) -> Tensor:
    """Sinusoidal positions (1, max_frames, width) in fp32: sines in even columns, cosines in odd ones, base 10000 (Vaswani et al. 2017)."""
    frames = torch.arange(max_frames, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10000.0) / width))
    return torch.stack([torch.sin(frames * rates), torch.cos(frames * rates)], dim=-1).reshape(1, max_frames, width)
