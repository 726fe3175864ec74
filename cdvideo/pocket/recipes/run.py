"""What every recipe shares: a folder with a resumable checkpoint, a log of one JSON object a line, and averaged weights."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CHECKPOINT = "checkpoint.pt"


@dataclass
class Run:
    """One part's training: where it writes, how far it is, how long it has run."""

    folder: Path
    step: int = 0
    seconds: float = 0.0
    _started: float = field(default_factory=time.monotonic)

    @classmethod
    def open(cls, folder: Path, **stateful: Any) -> Run:
        """The run in `folder`, its objects brought to where the last checkpoint left them, or to the weights that `begin_with` gave."""
        folder.mkdir(parents=True, exist_ok=True)
        run = cls(folder)
        if run.checkpoint_path.exists():
            saved = torch.load(run.checkpoint_path, map_location="cpu", weights_only=True)
            run.step, run.seconds = saved["step"], saved["seconds"]
            only_weights = saved.keys() == {"step", "seconds", "average"}
            for name, thing in stateful.items():
                if not only_weights or name == "average":
                    thing.load_state_dict(saved[name])
            if only_weights:
                stateful["average"].put()
        run._started = time.monotonic() - run.seconds
        return run

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / CHECKPOINT

    @property
    def elapsed(self) -> float:
        """Seconds of training so far, those before a resume included."""
        return time.monotonic() - self._started

    def save(self, **stateful: Any) -> None:
        """Writes the checkpoint; each argument is something with a `state_dict` or a state itself."""
        state = {name: thing if isinstance(thing, dict) else thing.state_dict() for name, thing in stateful.items()}
        temporary = self.checkpoint_path.with_suffix(".tmp")
        torch.save({"step": self.step, "seconds": self.elapsed, **state}, temporary)
        os.replace(temporary, self.checkpoint_path)

    def log(self, **values: float) -> None:
        line = {"step": self.step, "seconds": round(self.elapsed, 1), **{name: round(value, 5) for name, value in values.items()}}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(self.folder.name, json.dumps(line), flush=True)


def begin_with(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Lets the training in `folder` begin with finished weights; what they leave out begins as usual."""
    folder.mkdir(parents=True, exist_ok=True)
    average = {"updates": 0, "values": {name: value.float() for name, value in weights.items()}}
    Run(folder).save(average=average)


class Average:
    """An exponential moving average of a model's parameters, with the usual warm-up of its decay."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.decay = decay
        self.updates = 0
        self.values = {name: value.detach().float().clone() for name, value in model.named_parameters() if value.requires_grad}

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        parameters = dict(self.model.named_parameters())
        torch._foreach_lerp_(list(self.values.values()), [parameters[name].float() for name in self.values], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """The model with the averaged weights in it, and its own again afterwards."""
        parameters = dict(self.model.named_parameters())
        own = {name: parameters[name].detach().clone() for name in self.values}
        self.put()
        try:
            yield self.model
        finally:
            self.put(own)

    @torch.no_grad()
    def put(self, values: dict[str, Tensor] | None = None) -> None:
        """Writes `values` (the averages, where none are given) into the model."""
        parameters = dict(self.model.named_parameters())
        for name, value in (self.values if values is None else values).items():
            parameters[name].copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for name in self.values.keys() & state["values"].keys():
            self.values[name].copy_(state["values"][name])


def constant_then_decay(fraction: float, warmup: float = 0.01, decay_from: float = 0.8) -> float:
    """The learning rate's factor at a fraction of the training: a short warm-up, constant, then linearly to nearly nothing."""
    if fraction < warmup:
        return fraction / warmup
    return 1.0 if fraction < decay_from else max(0.02, (1 - fraction) / (1 - decay_from))
