"""Ways to spend a step that must not change what it learns: accumulation, checkpointed gradients, cached views."""

import copy
import math
import threading
import time
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from cdvideo import train
from cdvideo.base import tokenizer_with
from cdvideo.concept import Concept
from cdvideo.errors import UserError
from cdvideo.train import checkpoint_path
from cdvideo.train.batches import Batches, CachedViews, FreshViews, made_ahead, posteriors, sample_generator
from cdvideo.train.checkpoint import load_checkpoint
from cdvideo.train.subject import Example, subject_examples
from tests.train.trainings import BEAR, assert_same, relative_difference, run


def class_pictures(pictures):
    return {"bear": [picture.rotate(90) for picture in pictures["V*"]]}


@pytest.mark.parametrize("method", ["classdiffusion", "dreambooth"])
def test_accumulated_batches_are_one_large_one(small, pictures, tmp_path, method, one_thread):
    common = {"class_pictures": class_pictures(pictures), "method": method, "steps": 5, "learning_rate": 1e-4}
    large = run(small, pictures, tmp_path / "a.safetensors", batch_size=2, **common)
    parts = run(small, pictures, tmp_path / "b.safetensors", batch_size=1, accumulate=2, **common)
    assert torch.allclose(large.losses(), parts.losses(), rtol=1e-4, atol=1e-7)
    assert relative_difference(parts.tensors(), large.tensors()) < 1e-4


@pytest.mark.parametrize("method", ["classdiffusion", "svdiff"])
def test_checkpointed_gradients_are_the_same_gradients(small, pictures, tmp_path, method):
    common = {"method": method, "prior_weight": 0, "learning_rate": 1e-4}
    usual = run(small, pictures, tmp_path / "a.safetensors", **common)
    passes = []
    hook = small.unet.mid_block.resnets[1].conv1.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    spared = run(small, pictures, tmp_path / "b.safetensors", gradient_checkpointing=True, **common)
    hook.remove()
    assert len(passes) == 2 * 4, "each step computes the middle block once more"
    assert torch.allclose(usual.losses(), spared.losses(), rtol=1e-6, atol=0)
    assert relative_difference(spared.tensors(), usual.tensors()) < 1e-6


def test_checkpointed_gradients_leave_the_base_as_it_was(small, pictures, tmp_path):
    run(small, pictures, tmp_path / "bear.safetensors", steps=1, gradient_checkpointing=True)
    assert not small.unet.training, "the UNet was left in training mode"
    assert not small.unet.is_gradient_checkpointing, "the UNet still checkpoints gradients"


def test_a_cached_views_latents_are_those_of_the_view(small, pictures):
    views = FreshViews(small, subject_examples([BEAR], pictures))
    cached = CachedViews(small, views, 5, seed=7)
    assert len(cached.pictures) == 3 * 5
    for number, index in ((0, 0), (1, 3), (2, 4)):
        view = views.view(views.examples[number], sample_generator(7, "cached view", number, index))
        picture = cached.pictures[number * 5 + index]
        with torch.no_grad():
            posterior = small.vae.encode(view.pixels[None]).latent_dist
        factor = small.vae.config.scaling_factor
        assert torch.allclose(picture.mean, posterior.mean[0] * factor, atol=1e-5)
        assert torch.allclose(picture.std, posterior.std[0] * factor, atol=1e-5)
        assert torch.equal(picture.mask, view.mask) and picture.caption == view.caption
    assert len({picture.mean.sum().item() for picture in cached.pictures}) == 15, "every view is another"


def test_latents_of_cached_and_of_fresh_views_are_sampled_alike(small, pictures):
    cached = CachedViews(small, FreshViews(small, subject_examples([BEAR], pictures)), 2, seed=0)
    batch = Batches(small, cached, None, seed=0, num_train_timesteps=1000).draw(3, range(2))
    assert batch.pixels is None
    assert torch.equal(batch.latents(small.device, partial(posteriors, small)), batch.mean + batch.std * batch.posterior_noise)
    fresh = Batches(small, FreshViews(small, subject_examples([BEAR], pictures)), None, seed=0, num_train_timesteps=1000).draw(3, range(2))
    with torch.no_grad():
        posterior = small.vae.encode(fresh.pixels).latent_dist
    expected = (posterior.mean + posterior.std * fresh.posterior_noise) * small.vae.config.scaling_factor
    assert torch.allclose(fresh.latents(small.device, partial(posteriors, small)), expected, atol=1e-6)


