"""The merge, against a numerical solution of its conditions, and what it keeps and moves."""

import dataclasses

import numpy as np
import pytest
import torch

from cdvideo.base.text import eos_positions, token_ids
from cdvideo.concept import distinct_names
from cdvideo.errors import UserError
from cdvideo.interop import merge
from cdvideo.interop.captions import base_captions
from cdvideo.interop.merging import constrained_update
from tests import tiny
from tests.interop.conftest import concept_of, noise_predicted


def test_the_closed_form_solves_the_conditions_for_an_optimum():
    """Minimise ‖(W - W₀)Cᵀ‖² subject to W c = v: numpy on the whole (KKT) system of stationarity and constraints."""
    generator = np.random.default_rng(0)
    states, bound, original, values = (generator.normal(size=size) for size in ((200, 12), (5, 12), (7, 12), (5, 7)))
    gram = states.T @ states
    system = np.block([[gram, bound.T], [bound, np.zeros((5, 5))]])
    solution = np.linalg.solve(system, np.concatenate([gram @ original.T, values]))[:12]
    ours = constrained_update(torch.from_numpy(gram), torch.from_numpy(bound), torch.from_numpy(values - bound @ original.T))
    assert np.allclose(original.T + ours.numpy(), solution, atol=1e-10)


def test_no_other_solution_moves_the_base_less():
    """All changes that meet the constraints are one of them plus the constraints' null space: least squares over that space."""
    generator = np.random.default_rng(1)
    states, bound, residual = (generator.normal(size=size) for size in ((50, 8), (3, 8), (3, 4)))
    particular = np.linalg.lstsq(bound, residual, rcond=None)[0]
    null = np.linalg.svd(bound)[2][3:].T
    free = np.linalg.lstsq(states @ null, -states @ particular, rcond=None)[0]
    ours = constrained_update(*(torch.from_numpy(value) for value in (states.T @ states, bound, residual)))
    assert np.allclose(ours.numpy(), particular + null @ free, atol=1e-10)


def outputs(base, caption: str, token: str, name: str) -> torch.Tensor:
    """A matrix's outputs, through the UNet's own layer, from the token to the end of the caption."""
    ids = token_ids(base.tokenizer, [caption])
    end = int(eos_positions(ids, base.tokenizer.eos_token_id)[0])
    start = ids[0].tolist().index(base.tokenizer.convert_tokens_to_ids(token))
    with torch.no_grad():
        return base.unet.get_submodule(name.removesuffix(".weight"))(base.text_states([caption])[0, start : end + 1])


@pytest.fixture(scope="module")
def two(tiny_base):
    return concept_of(tiny_base, seed=1), concept_of(tiny_base, ("V*",), ("cat",), seed=2)


def test_each_concept_does_what_it_did_at_its_own_token(tiny_base, two):
    merged = merge(tiny_base, two)
    assert merged.concept.header.tokens == ("V1*", "V2*") and merged.concept.header.class_words == ("bear", "cat")
    assert [outcome.renamed for outcome in merged.concepts] == [{"V*": "V1*"}, {"V*": "V2*"}]
    for concept, new in zip(two, ("V1*", "V2*"), strict=True):
        word = concept.header.class_words[0]
        assert torch.equal(merged.concept.embeddings[new], concept.embeddings["V*"])
        for name in concept.tuned:
            for template in ("photo of a {} {}", "{} {}"):
                with tiny_base.inject(concept):
                    alone = outputs(tiny_base, template.format("V*", word), "V*", name)
                with tiny_base.inject(merged.concept):
                    together = outputs(tiny_base, template.format(new, word), new, name)
                assert (together - alone).norm() <= 1e-4 * alone.norm()
    assert all(outcome.own <= outcome.worst_layer <= 1e-4 for outcome in merged.concepts)


def test_the_base_moves_less_than_each_concept_moved_it(tiny_base, two):
    """On captions that the solution did not see; an unconstrained average of the matrices is no better and keeps no concept."""
    merged = merge(tiny_base, two)
    captions = [f"{noun} on the {place}" for noun in ("dog", "book") for place in ("snow", "beach")]
    parameters = dict(tiny_base.unet.named_parameters())
    with torch.no_grad():
        states = tiny_base.text_states(captions).flatten(0, 1).double()

    def moved(matrices) -> float:
        parts = [(states @ (value - parameters[name]).T.double()).square().sum() for name, value in matrices.items()]
        wholes = [(states @ parameters[name].T.double()).square().sum() for name in matrices]
        return float((sum(parts) / sum(wholes)) ** 0.5)

    assert moved(merged.concept.tuned) < min(moved(concept.tuned) for concept in two)
    assert merged.base_held_out < 0.1 and set(merged.base_layers) == set(merged.concept.tuned)


def test_the_merged_concept_is_one_like_any_other(tiny_base, two, tmp_path):
    from cdvideo.concept import Concept

    merged = merge(tiny_base, two)
    merged.concept.save(tmp_path / "both.safetensors")
    loaded = Concept.load(tmp_path / "both.safetensors")
    assert loaded.header == merged.concept.header and loaded.header.method == "merge"
    before = noise_predicted(tiny_base, "a bear")
    with tiny_base.inject(loaded):
        assert not torch.equal(noise_predicted(tiny_base, "a V1* bear on the V2* cat"), before)
    assert torch.equal(noise_predicted(tiny_base, "a bear"), before)
    again = merge(tiny_base, two)
    assert all(torch.equal(value, merged.concept.tuned[name]) for name, value in again.concept.tuned.items())


def test_tokens_are_renamed_only_where_they_meet():
    assert distinct_names([["V*"], ["V*"]]) == [{"V*": "V1*"}, {"V*": "V2*"}]
    assert distinct_names([["V1*"], ["V1*"]]) == [{"V1*": "V1*"}, {"V1*": "V2*"}], "a name that all give up is free again"
    assert distinct_names([["V*"], ["<cat>"]]) == [{"V*": "V*"}, {"<cat>": "<cat>"}]
    assert distinct_names([["V*", "V1*"], ["V*"]]) == [{"V*": "V2*", "V1*": "V1*"}, {"V*": "V3*"}]


def test_what_cannot_be_merged_is_said(tiny_base, two):
    same = [dataclasses.replace(two[0]), dataclasses.replace(two[0])]
    with pytest.raises(UserError, match="several of the concepts use the token"):
        merge(tiny_base, same, rename=False)
    with pytest.raises(UserError, match="nothing to merge"):
        merge(tiny_base, two[:1])
    foreign = dataclasses.replace(two[1], header=dataclasses.replace(two[1].header, fingerprint="0"))
    with pytest.raises(UserError, match="other weights"):
        merge(tiny_base, [two[0], foreign])
    nameless = dataclasses.replace(two[1], header=dataclasses.replace(two[1].header, class_words=("unknown",)))
    with pytest.raises(UserError, match="class word of V\\* in a concept is unknown"):
        merge(tiny_base, [two[0], nameless])
    same = dataclasses.replace(two[1], header=two[0].header, embeddings=two[0].embeddings)
    with pytest.raises(UserError, match="cannot be merged"):
        merge(tiny_base, [two[0], same])


def test_captions_are_of_words_that_the_tokenizer_knows():
    tokenizer = tiny.tokenizer()
    captions = base_captions(tokenizer, ["teddy"], 60)
    assert len(set(captions)) == len(captions) == 60 and captions == base_captions(tokenizer, ["teddy"], 60)
    assert any("teddy" in caption for caption in captions)
    assert all(len(tokenizer(word, add_special_tokens=False).input_ids) == 1 for caption in captions for word in caption.split())
