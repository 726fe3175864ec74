"""Where the recipes compute, and in which precision."""

from __future__ import annotations

import torch

from cdvideo.base.device import cpu_computes_in_bf16


def training_device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def computes_in_bf16(device: torch.device) -> bool:
    """Whether bf16 is the faster choice; on CPUs without instructions for it, it takes some ten times as long as fp32."""
    return device.type != "cpu" or cpu_computes_in_bf16()


def mixed_precision(device: torch.device) -> torch.autocast:
    """Convolutions and matrix products in bf16 within it, where that is the faster choice."""
    return torch.autocast(device.type, torch.bfloat16, enabled=computes_in_bf16(device))
