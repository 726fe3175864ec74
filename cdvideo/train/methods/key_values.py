"""Custom Diffusion's choice, which ClassDiffusion keeps: cross-attention keys and values, and the token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cdvideo.base import Base, key_value_names
from cdvideo.train.methods.tuning import Tuning
from cdvideo.train.subject import Subject


def detach_first_token(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """A forward hook on a key or value projection (B, L, D): the first position (BOS) passes without a gradient."""
    return torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1)


class KeyValueTuning(Tuning):
    """Cross-attention `to_k` and `to_v` and one embedding row per token train. Kumari et al. 2023, section 3.2."""

    def __init__(self, base: Base, subjects: Sequence[Subject]) -> None:
        super().__init__(base, subjects)
        self._originals: dict[str, nn.Parameter] = {}
        self._hooks = []
        for name in key_value_names(base.unet):
            projection = base.unet.get_submodule(name.removesuffix(".weight"))
            self._originals[name] = projection.weight
            projection.weight = self.trained[name] = nn.Parameter(projection.weight.detach().float().clone())
            self._hooks.append(projection.register_forward_hook(detach_first_token))

    def restore(self) -> None:
        for hook in self._hooks:
            hook.remove()
        for name, original in self._originals.items():
            self.base.unet.get_submodule(name.removesuffix(".weight")).weight = original
        super().restore()
