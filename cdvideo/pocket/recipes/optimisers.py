"""How the recipes step their weights."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cdvideo.pocket.recipes.device import computes_in_bf16

NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)
"""Muon's own coefficients (Jordan et al. 2024)."""


class Muon(torch.optim.Muon):
    """torch's Muon, with learning rates that suit AdamW, and in fp32 where bf16 would take longer: there it was half of a step."""

    def __init__(self, matrices: list[nn.Parameter], weight_decay: float) -> None:
        super().__init__(matrices, lr=1e-3, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step by the gradients that are there; `closure` is not called."""
        for group in self.param_groups:
            momentum, rate = group["momentum"], group["lr"]
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape.setdefault(matrix.shape, []).append(matrix)
            for shape, alike in by_shape.items():
                gradients = [cast(Tensor, matrix.grad) for matrix in alike]
                buffers = [self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix)) for matrix in alike]
                torch._foreach_lerp_(buffers, gradients, 1 - momentum)
                updates = orthogonalised(torch.stack(torch._foreach_lerp(gradients, buffers, momentum)))
                torch._foreach_mul_(alike, 1 - rate * group["weight_decay"])
                torch._foreach_add_(alike, list(updates), alpha=-rate * 0.2 * math.sqrt(max(shape)))


def orthogonalised(matrices: Tensor, steps: int = 5) -> Tensor:
    """About the nearest matrices (N, out, in) with orthogonal rows or columns, their singular values between about 0.7 and 1.2.

    Matrices of one shape are stepped together: a GPU takes as long to begin a product as to compute one of this size.
    """
    a, b, c = NEWTON_SCHULZ
    whole = matrices.to(torch.bfloat16 if computes_in_bf16(matrices.device) else torch.float32)
    tall = whole.shape[1] > whole.shape[2]
    wide = whole.mT if tall else whole
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return (wide.mT if tall else wide).to(matrices)


class Optimisers:
    """Muon for matrices and kernels, AdamW for the rest, stepped and saved together.

    Muon's orthogonalisation costs a quarter of a step, so each process does it for its share of the matrices and sends the result round.
    """

    def __init__(self, model: nn.Module, rank: int = 0, processes: int = 1, weight_decay: float = 0.01) -> None:
        trained = [value for value in model.parameters() if value.requires_grad]
        tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        matrices = [
            value for value in trained if value.ndim >= 2 and min(value.shape[0], value[0].numel()) >= 32 and id(value) not in tables
        ]
        matrices.sort(key=lambda value: value.numel(), reverse=True)
        self.rank, self.shares = rank, [matrices[share::processes] for share in range(processes)]
        # Muon takes matrices; a kernel's view as (out, in * height * width) shares its memory, so stepping the view steps the kernel.
        self.views = [nn.Parameter(value.data.flatten(1)) for value in self.shares[rank]]
        # An optimiser wants something to step, and a MotionLoRA's matrices are all too thin for Muon.
        views = self.views or [nn.Parameter(torch.zeros(1, 1))]
        self.muon = Muon(views, weight_decay)
        chosen = {id(value) for value in matrices}
        rest = [value for value in trained if id(value) not in chosen]
        self.adam = torch.optim.AdamW(rest, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        for optimiser in (self.muon, self.adam):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate
        for kernel, view in zip(self.shares[self.rank], self.views, strict=True):
            view.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        self.muon.step()
        self.adam.step()
        if len(self.shares) > 1:
            for rank, share in enumerate(self.shares):
                if not share:
                    continue
                flat = torch.cat([value.flatten() for value in share])
                dist.broadcast(flat, rank)
                for value, part in zip(share, flat.split([value.numel() for value in share]), strict=True):
                    value.copy_(part.view_as(value))

    def state_dict(self) -> dict[str, Any]:
        """Every process has to call this; only rank 0's answer is whole."""
        states: list[Any] = [None] * len(self.shares)
        if len(self.shares) > 1:
            dist.gather_object(self.muon.state_dict(), states if self.rank == 0 else None)
        else:
            states = [self.muon.state_dict()]
        return {"muon": states, "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["muon"]) != len(self.shares):
            raise ValueError(f"the checkpoint was made by {len(state['muon'])} processes, not by {len(self.shares)}")
        self.muon.load_state_dict(state["muon"][self.rank])
        self.adam.load_state_dict(state["adam"])
