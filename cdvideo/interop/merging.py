"""Several concepts in one: Custom Diffusion's constrained least squares (Kumari et al. 2023, section 3.3), in closed form.

Shapes: `D` text width, `O` a matrix's outputs, `N` text positions that are bound, `P` text positions that should stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cdvideo.base import versions
from cdvideo.base.text import eos_positions, token_ids
from cdvideo.concept import UNKNOWN, Concept, ConceptHeader, distinct_names
from cdvideo.errors import UserError
from cdvideo.interop.captions import OWN, OWN_HELD_OUT, base_captions, own_captions
from cdvideo.interop.low_rank import relative
from cdvideo.interop.moving import key_value_weights

if TYPE_CHECKING:
    from cdvideo.base import Base

NUM_CAPTIONS = 500
NUM_HELD_OUT = 100
RIDGE = 1e-6
TOLERANCE = 1e-4
_BATCH = 32

OnStep = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class MergedConcept:
    """What the merge did to one concept; relative errors of its K/V outputs over all layers (Frobenius).

    `own` is on the bound positions, `own_held_out` on other captions of its tokens; `alone` is how far the base is from the concept on
    those, which is what there was to learn. `renamed` maps old token names to new ones.
    """

    tokens: tuple[str, ...]
    renamed: Mapping[str, str]
    own: float
    worst_layer: float
    own_held_out: float
    alone: float


@dataclass(frozen=True, kw_only=True)
class Merge:
    """The merged concept, and what became of each one's and of the base's K/V outputs on captions that the solution did not see."""

    concept: Concept
    concepts: tuple[MergedConcept, ...]
    base_held_out: float
    base_layers: Mapping[str, float]
    num_captions: int
    num_held_out: int


def constrained_update(gram: Tensor, bound: Tensor, residual: Tensor) -> Tensor:
    """The smallest change `X` (D, O) of a matrix's transpose that adds `residual` (N, O) to the outputs at `bound` (N, D).

    Smallest means least `trace(Xᵀ G X)`, with `gram` G = Σ ccᵀ (D, D) over the text states c that should keep their outputs, regularised to
    be invertible. Lagrange: X = G⁻¹Bᵀ(BG⁻¹Bᵀ)⁻¹E; with G = LLᵀ that is L⁻ᵀ(BL⁻ᵀ)⁺E, which squares no condition number. In fp64.
    """
    lower = torch.linalg.cholesky(gram)
    whitened = torch.linalg.solve_triangular(lower, bound.T, upper=False).T
    return torch.linalg.solve_triangular(lower.T, torch.linalg.pinv(whitened, rtol=1e-12) @ residual, upper=True)


def merge(
    base: Base, concepts: Sequence[Concept], *, rename: bool = True, num_captions: int = NUM_CAPTIONS, on_step: OnStep | None = None
) -> Merge:
    """One concept that does what each of `concepts` did at its own tokens, and elsewhere as nearly as possible what the base does.

    Bound are the positions from the token to the end of "V* bear" and "photo of a V* bear". The words before the token are not: the text
    encoder is causal, so their states are the same for all concepts, whose outputs there differ. Kept are `num_captions` captions of words
    that the tokenizer knows, start and end included, and the empty prompt's every position. Tokens of the same name become `V1*`, `V2*`;
    without `rename` they raise UserError, as do concepts of another base and concepts that cannot all be had at once.
    """
    if len(concepts) < 2:
        raise UserError("there is nothing to merge", cause="it takes two concepts", remedy="name two or more concept files")
    weights = key_value_weights(base, concepts[0])
    for concept in concepts[1:]:
        key_value_weights(base, concept)
    tuned = [{name: value.to(weights[name]).double() for name, value in concept.tuned.items()} for concept in concepts]
    renames = distinct_names([concept.header.tokens for concept in concepts])
    shared = [token for names in renames for token, name in names.items() if token != name]
    if shared and not rename:
        raise UserError(
            f"several of the concepts use the token {shared[0]}", remedy="leave out --no-rename, and they become V1*, V2* and so on"
        )
    subjects = [_subjects(concept, names) for concept, names in zip(concepts, renames, strict=True)]
    everyone = _draft(base, concepts, renames, weights)

    class_words = [word for concept in concepts for word in concept.header.class_words]
    captions = base_captions(base.tokenizer, class_words, num_captions + NUM_HELD_OUT)
    num_held_out = min(NUM_HELD_OUT, len(captions) // 5)
    held_out, kept = captions[:num_held_out], captions[num_held_out:]
    if not kept or not num_held_out:
        raise UserError(f"the base {base.id} knows too few words", cause=f"{len(captions)} captions can be made of them")
    with base.inject(everyone):
        bound = [torch.cat([_states(base, own_captions(OWN, *subject), start=subject[0]) for subject in own]) for own in subjects]
        own_held_out = [
            torch.cat([_states(base, own_captions(OWN_HELD_OUT, *subject), start=subject[0]) for subject in own]) for own in subjects
        ]
        states = torch.cat([_states(base, kept, on_step=on_step), _every_state(base, "")])
        held_out_states = _states(base, held_out)

    gram = states.T @ states
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    every_bound = torch.cat(bound)
    originals = {name: weight.double() for name, weight in weights.items()}
    residuals = {
        name: torch.cat([rows @ (matrices[name] - weight).T for rows, matrices in zip(bound, tuned, strict=True)])
        for name, weight in originals.items()
    }
    update = constrained_update(gram, every_bound, torch.cat(list(residuals.values()), dim=1))
    changes = dict(zip(residuals, update.split([residual.shape[1] for residual in residuals.values()], dim=1), strict=True))
    merged = {name: (weight + changes[name].T).float() for name, weight in originals.items()}

    outcomes = []
    for concept, names, matrices, rows, others in zip(concepts, renames, tuned, bound, own_held_out, strict=True):
        layers = {name: _output_error(rows, {name: merged[name]}, matrices) for name in merged}
        outcomes.append(
            MergedConcept(
                tokens=tuple(names[token] for token in concept.header.tokens),
                renamed={old: new for old, new in names.items() if old != new},
                own=_output_error(rows, merged, matrices),
                worst_layer=max(layers.values()),
                own_held_out=_output_error(others, merged, matrices),
                alone=_output_error(others, originals, matrices),
            )
        )
    if (worst := max(outcome.worst_layer for outcome in outcomes)) > TOLERANCE:
        raise UserError(
            "these concepts cannot be merged",
            cause=f"no matrices do what all of them do at their own tokens; the nearest are off by {worst:.1e}, {TOLERANCE:g} is allowed",
            remedy="merge fewer of them, or train them together",
        )
    return Merge(
        concept=replace(everyone, tuned=merged),
        concepts=tuple(outcomes),
        base_held_out=_output_error(held_out_states, merged, originals),
        base_layers={name: _output_error(held_out_states, {name: merged[name]}, originals) for name in merged},
        num_captions=len(kept),
        num_held_out=num_held_out,
    )


def _subjects(concept: Concept, names: Mapping[str, str]) -> list[tuple[str, str]]:
    for token, word in zip(concept.header.tokens, concept.header.class_words, strict=True):
        if word == UNKNOWN:
            raise UserError(
                f"the class word of {token} in {concept.source or 'a concept'} is unknown",
                cause="the concept was imported without",
                remedy="import it again with --class WORD",
            )
    return [(names[token], word) for token, word in zip(concept.header.tokens, concept.header.class_words, strict=True)]


def _draft(base: Base, concepts: Sequence[Concept], renames: Sequence[Mapping[str, str]], weights: Mapping[str, Tensor]) -> Concept:
    """All tokens in the untouched base: what the merge starts from, and, with other matrices, what it ends with."""
    headers = [concept.header for concept in concepts]

    def shared(values: list[float | None]) -> float | None:
        return values[0] if len(set(values)) == 1 else None

    header = ConceptHeader(
        base=base.id,
        fingerprint=base.fingerprint,
        tokens=tuple(names[token] for one, names in zip(headers, renames, strict=True) for token in one.tokens),
        class_words=tuple(word for one in headers for word in one.class_words),
        method="merge",
        spl_weight=shared([one.spl_weight for one in headers]),
        spl_mode=headers[0].spl_mode if len({one.spl_mode for one in headers}) == 1 else UNKNOWN,
        steps=None,
        seed=None,
        versions=versions(),
        training={
            "merged": [
                {"tokens": names, "method": one.method, "steps": one.steps, "seed": one.seed, "training": one.training}
                for one, names in zip(headers, renames, strict=True)
            ]
        },
    )
    embeddings = {names[token]: row for one, names in zip(concepts, renames, strict=True) for token, row in one.embeddings.items()}
    looks = {names[token]: seen for one, names in zip(concepts, renames, strict=True) for token, seen in one.looks.items()}
    return Concept(header=header, tuned=dict(weights), embeddings=embeddings, looks=looks)


@torch.no_grad()
def _states(base: Base, captions: Sequence[str], *, start: str | None = None, on_step: OnStep | None = None) -> Tensor:
    """Text states (P, D) in fp64 of every position from the first, or from the token `start`, to the end of each caption."""
    parts = []
    for first in range(0, len(captions), _BATCH):
        prompts = list(captions[first : first + _BATCH])
        ids = token_ids(base.tokenizer, prompts)
        states = base.text_states(prompts).double().cpu()
        ends = eos_positions(ids, base.tokenizer.eos_token_id)
        starts = [0] * len(ids) if start is None else (ids == base.tokenizer.convert_tokens_to_ids(start)).int().argmax(dim=-1).tolist()
        parts += [row[begin : end + 1] for row, begin, end in zip(states, starts, ends.tolist(), strict=True)]
        if on_step:
            on_step(min(first + _BATCH, len(captions)), len(captions))
    return torch.cat(parts)


@torch.no_grad()
def _every_state(base: Base, caption: str) -> Tensor:
    return base.text_states([caption])[0].double().cpu()


def _output_error(states: Tensor, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """Frobenius distance of the outputs at the states, over all layers of `found`, relative to the wanted outputs' norm."""
    distance = sum(float((states @ (matrix.double() - wanted[name].double()).T).square().sum()) for name, matrix in found.items())
    norm = sum(float((states @ wanted[name].double().T).square().sum()) for name in found)
    return relative(distance**0.5, norm**0.5)
