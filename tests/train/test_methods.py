"""Every method: what it leaves behind in the base, what its concept holds, and that the concept is what was tuned."""

import dataclasses

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.utils import parametrize

from cdvideo import train
from cdvideo.base.quick_layers import quick_layers
from cdvideo.concept import Concept, SpectralShift, read_layout
from cdvideo.errors import UserError
from cdvideo.train.methods import find_method
from tests.train.trainings import BEAR, BEAR_AND_DOG, assert_same, change, run, snapshot

METHODS = list(train.METHODS)


@pytest.fixture
def class_pictures(pictures) -> dict[str, list[Image.Image]]:
    return {"bear": [picture.rotate(90) for picture in pictures["V*"]], "dog": pictures["V2*"][:1]}


def prediction(base) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 8, 8, generator=generator).to(base.dtype)
    with torch.no_grad():
        states = base.text_states(["a V* bear on the beach"])
        return base.unet(latents, torch.tensor([500]), encoder_hidden_states=states).sample


def num_hooks(base) -> int:
    modules = [module for part in (base.unet, base.text_encoder, base.vae) for module in part.modules()]
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks) for module in modules)


@pytest.mark.parametrize("method", METHODS)
def test_the_base_is_bit_identical_afterwards(small_in_either, pictures, class_pictures, tmp_path, method):
    before, parts = snapshot(small_in_either), (small_in_either.unet, small_in_either.text_encoder, small_in_either.vae)
    objects = {id(parameter) for part in parts for parameter in part.parameters()}
    tokenizer, class_names = small_in_either.tokenizer, [type(module).__name__ for part in parts for module in part.modules()]
    run(small_in_either, pictures, tmp_path / "bear.safetensors", method=method, class_pictures=class_pictures, steps=2)
    after = snapshot(small_in_either)
    assert_same(before, after)
    assert {id(parameter) for part in parts for parameter in part.parameters()} == objects
    assert not any(parameter.requires_grad or parameter.grad is not None for part in parts for parameter in part.parameters())
    assert [type(module).__name__ for part in parts for module in part.modules()] == class_names
    assert not any(parametrize.is_parametrized(module) for part in parts for module in part.modules())
    assert num_hooks(small_in_either) == 0 and not any(part.training for part in parts)
    assert small_in_either.tokenizer is tokenizer and "V*" not in tokenizer.get_vocab()
    assert isinstance(small_in_either.text_encoder.get_input_embeddings(), nn.Embedding)


@pytest.mark.parametrize("method", METHODS)
def test_parameters_keep_their_order(small_in_either, pictures, class_pictures, tmp_path, method):
    """An optimiser's state in a checkpoint is by number, so a later training of this base must meet the parameters in the same order."""
    before = list(snapshot(small_in_either))
    run(small_in_either, pictures, tmp_path / "bear.safetensors", method=method, class_pictures=class_pictures, steps=1)
    assert list(snapshot(small_in_either)) == before


@pytest.mark.parametrize("method", METHODS)
def test_a_training_that_fails_restores_the_base(small_in_either, pictures, class_pictures, tmp_path, method):
    before = snapshot(small_in_either)

    def fail(progress):
        raise RuntimeError("the user's own")

    with pytest.raises(RuntimeError, match="the user's own"):
        run(small_in_either, pictures, tmp_path / "bear.safetensors", method=method, class_pictures=class_pictures, on_step=fail)
    assert_same(before, snapshot(small_in_either))
    assert num_hooks(small_in_either) == 0 and "V*" not in small_in_either.tokenizer.get_vocab()


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_concept_is_what_was_tuned(small_in_either, pictures, class_pictures, tmp_path, method):
    out, tuned = tmp_path / "bear.safetensors", {}

    def keep(milestone):
        tuned[milestone.step] = prediction(milestone.base)

    settings = {"class_pictures": class_pictures, "method": method, "on_milestone": keep}
    run(small_in_either, pictures, tmp_path / "start.safetensors", steps=1, learning_rate=1e-12, **settings)
    run(small_in_either, pictures, out, steps=3, learning_rate=2e-4, **settings)
    # Layers round as those of the training did: in bf16 other ones differ by a hundredth.
    with small_in_either.inject(Concept.load(out)), quick_layers(small_in_either.unet, small_in_either.text_encoder):
        found = prediction(small_in_either)
    assert torch.allclose(found, tuned[3], atol=1e-4 if method == "svdiff" else 1e-5, rtol=0)
    assert (tuned[3] - tuned[1]).abs().max() > 1e-3, "nothing was learnt"


def test_what_a_concept_holds_and_how_large_it_is(small, pictures, class_pictures, tmp_path):
    sizes, layouts, concepts = {}, {}, {}
    for method in METHODS:
        out = tmp_path / f"{method}.safetensors"
        concepts[method] = run(small, pictures, out, method=method, class_pictures=class_pictures, steps=1).concept
        header = len(concepts[method].header.to_json())
        sizes[method], layouts[method] = out.stat().st_size - header, read_layout(out)
        assert concepts[method].header.method == method and Concept.load(out).header.method == method
    parameters = {name: value for name, value in small.unet.named_parameters()}
    whole = sum(4 * value.numel() for value in parameters.values())
    assert set(layouts["textual-inversion"]) == {"embedding.V*"} and sizes["textual-inversion"] < 1000
    assert set(layouts["dreambooth"]) == {"embedding.V*"} | {f"unet.{name}" for name in parameters}
    assert sizes["dreambooth"] > whole
    matrices = {name for name, value in parameters.items() if value.ndim >= 2}
    assert set(layouts["svdiff"]) == {"embedding.V*"} | {f"unet.{name}.shift" for name in matrices}
    assert sum(entry.num_bytes for entry in layouts["svdiff"].values()) < whole / 10
    assert layouts["classdiffusion"].keys() == layouts["custom-diffusion"].keys()
    assert all(name == "embedding.V*" or name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) for name in layouts["classdiffusion"])


