"""Short trainings on the tiny base, and what is asked of them."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cdvideo import train
from cdvideo.base import Base
from cdvideo.concept import Concept, LowRankChange, SpectralShift
from cdvideo.train import Progress, Subject

BEAR = Subject(token="V*", class_word="bear", initializer="ktn")
BEAR_AND_DOG = (
    Subject(token="V1*", class_word="bear", initializer="ktn"),
    Subject(token="V2*", class_word="dog", initializer="teddy"),
)


@dataclass
class Training:
    concept: Concept
    progress: list[Progress]

    def losses(self) -> Tensor:
        return torch.tensor([[one.noise_loss, one.prior_loss, one.spl] for one in self.progress], dtype=torch.float64)

    def tensors(self) -> dict[str, Tensor]:
        return tensors_of(self.concept)


def run(base: Base, pictures: Any, out: Path, subjects: Any = (BEAR,), **settings: Any) -> Training:
    """A training of 4 steps of 2 pictures unless `settings` say otherwise."""
    progress: list[Progress] = []
    on_step = settings.pop("on_step", None)

    def note(one: Progress) -> None:
        progress.append(one)
        if on_step:
            on_step(one)

    photos = {subject.token: pictures[subject.token] for subject in subjects}
    usual = {"steps": 4, "batch_size": 2, "learning_rate": 1e-3}
    return Training(train.train(base, photos, list(subjects), out=out, on_step=note, **{**usual, **settings}), progress)


def tensors_of(concept: Concept) -> dict[str, Tensor]:
    found = {f"embedding.{token}": value for token, value in concept.embeddings.items()}
    for name, value in concept.tuned.items():
        if isinstance(value, SpectralShift):
            found[f"{name}.shift"] = value.shift
        else:
            assert not isinstance(value, LowRankChange)
            found[name] = value
    return found


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    differing = [name for name, value in one.items() if not torch.equal(value, other[name])]
    assert not differing, f"{len(differing)} differ, first {differing[0]}"


def relative_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The norm of the difference of all tensors over that of `other`."""
    assert one.keys() == other.keys()
    difference = math.sqrt(sum(float((one[name].double() - other[name].double()).square().sum()) for name in one))
    return difference / math.sqrt(sum(float(value.double().square().sum()) for value in other.values()))


def change(concept: Concept, base: Base) -> Tensor:
    """What the concept adds to the base's weights, as one vector."""
    weights = dict(base.unet.named_parameters())
    return torch.cat([(value.to(weights[name].float()) - weights[name].float()).flatten() for name, value in concept.tuned.items()])


def snapshot(base: Base) -> dict[str, Tensor]:
    """Every parameter and buffer of the base by name, copied, in the order in which it holds them."""
    parts = {"unet": base.unet, "text_encoder": base.text_encoder, "vae": base.vae}
    return {
        f"{part}.{name}": value.detach().clone()
        for part, module in parts.items()
        for name, value in (*module.named_parameters(), *module.named_buffers())
    }
