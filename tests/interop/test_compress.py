"""Low-rank concept files: what is lost, what is stored, and that a base takes them as it takes whole ones."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file, save_file

from cdvideo.concept import Concept, LowRankChange, read_header
from cdvideo.errors import UserError
from cdvideo.interop import compress, movement
from tests.interop.conftest import concept_of, noise_predicted


def test_the_error_is_the_tail_of_the_singular_values(tiny_base, concept):
    smaller = compress(tiny_base, concept, 3)
    parameters = dict(tiny_base.unet.named_parameters())
    for name, value in concept.tuned.items():
        change = (value - parameters[name]).double()
        singular = torch.linalg.svdvals(change)
        assert smaller.layers[name] == pytest.approx(float(singular[3:].norm() / singular.norm()), rel=1e-4)
        kept = smaller.concept.tuned[name]
        assert isinstance(kept, LowRankChange) and kept.rank == 3 and kept.shape == value.shape
        measured = (kept.to(parameters[name]).double() - value.double()).norm() / change.norm()
        assert smaller.layers[name] == pytest.approx(float(measured), rel=1e-4)


def test_a_change_of_that_rank_loses_nothing_and_the_file_gets_smaller(tiny_base, tmp_path):
    concept = concept_of(tiny_base, rank=2)
    smaller = compress(tiny_base, concept, 2)
    assert smaller.relative_error < 1e-5
    concept.save(tmp_path / "whole.safetensors")
    smaller.concept.save(tmp_path / "small.safetensors")
    assert (tmp_path / "small.safetensors").stat().st_size < 0.6 * (tmp_path / "whole.safetensors").stat().st_size
    loaded = Concept.load(tmp_path / "small.safetensors")
    assert loaded.header == smaller.concept.header and read_header(tmp_path / "small.safetensors").format_version == 2
    with tiny_base.inject(concept):
        whole = noise_predicted(tiny_base, "a V* bear")
    before = noise_predicted(tiny_base, "a bear")
    with tiny_base.inject(loaded):
        assert torch.allclose(noise_predicted(tiny_base, "a V* bear"), whole, atol=1e-5)
    assert torch.equal(noise_predicted(tiny_base, "a bear"), before)
    with tiny_base.inject(concept, scale=0.5):
        half = noise_predicted(tiny_base, "a V* bear")
    with tiny_base.inject(loaded, scale=0.5):
        assert torch.allclose(noise_predicted(tiny_base, "a V* bear"), half, atol=1e-5)


def test_matrices_whose_factors_would_be_larger_stay_whole(tiny_base, concept):
    """The tiny base's matrices are 16x32 and 32x32: rank 11 is more numbers than 16x32, and fewer than 32x32."""
    smaller = compress(tiny_base, concept, 11).concept
    kinds = {value.shape: isinstance(smaller.tuned[name], LowRankChange) for name, value in concept.tuned.items()}
    assert kinds == {torch.Size([16, 32]): False, torch.Size([32, 32]): True}
    whole = compress(tiny_base, concept, 99)
    assert whole.relative_error == 0 and not whole.concept.is_compressed and whole.concept.header.format_version == 1


def test_compressing_twice_is_compressing_once(tiny_base, concept):
    once = compress(tiny_base, concept, 2).concept
    twice = compress(tiny_base, compress(tiny_base, concept, 6).concept, 2).concept
    for name, value in once.tuned.items():
        assert torch.allclose(value.change(), twice.tuned[name].change(), atol=1e-5)


def test_whole_and_compressed_say_the_same_of_their_training(tiny_base):
    concept = concept_of(tiny_base, rank=2)
    moved, small = movement(tiny_base, concept), movement(tiny_base, compress(tiny_base, concept, 2).concept)
    assert moved.relative_change == pytest.approx(small.relative_change, rel=1e-4)
    name, value = next(iter(concept.tuned.items()))
    weight = tiny_base.unet.get_parameter(name)
    assert moved.layers[name] == pytest.approx(float((value - weight).norm() / weight.norm()), rel=1e-5)
    row = concept.embeddings["V*"]
    bear = tiny_base.text_encoder.get_input_embeddings().weight[tiny_base.tokenizer("bear", add_special_tokens=False).input_ids[0]]
    assert moved.tokens["V*"].cosine_to_class == pytest.approx(float(row @ bear / row.norm() / bear.norm()), rel=1e-5)


def test_another_bases_concept_is_refused(tiny_base, concept):
    smaller = compress(tiny_base, concept, 2).concept
    other = dataclasses.replace(smaller, header=dataclasses.replace(smaller.header, fingerprint="0000"))
    for attempt in (lambda: compress(tiny_base, other, 2), lambda: tiny_base.inject(other)):
        with pytest.raises(UserError, match="other weights"):
            attempt()
    with pytest.raises(UserError, match="no rank 0"):
        compress(tiny_base, concept, 0)
    name = next(iter(smaller.tuned))
    wrong = {**smaller.tuned, name: LowRankChange(torch.zeros(3, 1), torch.zeros(1, 3))}
    with pytest.raises(UserError, match="does not fit the base"):
        tiny_base.inject(dataclasses.replace(smaller, tuned=wrong))


@pytest.mark.parametrize(
    ("fault", "said"), [("half", "only half of the change"), ("both", "both a matrix and a change"), ("ranks", "do not go together")]
)
def test_damaged_factors_are_refused_by_name(tiny_base, concept, tmp_path, fault, said):
    path = tmp_path / "small.safetensors"
    smaller = compress(tiny_base, concept, 2).concept
    smaller.save(path)
    tensors = load_file(path)
    name = next(iter(smaller.tuned))
    if fault == "half":
        del tensors[f"unet.{name}.up"]
    elif fault == "both":
        tensors[f"unet.{name}"] = torch.zeros(2, 2)
    else:
        tensors[f"unet.{name}.up"] = torch.zeros(16, 3)
    save_file(tensors, path, metadata={"cdvideo_concept": smaller.header.to_json()})
    with pytest.raises(UserError) as refused:
        Concept.load(path)
    assert said in str(refused.value) and name in str(refused.value)
