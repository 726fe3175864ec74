"""Low-rank changes by singular value decomposition. Shapes: `O` and `I` a matrix's outputs and inputs, `R` rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cdvideo.concept import LowRankChange


@dataclass(frozen=True)
class Decomposition:
    """A change (O, I) as `left @ diag(values) @ right`, in fp64, its singular values falling."""

    left: Tensor
    values: Tensor
    right: Tensor

    @classmethod
    def of(cls, change: Tensor) -> Decomposition:
        return cls(*torch.linalg.svd(change.double(), full_matrices=False))

    @property
    def norm(self) -> float:
        return float(self.values.norm())

    def truncated(self, rank: int) -> LowRankChange:
        """The nearest change of that rank (Eckart and Young 1936), in fp32. Each factor takes the root of the singular values."""
        rank = max(1, min(rank, len(self.values)))
        roots = self.values[:rank].sqrt()
        return LowRankChange((self.left[:, :rank] * roots).float(), (roots[:, None] * self.right[:rank]).float())

    def smallest_rank(self, tolerance: float) -> int:
        """The smallest rank at which the Frobenius norm of what is left is at most `tolerance` of the whole's; at least 1."""
        left_out = self.values.square().flip(0).cumsum(0).flip(0).sqrt()
        return max(1, int((left_out > tolerance * self.norm).sum()))

    def distance(self, approximation: Tensor) -> float:
        """The Frobenius distance between an approximation (O, I) and the change."""
        return float((approximation.double() - (self.left * self.values) @ self.right).norm())


def relative(part: float, whole: float) -> float:
    """`part / whole`, and 0 where both are 0."""
    return part / whole if whole else (0.0 if part == 0 else float("inf"))


def root_sum_square(parts: Mapping[str, float]) -> float:
    """The Frobenius norm of several matrices together, from their own."""
    return float(sum(value * value for value in parts.values())) ** 0.5
