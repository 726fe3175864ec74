"""The optimisers: AdamW as in the public script (betas 0.9 and 0.999, decay 0.01), in 32 or in 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from cdvideo.errors import UserError

OPTIMIZERS = ("adamw", "adamw8bit")
_ADAMW: dict[str, Any] = {"betas": (0.9, 0.999), "weight_decay": 1e-2, "eps": 1e-8}


def check_optimizer(name: str) -> None:
    """Raises UserError for an unknown optimiser, and for one whose package is not installed."""
    if name not in OPTIMIZERS:
        raise UserError(f"there is no optimizer {name!r}", remedy=f"one of: {', '.join(OPTIMIZERS)}")
    if name == "adamw8bit" and find_spec("bitsandbytes") is None:
        remedy = "pip install bitsandbytes, or use --optimizer adamw"
        raise UserError("the optimizer adamw8bit needs the package bitsandbytes", cause="it is not installed", remedy=remedy)


def make_optimizer(name: str, parameters: Sequence[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """The optimiser of a name. Raises UserError as `check_optimizer` does."""
    check_optimizer(name)
    if name == "adamw":
        fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
        return torch.optim.AdamW(parameters, lr=learning_rate, fused=fused, **_ADAMW)
    from bitsandbytes.optim import AdamW8bit

    optimizer: torch.optim.Optimizer = AdamW8bit(parameters, lr=learning_rate, **_ADAMW)
    return optimizer
