"""Prompts to text states, and the tokens that concepts add.

Shapes: `B` prompts, `L` text positions, `D` text width, `V` the base's vocabulary, `N` concept tokens.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from cdvideo.concept import is_word
from cdvideo.errors import UserError, UserNote


class ConceptEmbedding(nn.Module):
    """The base's token embedding with `N` more rows behind it. Only `rows` (N, D) is a parameter of this module's own."""

    def __init__(self, base_embedding: nn.Embedding, rows: Tensor) -> None:
        super().__init__()
        self.base_embedding = base_embedding
        self.rows = nn.Parameter(rows)

    def forward(self, input_ids: Tensor) -> Tensor:
        num_base = self.base_embedding.num_embeddings
        is_concept = input_ids >= num_base
        embedded = self.base_embedding(input_ids.clamp(max=num_base - 1))
        own = self.rows[(input_ids - num_base).clamp(min=0)].to(embedded.dtype)
        return torch.where(is_concept[..., None], own, embedded)


def tokenizer_with(tokenizer: Any, tokens: tuple[str, ...]) -> Any:
    """A copy of the tokenizer that reads each of `tokens` as one piece, with ids from the vocabulary's end on."""
    from tokenizers import AddedToken

    for token in tokens:
        if not token or any(map(str.isspace, token)):
            raise UserError(f"the token {token!r} is not one word", remedy='choose another with --token, such as "V*" or "<my-bear>"')
        if len(tokenizer(token, add_special_tokens=False).input_ids) == 1:
            raise UserError(
                f"the token {token!r} is a word that the base knows already",
                remedy='choose another with --token, such as "V*" or "<my-bear>"',
            )
    extended = copy_of(tokenizer)
    extended.add_tokens([AddedToken(token, single_word=is_word(token), normalized=False, special=False) for token in tokens])
    for token in tokens:
        ids = extended(f"a {token} thing", add_special_tokens=False).input_ids
        if extended.convert_tokens_to_ids(token) not in ids:
            raise UserError(f"the tokenizer splits {token!r}", remedy='choose another --token, such as "V*"')
    return extended


def copy_of(tokenizer: Any) -> Any:
    """A copy that can be added to, or used in another thread. What is long, such as its merges, nothing changes: it is shared."""
    many = [value for value in vars(tokenizer).values() if isinstance(value, (list, dict)) and len(value) > 1000]
    return copy.deepcopy(tokenizer, {id(value): value for value in many})


def token_ids(tokenizer: Any, prompts: list[str]) -> Tensor:
    """(B, L) token ids, padded. Warns with the words that do not fit."""
    length = tokenizer.model_max_length
    for prompt in prompts:
        ids = tokenizer(prompt).input_ids
        if len(ids) > length:
            lost = tokenizer.decode(ids[length - 1 : -1]).replace("</w>", " ").strip()
            warnings.warn(f"the prompt is {len(ids) - 2} tokens long and {length - 2} fit; not used: {lost!r}", UserNote, stacklevel=3)
    return tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids


def eos_positions(input_ids: Tensor, eos_token_id: int) -> Tensor:
    """The first EOS of each row of (B, L), as (B,).

    The text encoder's own pooling is not used: with SD1.5's configuration (`eos_token_id` 2) it takes the highest id, which is V*'s.
    """
    is_eos = input_ids == eos_token_id
    if not bool(is_eos.any(dim=-1).all()):
        raise ValueError("a prompt has no end-of-text token")
    return is_eos.int().argmax(dim=-1)


def eos_features(last_hidden_state: Tensor, input_ids: Tensor, eos_token_id: int) -> Tensor:
    """(B, D): the features at EOS, from (B, L, D) after the encoder's final LayerNorm."""
    rows = torch.arange(len(input_ids), device=last_hidden_state.device)
    return last_hidden_state[rows, eos_positions(input_ids, eos_token_id).to(last_hidden_state.device)]


def initializer_id(tokenizer: Any, word: str) -> int:
    """The id whose embedding a new token starts from: the word's, else the vocabulary's entry of that very name.

    SD1.5's rare entry `ktn` (Custom Diffusion's choice) occurs only inside longer words; read as a word it would split.
    """
    ids = tokenizer(word, add_special_tokens=False).input_ids
    if len(ids) == 1:
        return int(ids[0])
    entry = tokenizer.get_vocab().get(word)
    if entry is None:
        raise UserError(
            f"the base does not know {word!r}, which a token is to start from, as one word",
            cause=_split(tokenizer, ids),
            remedy="leave the initializer out, or name a common single word, such as bear, dog or cat",
        )
    return int(entry)


def single_token_id(tokenizer: Any, word: str) -> int:
    """The id of a word that the base's tokenizer holds as one piece. Raises UserError where it splits."""
    ids = tokenizer(word, add_special_tokens=False).input_ids
    if len(ids) != 1:
        raise UserError(
            f"the base does not know {word!r} as one word",
            cause=_split(tokenizer, ids),
            remedy="name the class by a common single word, such as bear, dog or cat",
        )
    return int(ids[0])


def _split(tokenizer: Any, ids: list[int]) -> str:
    return f"its tokenizer splits it into {', '.join(tokenizer.convert_ids_to_tokens(ids)) or 'nothing'}"