def test_what_trains_lies_in_the_order_that_optimisers_and_checkpoints_know(small_in_either):
    small_in_either.unet.to(memory_format=torch.channels_last)
    with find_method("dreambooth").tune(small_in_either, [BEAR]) as tuning:
        assert all(value.is_contiguous() for value in tuning.parameters)
        assert any(value.ndim == 4 and value.shape[-1] > 1 for value in tuning.parameters)
    assert small_in_either.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def test_what_trains_and_what_stays(small, pictures, class_pictures, tmp_path):
    start = small.text_encoder.get_input_embeddings().weight[small.tokenizer("ktn", add_special_tokens=False).input_ids[0]]
    for method in METHODS:
        concept = run(small, pictures, tmp_path / "bear.safetensors", method=method, class_pictures=class_pictures, steps=1).concept
        moves_row = method in ("classdiffusion", "custom-diffusion", "textual-inversion")
        assert torch.equal(concept.embeddings["V*"], start) is not moves_row, method
        values = [value.shift if isinstance(value, SpectralShift) else value for value in concept.tuned.values()]
        assert (len(values) == 0) is (method == "textual-inversion")
        if values:
            weights = dict(small.unet.named_parameters())
            stayed = [
                name
                for name, value in concept.tuned.items()
                if torch.equal(value.shift if isinstance(value, SpectralShift) else value - weights[name], torch.zeros(value.shape))
            ]
            assert not stayed, f"{method}: {stayed[0]} did not change"


def test_without_its_weight_classdiffusion_is_custom_diffusion(small, pictures, tmp_path):
    ours = run(small, pictures, tmp_path / "a.safetensors", method="classdiffusion", spl_weight=0)
    theirs = run(small, pictures, tmp_path / "b.safetensors", method="custom-diffusion")
    with_loss = run(small, pictures, tmp_path / "c.safetensors", method="classdiffusion")
    assert_same(ours.tensors(), theirs.tensors())
    assert torch.equal(ours.losses(), theirs.losses()) and not ours.losses()[:, 2].any()
    assert not torch.equal(with_loss.concept.embeddings["V*"], ours.concept.embeddings["V*"])
    assert with_loss.losses()[:, 2].all()


def test_the_weights_of_the_losses_may_be_the_users(small, pictures, class_pictures, tmp_path):
    out = tmp_path / "bear.safetensors"
    both = run(small, pictures, out, spl_weight=2.0, prior_weight=0.5, class_pictures=class_pictures).losses()
    assert both.all(), "noise, prior and preservation losses together"
    none = run(small, pictures, out, method="dreambooth", prior_weight=0).losses()
    assert none[:, 0].all() and not none[:, 1:].any()


def test_a_prior_weight_without_pictures_is_not_ignored(small, pictures, tmp_path):
    with pytest.raises((UserError, ValueError), match="class"):
        run(small, pictures, tmp_path / "bear.safetensors", method="dreambooth", steps=1)


@pytest.mark.parametrize("method", ["dreambooth", "svdiff"])
def test_a_loss_that_reaches_nothing_is_refused(small, pictures, class_pictures, tmp_path, method):
    with pytest.raises(UserError, match=f"does nothing with {method}"):
        run(small, pictures, tmp_path / "bear.safetensors", method=method, spl_weight=1.0, class_pictures=class_pictures)


def test_an_unknown_method_is_named_with_those_there_are(small, pictures, tmp_path):
    with pytest.raises(UserError, match="no method 'lora'") as refused:
        run(small, pictures, tmp_path / "bear.safetensors", method="lora")
    assert "svdiff" in refused.value.remedy


def test_the_learning_rate_is_times_the_pictures_and_the_methods_factor(small, pictures, tmp_path):
    """A first step of AdamW moves every entry by the rate, but for the decay of one hundredth of it."""
    rate, start = 1e-4, small.text_encoder.get_input_embeddings().weight[small.tokenizer("ktn", add_special_tokens=False).input_ids[0]]
    for method in ("classdiffusion", "custom-diffusion", "textual-inversion"):
        settings = {"steps": 1, "batch_size": 2, "accumulate": 3, "learning_rate": rate, "method": method}
        concept = run(small, pictures, tmp_path / "bear.safetensors", **settings).concept
        moved = (concept.embeddings["V*"] - start).abs().median().item()
        assert moved == pytest.approx(2 * 3 * rate * train.METHODS[method].learning_rate_factor, rel=0.02)


def test_subjects_of_one_class_learn_from_its_pictures_once(small, pictures, class_pictures, tmp_path):
    """Two bears, one set of bear pictures: and every token gets a row of its own."""
    two = (BEAR_AND_DOG[0], dataclasses.replace(BEAR_AND_DOG[1], class_word="bear"))
    concept = run(small, pictures, tmp_path / "two.safetensors", two, prior_weight=1.0, class_pictures=class_pictures).concept
    assert concept.header.class_words == ("bear", "bear") and set(concept.embeddings) == {"V1*", "V2*"}
    assert not torch.equal(concept.embeddings["V1*"], concept.embeddings["V2*"])
    assert change(concept, small).abs().max() > 0 and BEAR.token not in concept.embeddings
