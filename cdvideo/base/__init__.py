"""The base: a Stable-Diffusion-1.5-shaped model, from `pocket` to SD1.5 itself."""

from cdvideo.base.model import Base, Injection, key_value_names, load, versions
from cdvideo.base.text import ConceptEmbedding, single_token_id, tokenizer_with

__all__ = ["Base", "ConceptEmbedding", "Injection", "key_value_names", "load", "single_token_id", "tokenizer_with", "versions"]
