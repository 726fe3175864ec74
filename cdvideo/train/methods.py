"""What trains: Custom Diffusion's choice, which ClassDiffusion keeps."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from cdvideo.base import Base, ConceptEmbedding, initializer_id, key_value_names, single_token_id, tokenizer_with


def detach_first_token(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """A forward hook on a key or value projection (B, L, D): the first position (BOS) passes without a gradient."""
    return torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is learnt: the token that will stand for it, its class word, and the word whose embedding the token starts from."""

    token: str
    class_word: str
    initializer: str


class KeyValueTuning:
    """Puts the base into training: cross-attention `to_k` and `to_v` and one embedding row per token train, and nothing else.

    Leaving the `with` block restores the base bit for bit.
    """

    def __init__(self, base: Base, subjects: list[Subject]) -> None:
        self.base = base
        self.subjects = subjects
        self._tokenizer = base.components.tokenizer
        self._embedding = base.text_encoder.get_input_embeddings()
        for subject in subjects:
            single_token_id(self._tokenizer, subject.class_word)
        starts = [initializer_id(self._tokenizer, subject.initializer) for subject in subjects]
        base.components.tokenizer = tokenizer_with(self._tokenizer, tuple(subject.token for subject in subjects))
        rows = self._embedding.weight[torch.tensor(starts, device=base.device)].detach().float().clone()
        self.embedding = ConceptEmbedding(self._embedding, rows)
        base.text_encoder.set_input_embeddings(self.embedding)
        self.key_values: dict[str, nn.Parameter] = {}
        self._originals: dict[str, nn.Parameter] = {}
        self._hooks = []
        for name in key_value_names(base.unet):
            projection = base.unet.get_submodule(name.removesuffix(".weight"))
            self._originals[name] = projection.weight
            projection.weight = nn.Parameter(projection.weight.detach().float().clone())
            self.key_values[name] = projection.weight
            self._hooks.append(projection.register_forward_hook(detach_first_token))

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [*self.key_values.values(), self.embedding.rows]

    def embeddings(self) -> dict[str, Tensor]:
        return {subject.token: self.embedding.rows[index].detach().clone() for index, subject in enumerate(self.subjects)}

    def restore(self) -> None:
        for hook in self._hooks:
            hook.remove()
        for name, original in self._originals.items():
            self.base.unet.get_submodule(name.removesuffix(".weight")).weight = original
        self.base.text_encoder.set_input_embeddings(self._embedding)
        self.base.components.tokenizer = self._tokenizer

    def __enter__(self) -> KeyValueTuning:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.restore()
