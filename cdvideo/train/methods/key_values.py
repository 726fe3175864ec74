"""Custom Diffusion's choice, which ClassDiffusion keeps: cross-attention keys and values, and the token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from cdvideo.base import key_value_names
from cdvideo.train.methods.tuning import Tuning


def detach_first_token(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """A forward hook on a key or value projection (B, L, D): the first position (BOS) passes without a gradient."""
    return torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1)


class KeyValueTuning(Tuning):
    """Cross-attention `to_k` and `to_v` and one embedding row per token train. Kumari et al. 2023, section 3.2."""

    def put_in(self) -> None:
        self._hooks: list[RemovableHandle] = []
        for name in key_value_names(self.base.unet):
            self.let_train(name)
            projection = self.base.unet.get_submodule(name.removesuffix(".weight"))
            self._hooks.append(projection.register_forward_hook(detach_first_token))

    def restore(self) -> None:
        for hook in self._hooks:
            hook.remove()
        super().restore()
