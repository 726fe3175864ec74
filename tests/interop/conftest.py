from pathlib import Path

import pytest
import torch

from cdvideo import base
from cdvideo.base import key_value_names
from cdvideo.concept import Concept, ConceptHeader
from tests import tiny


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory) -> Path:
    return tiny.pipeline_folder(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def tiny_base(base_folder) -> base.Base:
    return base.load(str(base_folder), device="cpu", dtype="fp32")


def concept_of(loaded: base.Base, tokens=("V*",), class_words=("bear",), seed: int = 4, rank: int | None = None) -> Concept:
    """A concept whose matrices moved by noise a tenth as large as they are; of low rank if `rank` is given."""
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(loaded.unet.named_parameters())
    key_values = {}
    for name in key_value_names(loaded.unet):
        weight = parameters[name].detach()
        noise = torch.randn(weight.shape, generator=generator)
        if rank is not None:
            noise = torch.randn(weight.shape[0], rank, generator=generator) @ torch.randn(rank, weight.shape[1], generator=generator)
        key_values[name] = weight + 0.1 * weight.std() * noise
    header = ConceptHeader(
        base=loaded.id,
        fingerprint=loaded.fingerprint,
        tokens=tokens,
        class_words=class_words,
        spl_weight=0.5,
        steps=7,
        seed=3,
        versions={"cdvideo": "0"},
        training={"photos": 5, "seconds": 1.5},
    )
    embeddings = {token: torch.randn(tiny.TEXT_WIDTH, generator=generator) for token in tokens}
    return Concept(header=header, tuned=key_values, embeddings=embeddings)


@pytest.fixture
def concept(tiny_base) -> Concept:
    return concept_of(tiny_base)


def noise_predicted(loaded: base.Base, prompt: str) -> torch.Tensor:
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return loaded.unet(latents, 500, encoder_hidden_states=loaded.text_states([prompt])).sample


def same_concept(first: Concept, second: Concept) -> bool:
    return (
        first.header == second.header
        and set(first.tuned) == set(second.tuned)
        and all(torch.equal(value, second.tuned[name]) for name, value in first.tuned.items())
        and all(torch.equal(row, second.embeddings[token]) for token, row in first.embeddings.items())
    )
