"""What the UNet attends to: keys and values of prompts, computed once, and mixed for each frame.

Without merging, several concepts share a picture: at the positions of "V1* bear" the first one's matrices act, at those of "V2* cat" the
second one's, and the base's everywhere else. A frame's keys and values are a sum of a few fixed ones, which are called sources here: each
prompt's through the base's matrices, and what each concept adds to them. Since keys and values are linear in the text states, mixing them
is mixing the text states.

Shapes: `R` prompts, `N` concepts, `S` = R (1 + N) sources, `B` rows of a pass through the UNet, `F` frames, `T` text positions, `D` text
width, `O` width of an attention layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from cdvideo.animate.tokens import TokenizedPrompts, tokenize
from cdvideo.base import Base, key_value_names
from cdvideo.concept import Concept
from cdvideo.errors import UserError

LocalConcept = tuple[Concept, float]
"""A concept and its strength: 0 is the base, 1 the concept as it was trained."""


class TextKeyValues:
    """The keys and values of some prompts in every cross-attention of a UNet: `sources` holds (S, T, O) for each matrix.

    Each concept changes them at its own phrase, or with `everywhere` at every position, as its matrices in the base would.
    """

    def __init__(self, base: Base, tokens: TokenizedPrompts, concepts: Sequence[Concept] = (), *, everywhere: bool = False) -> None:
        self.num_prompts, self.num_concepts = len(tokens.ids), len(concepts)
        self.dtype, self.device = base.dtype, base.device
        with torch.no_grad():
            states = text_states(base, tokens).to(base.dtype)
            weights = dict(base.unet.named_parameters())
            names = key_value_names(base.unet)
            sources = {name: [states @ weights[name].to(states).T] for name in names}
            for concept in concepts:
                at = torch.ones_like(tokens.ids, dtype=torch.bool) if everywhere else phrase_positions(base, tokens.ids, concept)
                there = at.to(states)[..., None]
                for name in names:
                    if name not in concept.tuned:
                        sources[name].append(torch.zeros_like(sources[name][0]))
                        continue
                    change = concept.tuned[name].to(weights[name].float()).to(base.device) - weights[name].float()
                    sources[name].append(there * (states @ change.to(states).T))
            self.sources = {name: torch.cat(rows) for name, rows in sources.items()}

    def mixed(self, prompt_weights: Tensor, strengths: Tensor) -> Tensor:
        """What `within`'s UNet takes for its text states: how much of each source, (F, 1, S).

        `prompt_weights` (F, R) say how much each prompt counts at each frame, `strengths` (F, N) how strong each concept is.
        """
        shares = [prompt_weights, *(prompt_weights * strength[:, None] for strength in strengths.T)]
        return torch.cat(shares, dim=1)[:, None].to(self.device, self.dtype)

    @contextmanager
    def within(self, unet: Any) -> Iterator[None]:
        """Within it, `unet` takes its keys and values from here: each row of its text states (B, 1, S) says how much of each source."""
        layers = {name: unet.get_submodule(name.removesuffix(".weight")) for name in self.sources}

        def mixture_of(sources: Tensor) -> Any:
            flat = rearrange(sources, "s t o -> s (t o)")
            return lambda mixed: (mixed[:, 0] @ flat).unflatten(1, sources.shape[1:])

        for name, layer in layers.items():
            layer.forward = mixture_of(self.sources[name])
        try:
            yield
        finally:
            for layer in layers.values():
                del layer.forward


def text_states(base: Base, tokens: TokenizedPrompts) -> Tensor:
    """(R, T, D): the states of each chunk by itself, one after the other, each position as far from the empty prompt's as it weighs.

    That is ComfyUI's and compel's way: e + w (z - e), with z the states and e the empty prompt's at the same position.
    """
    chunks = rearrange(tokens.ids, "r (c l) -> (r c) l", l=tokens.chunk_length).to(base.device)
    states = base.text_encoder(chunks).last_hidden_state
    if bool((tokens.weights != 1).any()):
        empty = base.text_encoder(tokenize(base.tokenizer, [""]).ids.to(base.device)).last_hidden_state
        weights = rearrange(tokens.weights, "r (c l) -> (r c) l 1", l=tokens.chunk_length).to(states)
        states = torch.where(weights == 1, states, empty + weights * (states - empty))
    return rearrange(states, "(r c) l d -> r (c l) d", r=len(tokens.ids))


def phrase_positions(base: Base, ids: Tensor, concept: Concept) -> Tensor:
    """(R, T) bool: where prompts of these ids have one of the concept's tokens, and the class word right behind it."""
    found = torch.zeros_like(ids, dtype=torch.bool)
    for token, class_word in zip(concept.header.tokens, concept.header.class_words, strict=True):
        at_token = ids == base.tokenizer.convert_tokens_to_ids(token)
        word = base.tokenizer(class_word, add_special_tokens=False).input_ids
        found |= at_token
        if len(word) == 1:
            found[:, 1:] |= at_token[:, :-1] & (ids[:, 1:] == word[0])
    return found.to(base.device)


def require_key_values(concepts: Sequence[Concept], what: str) -> None:
    """Raises UserError, saying that the concept cannot `what`, for one whose method tuned more than keys and values."""
    for concept in concepts:
        if concept.beyond_key_values:
            raise UserError(
                f"the concept of {', '.join(concept.header.tokens)} cannot {what}",
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
