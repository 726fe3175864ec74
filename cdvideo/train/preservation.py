"""The semantic preservation loss's prompts and features, in both readings of it.

`paper` is equation 10 of the paper: the feature at the end of text of "a photo of a V* bear", summed over concepts. `official` is what the
public script computes: where Stable Diffusion 1.5's text encoder pools at the highest id, that is V*'s own, which never sees the class
word; V* enters there without its position; and concepts are averaged.

Shapes: `N` concepts, `L` text positions, `D` text width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cdvideo.base import Base, eos_positions, token_ids
from cdvideo.train.losses import semantic_preservation_loss
from cdvideo.train.methods.tuning import Tuning

SPL_MODES = ("paper", "official")


class Preservation:
    """Compares each subject's phrase with its class's, given a tuning that is in the base. The class features are computed once."""

    def __init__(self, tuning: Tuning, mode: str = "paper") -> None:
        if mode not in SPL_MODES:
            raise ValueError(f"no mode {mode!r}; one of {SPL_MODES}")
        base, self.official = tuning.base, mode == "official"
        self._embedding = tuning.embedding
        self.ids = _ids(base, [subject.prompt for subject in tuning.subjects])
        class_ids = _ids(base, [subject.class_prompt for subject in tuning.subjects])
        self.positions = self._pooled_at(self.ids, base)
        with torch.no_grad():
            states = base.text_encoder(class_ids).last_hidden_state
        self.class_features = _at(states, self._pooled_at(class_ids, base)).float()
        tokens = base.tokenizer.convert_tokens_to_ids([subject.token for subject in tuning.subjects])
        self._own = self.ids == torch.tensor(tokens, device=self.ids.device)[:, None]

    def _pooled_at(self, ids: Tensor, base: Base) -> Tensor:
        return ids.argmax(dim=-1) if self.official else eos_positions(ids, base.tokenizer.eos_token_id)

    def loss(self, states: Tensor) -> Tensor:
        """The loss from the last hidden states (N, L, D) of `ids`, encoded within `inputs`."""
        loss = semantic_preservation_loss(_at(states, self.positions).float(), self.class_features)
        return loss / len(self.ids) if self.official else loss

    @contextmanager
    def inputs(self, text_encoder: Any) -> Iterator[None]:
        """Within it, the last N prompts of every pass are read as the mode says: in `official`, V* without its position."""
        if not self.official:
            yield
            return

        def without_position(module: Any, inputs: Any, embedded: Tensor) -> Tensor:
            rows = self._embedding.rows.to(embedded.dtype)[:, None]
            bare = torch.where(self._own[..., None], rows, embedded[-len(self.ids) :])
            return torch.cat([embedded[: -len(self.ids)], bare])

        hook = text_encoder.embeddings.register_forward_hook(without_position)
        try:
            yield
        finally:
            hook.remove()


@torch.no_grad()
def class_distances(base: Base, subjects: Sequence[Any]) -> dict[str, float]:
    """By token, the paper's measure of drift: the cosine distance at the end of text from "a photo of a bear" to "a photo of a V* bear"."""
    own = base.text_features([subject.prompt for subject in subjects]).float()
    words = base.text_features([subject.class_prompt for subject in subjects]).float()
    distances = 1 - F.cosine_similarity(own, words, dim=-1)
    return {subject.token: float(distance) for subject, distance in zip(subjects, distances, strict=True)}


def _ids(base: Base, prompts: list[str]) -> Tensor:
    return token_ids(base.tokenizer, prompts).to(base.device)


def _at(states: Tensor, positions: Tensor) -> Tensor:
    return states[torch.arange(len(states), device=states.device), positions]
