"""Textual Inversion: the token alone."""

from __future__ import annotations

from cdvideo.train.methods.tuning import Tuning


class EmbeddingTuning(Tuning):
    """One embedding row per token trains. Gal et al. 2023, section 4. The prompts are those of the other methods: the class word stays."""
