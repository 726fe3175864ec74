"""The training loop on the pocket base: what trains, what it leaves alone, and that a resumed training is the same training."""

from functools import partial

import pytest
import torch
from diffusers import DDPMScheduler

from cdvideo import base, train
from cdvideo.concept import Concept
from cdvideo.errors import Interrupted, UserError
from cdvideo.resources import resource
from cdvideo.train.batches import Batches, FreshViews, posteriors
from cdvideo.train.checkpoint import checkpoint_path
from cdvideo.train.methods.key_values import KeyValueTuning, detach_first_token
from cdvideo.train.passes import Pass, pass_inputs
from cdvideo.train.preservation import Preservation
from cdvideo.train.subject import subject_examples

SUBJECT = train.Subject(token="V*", class_word="bear", initializer="bear")


@pytest.fixture(scope="module")
def photos():
    return {"V*": [train.load_photo(path) for path in train.find_photos(resource("samples", "bear"))]}


def run(model, photos, out, **settings):
    return train.train(model, photos, [SUBJECT], out=out, **{"steps": 4, "batch_size": 2, "learning_rate": 1e-4, **settings})


def test_only_keys_values_and_the_token_change(pocket, photos, tmp_path):
    before = {name: value.clone() for part in (pocket.unet, pocket.text_encoder, pocket.vae) for name, value in part.state_dict().items()}
    concept = run(pocket, photos, tmp_path / "bear.safetensors")
    after = {name: value for part in (pocket.unet, pocket.text_encoder, pocket.vae) for name, value in part.state_dict().items()}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before), "the base was not restored"
    assert all(not torch.equal(before[name], value) for name, value in concept.tuned.items())
    assert {name.rsplit(".", 2)[1] for name in concept.tuned} == {"to_k", "to_v"}
    assert list(concept.embeddings) == ["V*"] and concept.header.class_words == ("bear",)


def test_nothing_else_receives_a_gradient(pocket, photos):
    scheduler = DDPMScheduler.from_config(pocket.components.scheduler_config)
    views = FreshViews(pocket, subject_examples([SUBJECT], photos))
    with KeyValueTuning(pocket, [SUBJECT]) as tuning:
        batch = Batches(pocket, views, None, seed=0, num_train_timesteps=1000).draw(0, range(2))
        noise, _, spl = Pass(pocket, Preservation(tuning), 0)(*pass_inputs(pocket, batch, scheduler, partial(posteriors, pocket)))
        spl.backward(retain_graph=True)
        rows = tuning.embedding.rows
        assert rows.grad is not None and rows.grad.abs().sum() > 0
        assert all(value.grad is None for value in tuning.parameters if value is not rows), "SPL reaches the token only"
        noise.backward()
        trained = {id(value) for value in tuning.parameters}
        everything = [*pocket.unet.parameters(), *pocket.text_encoder.parameters(), *pocket.vae.parameters()]
        assert all(value.grad is not None for value in tuning.parameters)
        assert all(value.grad is None for value in everything if id(value) not in trained)
        assert len(tuning.parameters) == 1 + sum(name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) for name in tuning.trained)


def test_the_first_token_passes_without_a_gradient():
    """By hand: of y = W x over three positions, the gradient of sum(y) skips the first."""
    linear = torch.nn.Linear(1, 1, bias=False)
    linear.register_forward_hook(detach_first_token)
    states = torch.tensor([[[5.0], [2.0], [3.0]]])
    output = linear(states)
    assert torch.equal(output, states * linear.weight)
    output.sum().backward()
    assert linear.weight.grad.item() == 2 + 3


def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(pocket, photos, tmp_path):
    whole = run(pocket, photos, tmp_path / "whole.safetensors", steps=6)

    def stop(progress):
        if progress.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="at step") as stopped:
        run(pocket, photos, tmp_path / "parts.safetensors", steps=6, checkpoint_every=2, on_step=stop)
    assert "--resume" in stopped.value.remedy and checkpoint_path(tmp_path / "parts.safetensors").exists()
    resumed_at = []
    parts = run(
        pocket, photos, tmp_path / "parts.safetensors", steps=6, resume=True, on_step=lambda progress: resumed_at.append(progress.step)
    )
    assert resumed_at == [5, 6]
    assert all(torch.equal(whole.tuned[name], parts.tuned[name]) for name in whole.tuned)
    assert torch.equal(whole.embeddings["V*"], parts.embeddings["V*"])
    assert not checkpoint_path(tmp_path / "parts.safetensors").exists()


def test_resuming_refuses_what_does_not_belong(pocket, photos, tmp_path):
    out = tmp_path / "bear.safetensors"
    with pytest.raises(UserError, match="nothing to resume"):
        run(pocket, photos, out, resume=True)

    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="before the first checkpoint"):
        run(pocket, photos, out, on_step=stop)
    with pytest.raises(Interrupted, match="at step 2"):
        run(pocket, photos, out, checkpoint_every=1, on_step=lambda progress: stop(progress) if progress.step == 2 else None)
    with pytest.raises(UserError, match="seed was 0 and is 1"):
        run(pocket, photos, out, resume=True, seed=1)
    checkpoint_path(out).write_bytes(b"cut")
    with pytest.raises(UserError, match="is damaged"):
        run(pocket, photos, out, resume=True)


def test_a_loss_that_is_not_a_number_stops_with_the_step(pocket, photos, tmp_path):
    with pytest.raises(UserError, match="not a number at step") as refused:
        run(pocket, photos, tmp_path / "bear.safetensors", learning_rate=float("inf"))
    assert "photo of a V* bear" in refused.value.cause


def test_spl_keeps_the_phrase_near_its_class(pocket, photos, tmp_path):
    """The paper's point, in its smallest form: with the loss the phrase stays closer to the class in the text encoder's space."""

    def distance(weight: float) -> float:
        concept = run(pocket, photos, tmp_path / "bear.safetensors", steps=15, learning_rate=2e-3, spl_weight=weight)
        with pocket.inject(concept), torch.no_grad():
            phrase, word = pocket.text_features(["a photo of a V* bear", "a photo of a bear"])
        return float(1 - torch.nn.functional.cosine_similarity(phrase, word, dim=0))

    assert distance(1.0) < 0.5 * distance(0.0)


def test_the_file_holds_what_was_returned(pocket, photos, tmp_path):
    concept = run(pocket, photos, tmp_path / "bear.safetensors", steps=1)
    loaded = Concept.load(tmp_path / "bear.safetensors")
    assert loaded.header == concept.header and loaded.header.fingerprint == pocket.fingerprint
    assert all(torch.equal(loaded.tuned[name], value) for name, value in concept.tuned.items())


def test_in_bf16_what_trains_is_kept_in_fp32(pocket, photos, tmp_path):
    """Steps that bf16 has no room for (a part in 256) add up; the losses are those of fp32 within bf16's rounding."""
    seen: dict[str, list[float]] = {"bf16": [], "fp32": []}
    for dtype in seen:
        loaded = base.load("pocket", device="cpu", dtype=dtype)
        settings = {"on_step": lambda progress: seen[dtype].append(progress.noise_loss), "learning_rate": 1e-5}  # noqa: B023
        concept = run(loaded, photos, tmp_path / f"{dtype}.safetensors", **settings)
        assert all(value.dtype == torch.float32 for value in concept.tuned.values())
        changes = [(value - loaded.unet.state_dict()[name].float()).abs().max() for name, value in concept.tuned.items()]
        assert all(0 < change < 1e-3 for change in changes)
    assert seen["bf16"] == pytest.approx(seen["fp32"], rel=0.05)
