"""Prompts as the text encoder reads them: token ids in chunks of equal length, and how much each token counts.

Shapes: `R` prompts, `L` text positions of one chunk (77 for CLIP), `T` those of all chunks.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cdvideo.animate.weights import parse_weights
from cdvideo.concept import LIKE_A_TOKEN, Concept, is_named
from cdvideo.errors import UserNote

WeightedId = tuple[int, float]
_LIKE_A_TOKEN = re.compile(LIKE_A_TOKEN.pattern, re.IGNORECASE)


@dataclass(frozen=True)
class TokenizedPrompts:
    """`ids` and `weights` (R, T): every prompt in as many chunks of `chunk_length` positions, each with its own BOS and EOS."""

    ids: Tensor
    weights: Tensor
    chunk_length: int


def tokenize(tokenizer: Any, prompts: Sequence[str], concepts: Sequence[Concept] = ()) -> TokenizedPrompts:
    """The prompts' tokens, all in as many chunks as the longest needs. Says when one needs more than one.

    A chunk ends where it is full, but never inside a word or between a concept's token and its class word.
    """
    size = tokenizer.model_max_length - 2
    tokens = [token for concept in concepts for token in concept.header.tokens]
    chunked: dict[str, list[list[WeightedId]]] = {}
    for prompt in dict.fromkeys(prompts):
        weighted = _weighted_ids(tokenizer, prompt, tokens)
        chunks = chunked[prompt] = _chunks(tokenizer, weighted, concepts, size)
        if len(chunks) > 1:
            length = f"is {len(weighted)} tokens long and is read in {len(chunks)} parts of at most {size}"
            warnings.warn(f"the prompt {_shortened(prompt)!r} {length}", UserNote, stacklevel=2)
    most = max(len(chunks) for chunks in chunked.values())
    rows = [_row(tokenizer, [*chunked[prompt], *[[]] * (most - len(chunked[prompt]))]) for prompt in prompts]
    ids = torch.tensor([[token for token, _ in row] for row in rows])
    weights = torch.tensor([[weight for _, weight in row] for row in rows])
    return TokenizedPrompts(ids, weights, size + 2)


def describe_prompt(tokenizer: Any, prompt: str, concepts: Sequence[Concept]) -> str:
    """How long a prompt is, and which of its words are whose."""
    tokens = [token for concept in concepts for token in concept.header.tokens]
    length = f"{len(_weighted_ids(tokenizer, prompt, tokens))} tokens (up to {tokenizer.model_max_length - 2} at a time)"
    own = [(token, concept.source or "a concept") for concept in concepts for token in concept.header.tokens]
    return ", ".join([length, *(f"{token} is {source}" for token, source in own if is_named(token, prompt))])


def say_unknown_tokens(prompts: Sequence[str], concepts: Sequence[Concept]) -> None:
    """Says which words look like a concept's token and are none that is here."""
    known = {token for concept in concepts for token in concept.header.tokens}
    found = dict.fromkeys(word for prompt in prompts for word in _LIKE_A_TOKEN.findall(prompt) if word not in known)
    for word in found:
        used = f"they have {', '.join(sorted(known))}" if known else "there is none; give one with --concept, or train it"
        note = f"the prompt names {word}, which no concept in use has ({used}); it is read as an ordinary word"
        warnings.warn(note, UserNote, stacklevel=2)


def _weighted_ids(tokenizer: Any, prompt: str, tokens: Sequence[str]) -> list[WeightedId]:
    return [
        (token, weight)
        for text, weight in parse_weights(prompt, tokens)
        for token in tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    ]


def _chunks(tokenizer: Any, weighted: Sequence[WeightedId], concepts: Sequence[Concept], size: int) -> list[list[WeightedId]]:
    """The tokens in pieces of at most `size`, one empty piece where there are none."""
    ids = [token for token, _ in weighted]
    pieces = tokenizer.convert_ids_to_tokens(ids)
    own = {tokenizer.convert_tokens_to_ids(token) for concept in concepts for token in concept.header.tokens}
    phrases = {
        (tokenizer.convert_tokens_to_ids(token), *tokenizer(word, add_special_tokens=False).input_ids)
        for concept in concepts
        for token, word in zip(concept.header.tokens, concept.header.class_words, strict=True)
    }
    chunks, start = [], 0
    while len(ids) - start > size:
        end = next(
            (
                cut
                for cut in range(start + size, start, -1)
                if (pieces[cut - 1].endswith("</w>") or ids[cut - 1] in own) and (ids[cut - 1], ids[cut]) not in phrases
            ),
            start + size,
        )
        chunks.append(list(weighted[start:end]))
        start = end
    return [*chunks, list(weighted[start:])]


def _row(tokenizer: Any, chunks: Sequence[Sequence[WeightedId]]) -> list[WeightedId]:
    row: list[WeightedId] = []
    for chunk in chunks:
        padding = tokenizer.model_max_length - 2 - len(chunk)
        row += [(tokenizer.bos_token_id, 1.0), *chunk, (tokenizer.eos_token_id, 1.0), *[(tokenizer.pad_token_id, 1.0)] * padding]
    return row


def _shortened(prompt: str) -> str:
    return prompt if len(prompt) <= 40 else f"{prompt[:39]}…"
