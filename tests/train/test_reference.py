"""The training loop against an independent one that is given the same views, noise and timesteps."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F

from cdvideo.base import tokenizer_with
from cdvideo.train.batches import Batches, FreshViews
from cdvideo.train.subject import subject_examples
from tests.train.reference import ReferenceSample, ReferenceSubject, reference_training
from tests.train.trainings import BEAR, BEAR_AND_DOG, run

BATCH = 2


def same_samples(base, subjects, photos, seed, steps):
    """The data, and only the data, that the training of this seed sees."""
    components = copy.copy(base.components)
    components.tokenizer = tokenizer_with(components.tokenizer, tuple(subject.token for subject in subjects))
    reading = dataclasses.replace(base, components=components)
    views = FreshViews(reading, subject_examples(subjects, photos))
    batches = Batches(reading, views, None, seed=seed, num_train_timesteps=1000)
    for step in range(steps):
        batch = batches.draw(step, range(BATCH))
        yield ReferenceSample(batch.captions, batch.pixels, batch.mask, batch.posterior_noise, batch.noise, batch.timesteps)


def compare(base, subjects, pictures, out, *, mode, steps=20, spl_weight=30.0, learning_rate=1e-3):
    photos = {subject.token: pictures[subject.token] for subject in subjects}
    reference = reference_training(
        base.components,
        [ReferenceSubject(subject.token, subject.class_word, subject.initializer) for subject in subjects],
        same_samples(base, subjects, photos, 3, steps),
        learning_rate=learning_rate * BATCH,
        preservation_weight=spl_weight,
        mode=mode,
    )
    settings = {"steps": steps, "batch_size": BATCH, "learning_rate": learning_rate, "spl_mode": mode, "spl_weight": spl_weight, "seed": 3}
    ours = run(base, pictures, out, subjects, **settings)
    noise_losses, _, preservation_losses = ours.losses().T
    assert noise_losses.tolist() == pytest.approx(reference.noise_losses, rel=1e-4)
    if spl_weight:
        assert preservation_losses.tolist() == pytest.approx(reference.preservation_losses, rel=1e-4)
        assert reference.preservation_losses[-1] < 0.95 * reference.preservation_losses[0], "nothing was learnt"

    weights = dict(base.unet.named_parameters())
    assert reference.tuned.keys() == ours.concept.tuned.keys()
    expected = torch.cat([(value - weights[name]).flatten() for name, value in reference.tuned.items()])
    found = torch.cat([(ours.concept.tuned[name] - weights[name]).flatten() for name in reference.tuned])
    assert F.cosine_similarity(found, expected, dim=0) >= 0.9999
    assert found.norm().item() == pytest.approx(expected.norm().item(), rel=1e-3)
    assert expected.abs().mean() > steps * BATCH * learning_rate / 10, "nothing was learnt"
    table = base.text_encoder.get_input_embeddings().weight
    for subject in subjects:
        start = table[base.tokenizer(subject.initializer, add_special_tokens=False).input_ids[0]]
        moved = ours.concept.embeddings[subject.token] - start
        assert F.cosine_similarity(moved, reference.rows[subject.token] - start, dim=0) >= 0.9999


@pytest.mark.parametrize("mode", ["paper", "official"])
@pytest.mark.parametrize("subjects", [(BEAR,), BEAR_AND_DOG], ids=["one concept", "two concepts"])
def test_twenty_steps_are_those_of_the_reference(small, pictures, tmp_path, mode, subjects):
    compare(small, subjects, pictures, tmp_path / "concept.safetensors", mode=mode)


def test_twenty_steps_without_preservation_are_those_of_the_reference(small, pictures, tmp_path):
    compare(small, (BEAR,), pictures, tmp_path / "concept.safetensors", mode="paper", steps=10, spl_weight=0.0)


def test_the_pocket_base_learns_as_in_the_reference(pocket, pictures, tmp_path):
    subjects = (dataclasses.replace(BEAR, initializer="apple"),)
    compare(pocket, subjects, pictures, tmp_path / "concept.safetensors", mode="paper", steps=3, learning_rate=1e-3)