def test_cached_views_train_and_encode_once(small, pictures, tmp_path):
    encoded = []
    hook = small.vae.encoder.register_forward_hook(lambda module, inputs, output: encoded.append(len(inputs[0])))
    settings = {"cached_views": 3, "steps": 6, "prior_weight": 1.0, "class_pictures": class_pictures(pictures)}
    once = run(small, pictures, tmp_path / "a.safetensors", **settings)
    hook.remove()
    assert sum(encoded) == 3 * 3 + 3
    again = run(small, pictures, tmp_path / "b.safetensors", **settings)
    assert_same(once.tensors(), again.tensors())
    assert torch.equal(once.losses(), again.losses()) and once.losses()[:, 1].all()
    fresh = run(small, pictures, tmp_path / "c.safetensors", **{**settings, "cached_views": 0})
    assert not torch.equal(fresh.losses(), once.losses())


def test_a_seed_is_a_training(small, pictures, tmp_path):
    one, same, other = (run(small, pictures, tmp_path / "bear.safetensors", steps=2, seed=seed) for seed in (1, 1, 2))
    assert_same(one.tensors(), same.tensors())
    assert not torch.equal(one.losses(), other.losses())


def test_samples_depend_on_their_number_and_not_on_who_draws_them(small, pictures):
    views = FreshViews(small, subject_examples([BEAR], pictures))
    batches = Batches(small, views, None, seed=0, num_train_timesteps=1000)
    whole, second = batches.draw(5, range(4)), batches.draw(5, [2])
    assert whole.captions[2] == second.captions[0] and torch.equal(whole.pixels[2], second.pixels[0])
    assert torch.equal(whole.noise[2], second.noise[0]) and whole.timesteps[2] == second.timesteps[0]
    every = [batches.draw(step, range(4)) for step in range(5, 7)]
    noises = torch.cat([batch.noise.flatten(1) for batch in every] + [batch.posterior_noise.flatten(1) for batch in every])
    assert len({noise.sum().item() for noise in noises}) == 16, "no noise is used twice"


def test_samples_of_prior_preservation_are_the_last_ones_and_whole(small, pictures):
    examples = [Example(name="a photo", picture=picture, caption="photo of a bear") for picture in pictures["V*"]]
    views, prior = FreshViews(small, subject_examples([BEAR], pictures)), FreshViews(small, examples, augmented=False)
    batches = Batches(small, views, prior, seed=0, num_train_timesteps=1000)
    batch = batches.draw(0, range(2))
    assert batches.num_prior(2) == 2 and len(batch.captions) == 4
    assert batch.captions[2:] == ["photo of a bear"] * 2 and all("V*" in caption for caption in batch.captions[:2])
    assert batch.mask[2:].all()
    resized = [torch.tensor(np.array(picture.resize((64, 64), Image.Resampling.BILINEAR))).flatten(0, 1) for picture in pictures["V*"]]
    for pixels in batch.pixels[2:]:
        flat = ((pixels + 1) * 127.5).round().flatten(1).T
        assert any(torch.equal(flat.long(), picture) for picture in resized)


def test_making_ahead_keeps_the_order_and_passes_failures_on():
    assert list(made_ahead(lambda number: number * number, range(7))) == [number * number for number in range(7)]

    def fail(number):
        if number == 2:
            raise UserError("no third")
        return number

    found = []
    with pytest.raises(UserError, match="no third"):
        for value in made_ahead(fail, range(5)):
            found.append(value)
    assert found == [0, 1]
    unstarted = made_ahead(fail, range(5))
    unstarted.close()


