"""A concept's file made smaller: its matrices as low-rank changes to the base's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from cdvideo.concept import Concept, LowRankChange
from cdvideo.errors import UserError
from cdvideo.interop.low_rank import Decomposition, relative, root_sum_square
from cdvideo.interop.moving import key_value_weights

if TYPE_CHECKING:
    from cdvideo.base import Base


@dataclass(frozen=True, kw_only=True)
class Compression:
    """A compressed concept, and what of each matrix's change was lost, relative to that change (Frobenius); also of all together."""

    concept: Concept
    layers: Mapping[str, float]
    relative_error: float


def check_rank(rank: int) -> None:
    """Raises UserError for a rank that no matrix has."""
    if rank < 1:
        raise UserError(f"there is no rank {rank}", remedy="choose --rank 1 or more; 16 is a start")


def compress(base: Base, concept: Concept, rank: int, *, on_layer: Callable[[int, int], None] | None = None) -> Compression:
    """The concept with every K/V change cut to `rank`; matrices whose factors would take more room stay whole.

    Custom Diffusion (Kumari et al. 2023) compresses its models the same way. Raises UserError where the concept is not this base's.
    """
    check_rank(rank)
    weights = key_value_weights(base, concept)
    whole = concept.expanded(weights).tuned
    tuned: dict[str, Tensor | LowRankChange] = {}
    lost: dict[str, float] = {}
    norms: dict[str, float] = {}
    for count, (name, weight) in enumerate(weights.items(), 1):
        matrix = whole[name].to(weight)
        decomposition = Decomposition.of(matrix.double() - weight.double())
        norms[name], lost[name], tuned[name] = decomposition.norm, 0.0, matrix
        if rank * sum(matrix.shape) < matrix.numel():
            change = decomposition.truncated(rank)
            tuned[name], lost[name] = change, decomposition.distance(change.up.double() @ change.down.double())
        if on_layer:
            on_layer(count, len(weights))
    relative_error = relative(root_sum_square(lost), root_sum_square(norms))
    training = {**concept.header.training, "compressed": {"rank": rank, "relative_error": relative_error}}
    compressed = replace(concept, header=replace(concept.header, training=training), tuned=tuned)
    return Compression(
        concept=compressed, layers={name: relative(lost[name], norms[name]) for name in weights}, relative_error=relative_error
    )
