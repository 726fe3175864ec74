"""The base: a Stable-Diffusion-1.5-shaped model, from `pocket` to SD1.5 itself.

Its names are imported when first used, so that listing models (`base.catalog`, `base.hub`) needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdvideo.base.model import Base, Injection, Vocabulary, key_value_names, load, versions
    from cdvideo.base.text import ConceptEmbedding, eos_positions, initializer_id, single_token_id, token_ids, tokenizer_with

__all__ = [
    "Base",
    "ConceptEmbedding",
    "Injection",
    "Vocabulary",
    "eos_positions",
    "initializer_id",
    "key_value_names",
    "load",
    "single_token_id",
    "token_ids",
    "tokenizer_with",
    "versions",
]

_TEXT = {"ConceptEmbedding", "eos_positions", "initializer_id", "single_token_id", "token_ids", "tokenizer_with"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{'text' if name in _TEXT else 'model'}"), name)