class WatchedTokenizer:
    """Notes when two threads are in it at once: the padding that each asks for is the tokenizer's own state."""

    def __init__(self, tokenizer, overlaps):
        self.tokenizer, self.overlaps, self.busy = tokenizer, overlaps, threading.Lock()

    def __call__(self, *arguments, **options):
        if not self.busy.acquire(blocking=False):
            self.overlaps.append(threading.current_thread().name)
            return self.tokenizer(*arguments, **options)
        try:
            time.sleep(0.002)
            return self.tokenizer(*arguments, **options)
        finally:
            self.busy.release()

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __deepcopy__(self, memo):
        return WatchedTokenizer(copy.deepcopy(self.tokenizer, memo), self.overlaps)


def test_prompts_may_be_read_while_batches_are_drawn(small, pictures):
    """At a milestone the samples' prompts are tokenized while the other thread tokenizes the next captions."""
    overlaps = []
    small.components.tokenizer = WatchedTokenizer(tokenizer_with(small.components.tokenizer, ("V*",)), overlaps)
    batches = Batches(small, FreshViews(small, subject_examples([BEAR], pictures)), None, seed=0, num_train_timesteps=1000)
    for _ in made_ahead(lambda step: batches.draw(step, range(2)), range(20)):
        small.text_features(["a bear"])
    assert not overlaps, "two threads were in one tokenizer"


def test_a_loss_that_is_not_a_number_keeps_the_checkpoint_before_it(small, pictures, tmp_path):
    out = tmp_path / "bear.safetensors"

    def spoil(progress):
        if progress.step == 3:
            with torch.no_grad():
                small.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight.fill_(math.inf)

    with pytest.raises(UserError, match="not a number at step 4") as refused:
        run(small, pictures, out, steps=6, checkpoint_every=2, on_step=spoil)
    assert refused.value.cause.count("V* bear") == 2 and "start again" in refused.value.remedy
    assert not out.exists()
    state = torch.load(checkpoint_path(out), weights_only=True)
    assert state["step"] == 2 and all(torch.isfinite(value).all() for value in state["trained"].values())
    resumed = run(small, pictures, out, steps=6, resume=True)
    assert_same(resumed.tensors(), run(small, pictures, tmp_path / "whole.safetensors", steps=6).tensors())


def test_what_is_not_a_number_is_never_kept(small, pictures, tmp_path):
    """The first step's loss is a number, but what the step makes of the weights is not."""
    out = tmp_path / "bear.safetensors"
    with pytest.raises(UserError, match=r"not a number|not numbers"):
        run(small, pictures, out, steps=2, checkpoint_every=1, learning_rate=math.inf)
    if checkpoint_path(out).exists():
        state = torch.load(checkpoint_path(out), weights_only=True)
        assert all(torch.isfinite(value).all() for value in state["trained"].values()), "a spoilt checkpoint was kept"


def test_a_last_step_that_spoils_the_concept_writes_none(small, pictures, tmp_path):
    out = tmp_path / "bear.safetensors"
    with pytest.raises(UserError, match=r"not a number|not numbers"):
        run(small, pictures, out, steps=1, learning_rate=math.inf)
    assert not out.exists()


def test_a_checkpoint_of_other_settings_is_refused_by_their_name(small, pictures, tmp_path):
    path, settings = tmp_path / "bear.checkpoint", {"method": "svdiff", "seed": 1}
    torch.save({"settings": settings, "step": 1}, path)
    assert load_checkpoint(path, settings)["step"] == 1
    with pytest.raises(UserError, match="method was 'svdiff' and is 'dreambooth' now"):
        load_checkpoint(path, {**settings, "method": "dreambooth"})


def test_the_header_says_how_it_was_trained(small, pictures, tmp_path):
    out = tmp_path / "bear.safetensors"
    run(small, pictures, out, steps=2, batch_size=1, accumulate=3, cached_views=2, spl_mode="official", seed=5)
    header = Concept.load(out).header
    assert (header.steps, header.seed, header.spl_mode, header.spl_weight) == (2, 5, "official", train.METHODS[header.method].spl_weight)
    assert header.training["batch_size"] == 3 and header.training["cached_views"] == 2 and header.training["photos"] == 3
