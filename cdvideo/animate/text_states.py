"""What the UNet attends to: keys and values of a prompt, computed once, with each concept at work on its own phrase alone.

Without merging, several concepts share a picture: at the positions of "V1* bear" the first one's matrices act, at those of "V2* cat" the
second one's, and the base's everywhere else.

Shapes: `R` prompts, `B` rows of a pass through the UNet, `L` text positions, `D` text width, `O` width of an attention layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from cdvideo.base import Base, key_value_names, token_ids
from cdvideo.concept import Concept
from cdvideo.errors import UserError

LocalConcept = tuple[Concept, float]
"""A concept and its strength: 0 is the base, 1 the concept as it was trained."""


class TextKeyValues:
    """The keys and values of some prompts in every cross-attention of a UNet: `states` (R, L, D) and one (R, L, O) for each matrix."""

    def __init__(self, base: Base, prompts: Sequence[str], local: Sequence[LocalConcept] = ()) -> None:
        with torch.no_grad():
            self.states = base.text_states(list(prompts)).to(base.dtype)
            weights = dict(base.unet.named_parameters())
            self.outputs = {name: self.states @ weights[name].to(self.states).T for name in key_value_names(base.unet)}
            for concept, strength in local:
                at_phrase = phrase_positions(base, prompts, concept).to(self.states)[..., None] * strength
                for name, tuned in concept.key_values.items():
                    change = tuned.to(weights[name].float()).to(base.device) - weights[name].float()
                    self.outputs[name] += at_phrase * (self.states @ change.to(self.states).T)

    @contextmanager
    def within(self, unet: Any, *, num_prompts: int) -> Iterator[None]:
        """Within it, `unet` takes its keys and values from here: the last `num_prompts` prompts, each for an equal share of its rows."""
        layers = {name: unet.get_submodule(name.removesuffix(".weight")) for name in self.outputs}

        def given(output: Tensor) -> Any:
            rows = output[-num_prompts:]
            return lambda states: rows.repeat_interleave(len(states) // num_prompts, dim=0)

        for name, layer in layers.items():
            layer.forward = given(self.outputs[name])
        try:
            yield
        finally:
            for layer in layers.values():
                del layer.forward


def phrase_positions(base: Base, prompts: Sequence[str], concept: Concept) -> Tensor:
    """(R, L) bool: where each prompt has one of the concept's tokens, and the class word right behind it."""
    ids = token_ids(base.tokenizer, list(prompts))
    found = torch.zeros_like(ids, dtype=torch.bool)
    for token, class_word in zip(concept.header.tokens, concept.header.class_words, strict=True):
        at_token = ids == base.tokenizer.convert_tokens_to_ids(token)
        word = base.tokenizer(class_word, add_special_tokens=False).input_ids
        found |= at_token
        if len(word) == 1:
            found[:, 1:] |= at_token[:, :-1] & (ids[:, 1:] == word[0])
    return found.to(base.device)


def require_local(concepts: Sequence[Concept]) -> None:
    """Raises UserError for a concept whose method tuned more than keys and values: it cannot be kept to its own phrase."""
    for concept in concepts:
        if concept.beyond_key_values:
            raise UserError(
                f"the concept of {', '.join(concept.header.tokens)} cannot share a picture with another",
                cause=f"it was made by {concept.header.method}, which tunes the whole UNet",
                remedy="train it with --method classdiffusion",
            )


def describe_local(local: Sequence[LocalConcept], digests: Sequence[str]) -> list[dict[str, Any]]:
    """What a record says of the concepts; `digests` are those of their files, whose tokens may have had other names."""
    return [
        {
            "file": str(concept.source) if concept.source else None,
            "digest": digest,
            "tokens": list(concept.header.tokens),
            "class_words": list(concept.header.class_words),
            "strength": strength,
        }
        for (concept, strength), digest in zip(local, digests, strict=True)
    ]
