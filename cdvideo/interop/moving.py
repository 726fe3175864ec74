"""How far a concept's training moved what it trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from cdvideo.base import initializer_id
from cdvideo.concept import UNKNOWN, Concept
from cdvideo.errors import UserError
from cdvideo.interop.low_rank import relative, root_sum_square

if TYPE_CHECKING:
    from cdvideo.base import Base


@dataclass(frozen=True, kw_only=True)
class TokenMovement:
    """A token's embedding against what it started from (`start`, a word) and against its class word, None where that is unknown.

    `relative_distance` is the distance from the start's embedding, over that embedding's norm.
    """

    start: str
    relative_distance: float | None
    cosine_to_start: float | None
    cosine_to_class: float | None


@dataclass(frozen=True, kw_only=True)
class Movement:
    """Frobenius norm of each matrix's change over that of the base's matrix; `relative_change` is over all of them together."""

    layers: Mapping[str, float]
    relative_change: float
    tokens: Mapping[str, TokenMovement]


def base_weights(base: Base, concept: Concept) -> dict[str, Tensor]:
    """The base's matrices, on the CPU in fp32, under the concept's names. Raises UserError where the concept is not this base's."""
    base.inject(concept).eject()
    parameters = dict(base.unet.named_parameters())
    return {name: parameters[name].detach().float().cpu() for name in concept.tuned}


def key_value_weights(base: Base, concept: Concept) -> dict[str, Tensor]:
    """`base_weights` of a concept whose keys and values were tuned. Raises UserError for what another method made."""
    require_key_values(concept)
    return base_weights(base, concept)


def require_key_values(concept: Concept) -> None:
    """Raises UserError unless the concept holds cross-attention keys and values, and nothing else of the UNet."""
    others = concept.beyond_key_values
    if others or not concept.tuned:
        holds = f"it holds {others[0]}" if others else "it holds an embedding alone"
        raise UserError(
            "this works with concepts whose keys and values were tuned",
            cause=f"{concept.source or 'this one'} was made by {concept.header.method}: {holds}",
            remedy="train it with --method classdiffusion or custom-diffusion",
        )


def movement(base: Base, concept: Concept) -> Movement:
    """How far the concept is from its base. Raises UserError where it is not this base's."""
    weights = base_weights(base, concept)
    whole = concept.expanded(weights).tuned
    moved = {name: float((whole[name].to(weight) - weight).norm()) for name, weight in weights.items()}
    norms = {name: float(weight.norm()) for name, weight in weights.items()}
    header = concept.header
    tokens = {
        token: _token_movement(base, concept.embeddings[token], class_word, start)
        for token, class_word, start in zip(header.tokens, header.class_words, _starts(base, concept), strict=True)
    }
    layers = {name: relative(moved[name], norms[name]) for name in weights}
    return Movement(layers=layers, relative_change=relative(root_sum_square(moved), root_sum_square(norms)), tokens=tokens)


def _starts(base: Base, concept: Concept) -> list[str]:
    """The words whose embeddings the tokens started from: as the training noted them, else those that the base starts from."""
    training = concept.header.training
    parts = [(part["tokens"].values(), part["training"]) for part in training.get("merged", [])] or [(concept.header.tokens, training)]
    noted = {token: word for tokens, one in parts for token, word in zip(tokens, one.get("initializers", []), strict=False)}
    usual = enumerate(zip(concept.header.tokens, concept.header.class_words, strict=True))
    return [noted.get(token) or base.preset.initializer(number) or class_word for number, (token, class_word) in usual]


def _token_movement(base: Base, row: Tensor, class_word: str, start: str) -> TokenMovement:
    def embedding(word: str) -> Tensor:
        return base.text_encoder.get_input_embeddings().weight[initializer_id(base.tokenizer, word)].detach().float().cpu()

    own = row.float().cpu()
    class_row = None if class_word == UNKNOWN else embedding(class_word)
    start_row = class_row if start == class_word else embedding(start)
    if start_row is None:
        return TokenMovement(start=UNKNOWN, relative_distance=None, cosine_to_start=None, cosine_to_class=None)
    return TokenMovement(
        start=start,
        relative_distance=float((own - start_row).norm() / start_row.norm()),
        cosine_to_start=float(F.cosine_similarity(own, start_row, dim=0)),
        cosine_to_class=None if class_row is None else float(F.cosine_similarity(own, class_row, dim=0)),
    )
