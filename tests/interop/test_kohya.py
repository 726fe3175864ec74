"""The LoRA and the embedding: loaded by diffusers' own code, and worked out by hand."""

import json

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers
from safetensors import safe_open
from safetensors.torch import load_file

from cdvideo.base import key_value_names
from cdvideo.errors import UserError, UserNote
from cdvideo.interop import export_kohya
from tests import tiny
from tests.interop.conftest import concept_of, noise_predicted
from tests.interop.test_diffusers import pipeline, pixels_by, pixels_within, predicted_by

pytestmark = pytest.mark.filterwarnings("ignore:the base .* is no Stable Diffusion")


def add_by_hand(unet, state) -> None:
    """weight += up @ down * alpha / rank, the layer found by writing its name with underscores; every tensor is used."""
    left = set(state)
    for name in key_value_names(unet):
        layer = name.removesuffix(".weight")
        names = [f"lora_unet_{layer.replace('.', '_')}.{part}" for part in ("lora_up.weight", "lora_down.weight", "alpha")]
        up, down, alpha = (state[own] for own in names)
        unet.get_parameter(name).data += up @ down * float(alpha) / down.shape[0]
        left -= set(names)
    assert not left


def test_added_by_hand_it_draws_what_the_injection_draws(tiny_base, tmp_path):
    concept = concept_of(tiny_base, rank=5)
    written = export_kohya(tiny_base, concept, tmp_path, "bear")
    assert written.relative_error <= 1e-3 and max(written.errors.values()) <= 1e-3
    with tiny_base.inject(concept):
        ours = noise_predicted(tiny_base, "photo of a V* bear")
    pipe = pipeline()
    plain = predicted_by(pipe, "photo of a bear")
    pipe.load_textual_inversion(str(tmp_path), weight_name="bear-token.safetensors", token="bear-token")
    add_by_hand(pipe.unet, load_file(tmp_path / "bear-lora.safetensors"))
    theirs = predicted_by(pipe, "photo of a bear-token bear")
    assert (ours - theirs).abs().max() < 1e-4 < (plain - theirs).abs().max()


def test_the_smallest_rank_that_is_good_enough_is_taken(tiny_base, tmp_path):
    export_kohya(tiny_base, concept_of(tiny_base, rank=5), tmp_path, "bear")
    state = load_file(tmp_path / "bear-lora.safetensors")
    assert {value.shape[0] for name, value in state.items() if name.endswith("lora_down.weight")} == {5}
    assert {float(value) for name, value in state.items() if name.endswith("alpha")} == {5.0}


def test_the_error_is_what_the_singular_values_leave_and_stands_in_the_file(tiny_base, tmp_path):
    concept = concept_of(tiny_base)
    written = export_kohya(tiny_base, concept, tmp_path, "bear", rank=4)
    parameters = dict(tiny_base.unet.named_parameters())
    total_lost = total = 0.0
    for name, value in concept.tuned.items():
        singular = torch.linalg.svdvals((value - parameters[name]).double())
        assert written.errors[name] == pytest.approx(float(singular[4:].norm() / singular.norm()), rel=1e-4)
        total_lost, total = total_lost + float(singular[4:].square().sum()), total + float(singular.square().sum())
    assert written.relative_error == pytest.approx((total_lost / total) ** 0.5, rel=1e-4)
    with safe_open(tmp_path / "bear-lora.safetensors", "pt") as opened:
        metadata = opened.metadata()
    assert float(metadata["cdvideo_relative_error"]) == written.relative_error
    assert json.loads(metadata["cdvideo_layers"])[name] == {"rank": 4, "relative_error": written.errors[name]}
    assert metadata["ss_network_dim"] == "4" and metadata["ss_network_module"] == "networks.lora"
    assert "ss_base_model_version" not in metadata, "the tiny base is no Stable Diffusion 1"


def test_diffusers_reads_every_key(tiny_base, concept, tmp_path):
    export_kohya(tiny_base, concept, tmp_path, "bear")
    state = load_file(tmp_path / "bear-lora.safetensors")
    converted, alphas = _convert_non_diffusers_lora_to_diffusers(dict(state))
    assert len(converted) == 2 * len(concept.tuned) and len(alphas) == len(concept.tuned)
    places = {f"unet.{name.removesuffix('.weight')}" for name in concept.tuned}
    read = {name.replace(".processor.", ".").replace("_lora.down.weight", "") for name in converted if name.endswith("down.weight")}
    assert read == places


def test_diffusers_loads_it_with_peft(tiny_base, tmp_path):
    """`load_lora_weights` and `load_textual_inversion` themselves."""
    concept = concept_of(tiny_base, rank=5)
    export_kohya(tiny_base, concept, tmp_path, "bear")
    pipe = pipeline()
    pipe.load_lora_weights(str(tmp_path), weight_name="bear-lora.safetensors")
    pipe.load_textual_inversion(str(tmp_path), weight_name="bear-token.safetensors", token="bear-token")
    with tiny_base.inject(concept):
        ours = noise_predicted(tiny_base, "photo of a V* bear")
    assert (ours - predicted_by(pipe, "photo of a bear-token bear")).abs().max() < 1e-4
    picture = pixels_within(tiny_base, concept, "photo of a V* bear")
    assert (picture - pixels_by(pipe, "photo of a bear-token bear")).abs().max() < 1e-4


def test_what_a_small_rank_loses_is_what_the_report_says(tiny_base, concept, tmp_path):
    """By the matrices that diffusers' own fusing makes of the file."""
    written = export_kohya(tiny_base, concept, tmp_path, "bear", rank=3)
    pipe = pipeline()
    before = {name: pipe.unet.get_parameter(name).detach().double().clone() for name in concept.tuned}
    pipe.load_lora_weights(str(tmp_path), weight_name="bear-lora.safetensors")
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    lost = {name: pipe.unet.get_parameter(name).detach() - concept.tuned[name].double() for name in before}
    moved = {name: concept.tuned[name].double() - value for name, value in before.items()}
    for name, reported in written.errors.items():
        assert float(lost[name].norm() / moved[name].norm()) == pytest.approx(reported, rel=1e-3)
    whole = [torch.cat([value.flatten() for value in some.values()]).norm() for some in (lost, moved)]
    assert 0.1 < written.relative_error == pytest.approx(float(whole[0] / whole[1]), rel=1e-3)


def test_embeddings_are_what_every_program_reads(tiny_base, tmp_path):
    concept = concept_of(tiny_base, ("V1*", "V2*"), ("bear", "cat"))
    written = export_kohya(tiny_base, concept, tmp_path, "both")
    assert written.tokens == {"V1*": "both-token1", "V2*": "both-token2"}
    for token, word in written.tokens.items():
        state = load_file(tmp_path / f"{word}.safetensors")
        assert list(state) == ["emb_params"] and state["emb_params"].shape == (1, tiny.TEXT_WIDTH)
        assert torch.equal(state["emb_params"][0], concept.embeddings[token])


def test_mistakes(tiny_base, concept, tmp_path):
    with pytest.raises(UserError, match="no rank 0"):
        export_kohya(tiny_base, concept, tmp_path, "bear", rank=0)
    with pytest.warns(UserNote, match="is no Stable Diffusion 1"):
        export_kohya(tiny_base, concept, tmp_path, "bear")
    with pytest.raises(UserError, match=r"bear-lora\.safetensors exists already"):
        export_kohya(tiny_base, concept, tmp_path, "bear")
