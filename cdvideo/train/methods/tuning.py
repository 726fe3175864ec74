"""What every method shares: the tokens, and the way into the base and out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cdvideo.base import Base, ConceptEmbedding, initializer_id, single_token_id, tokenizer_with
from cdvideo.concept import LowRankChange, SpectralShift
from cdvideo.train.subject import Subject


class InPrecision(nn.Module):
    """A weight that trains in fp32, as the passes of a base in another precision read it."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, value: Tensor) -> Tensor:
        return value.to(self.dtype)


class Tuning:
    """Puts a base into training. Its tokenizer then reads the subjects' tokens, each with an embedding row of its own.

    What trains is `trained`, by name; the rows are among it where `TRAINS_ROWS`. Leaving the `with` block restores the base bit for bit.
    """

    TRAINS_ROWS = True
    ROWS = "rows"

    def __init__(self, base: Base, subjects: Sequence[Subject]) -> None:
        self.base, self.subjects = base, subjects
        self._tokenizer = base.components.tokenizer
        self._embedding = base.text_encoder.get_input_embeddings()
        for subject in subjects:
            single_token_id(self._tokenizer, subject.class_word)
        starts = [initializer_id(self._tokenizer, subject.initializer) for subject in subjects]
        base.components.tokenizer = tokenizer_with(self._tokenizer, tuple(subject.token for subject in subjects))
        rows = self._embedding.weight[torch.tensor(starts, device=base.device)].detach().float().clone()
        self.embedding = ConceptEmbedding(self._embedding, rows)
        self.embedding.rows.requires_grad_(self.TRAINS_ROWS)
        base.text_encoder.set_input_embeddings(self.embedding)
        self.trained: dict[str, nn.Parameter] = {self.ROWS: self.embedding.rows} if self.TRAINS_ROWS else {}
        self._before: dict[nn.Module, dict[str, nn.Parameter | None]] = {}
        try:
            self.put_in()
        except BaseException:
            self.restore()
            raise

    def put_in(self) -> None:
        """Puts what else a method trains into the base, and names it in `trained`."""

    def let_train(self, name: str) -> None:
        """Lets a parameter of the UNet train, as an fp32 copy in its place."""
        module_name, _, last = name.rpartition(".")
        module = self.base.unet.get_submodule(module_name)
        self.keep_parameters(module)
        # Optimisers and their checkpoints know one order of memory, whatever that of the base is.
        value = nn.Parameter(getattr(module, last).detach().float().clone(memory_format=torch.contiguous_format))
        module.register_parameter(last, value)
        if self.base.dtype != torch.float32:
            parametrize.register_parametrization(module, last, InPrecision(self.base.dtype), unsafe=True)
        self.trained[name] = value

    def keep_parameters(self, module: nn.Module) -> None:
        """Has `restore` give a module of the UNet the parameters that it has now, in this order, which optimisers know them by."""
        self._before.setdefault(module, dict(module._parameters))

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.trained.values())

    def tuned_weights(self) -> Mapping[str, Tensor | LowRankChange | SpectralShift]:
        """What the concept holds of the UNet, copied."""
        return {name: value.detach().clone() for name, value in self.trained.items() if name != self.ROWS}

    def embeddings(self) -> dict[str, Tensor]:
        return {subject.token: self.embedding.rows[index].detach().clone() for index, subject in enumerate(self.subjects)}

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of what trains, on the CPU: a GPU that has room for the training need not have it for one more UNet."""
        return {name: value.detach().to("cpu", copy=True) for name, value in self.trained.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, value in self.trained.items():
            value.copy_(state[name])

    def restore(self) -> None:
        for module, parameters in self._before.items():
            for name in parameters:
                if parametrize.is_parametrized(module, name):
                    parametrize.remove_parametrizations(module, name, leave_parametrized=False)
            module._parameters.clear()
            module._parameters.update(parameters)
        self.base.text_encoder.set_input_embeddings(self._embedding)
        self.base.components.tokenizer = self._tokenizer

    def __enter__(self) -> Tuning:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.restore()
