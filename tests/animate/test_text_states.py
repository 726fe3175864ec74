"""Concepts at their own words: what acts where, worked out by hand and against plain injection."""

import dataclasses

import pytest
import torch

from cdvideo.animate import Studio
from cdvideo.animate.text_states import TextKeyValues, phrase_positions
from cdvideo.animate.tokens import tokenize
from cdvideo.base import Vocabulary, key_value_names
from cdvideo.concept import Concept, ConceptHeader
from cdvideo.errors import UserError


def concept_of(base, token: str, class_word: str, seed: int) -> Concept:
    """A concept that changes every key and value by a tenth of its size."""
    generator = torch.Generator().manual_seed(seed)
    weights = dict(base.unet.named_parameters())

    def near(weight):
        return weight + 0.1 * weight.std() * torch.randn(weight.shape, generator=generator)

    header = ConceptHeader(base=base.id, fingerprint=base.fingerprint, tokens=(token,), class_words=(class_word,))
    row = near(base.text_encoder.get_input_embeddings().weight[5])
    return Concept(header=header, tuned={name: near(weights[name]) for name in key_value_names(base.unet)}, embeddings={token: row})


@pytest.fixture
def two(pocket) -> list[Concept]:
    return [concept_of(pocket, "<one>", "bear", 1), concept_of(pocket, "<two>", "cat", 2)]


def outputs(base, prompt, local):
    """Keys and values (1, T, O) of each layer as a UNet within gets them."""
    concepts = [concept for concept, _ in local]
    with Vocabulary(base, concepts):
        text = TextKeyValues(base, tokenize(base.tokenizer, [prompt], concepts), concepts)
    mixed = text.mixed(torch.ones(1, 1), torch.tensor([[strength for _, strength in local]]))
    with text.within(base.unet):
        return {name: base.unet.get_submodule(name.removesuffix(".weight"))(mixed) for name in text.sources}


def test_a_phrase_is_the_token_and_its_class_word(pocket, two):
    with Vocabulary(pocket, two):
        prompts = ["a <one> bear and a cat", "a bear and a <two> cat", "a <one> and a bear"]
        ids = tokenize(pocket.tokenizer, prompts, two).ids
        first, second = phrase_positions(pocket, ids, two[0]), phrase_positions(pocket, ids, two[1])
    # Position 0 is the start of text: "a" 1, "<one>" 2, "bear" 3.
    assert first.nonzero().tolist() == [[0, 2], [0, 3], [2, 2]]
    assert second.nonzero().tolist() == [[1, 5], [1, 6]]


def test_matrices_act_on_their_own_phrase_alone(pocket, two):
    """By hand: W c everywhere, W' c at the phrase's two positions."""
    prompt = "a <one> bear on the beach"
    with Vocabulary(pocket, two[:1]):
        states = pocket.text_states([prompt])[0].detach()
    found = outputs(pocket, prompt, [(two[0], 1.0)])
    for name, weight in pocket.unet.named_parameters():
        if name in found:
            expected = states @ weight.detach().T
            expected[2:4] = states[2:4] @ two[0].tuned[name].detach().T
            assert torch.allclose(found[name][0], expected, atol=1e-4)


def test_two_concepts_do_not_change_each_others_phrase(pocket, two):
    prompt = "a <one> bear next to a <two> cat"
    both = outputs(pocket, prompt, [(two[0], 1.0), (two[1], 1.0)])
    only_second = outputs(pocket, prompt, [(two[0], 0.0), (two[1], 1.0)])
    with Vocabulary(pocket, two):
        at_first = phrase_positions(pocket, tokenize(pocket.tokenizer, [prompt], two).ids, two[0])[0]
    for name in both:
        assert torch.equal(both[name][0, ~at_first], only_second[name][0, ~at_first])
        assert not torch.allclose(both[name][0, at_first], only_second[name][0, at_first])


def test_one_concept_at_every_position_is_plain_injection(pocket, two, monkeypatch):
    settings = {"prompt": "a <one> bear on the beach", "num_inference_steps": 3, "seed": 4}
    with Studio(pocket, two[:1]) as studio:
        injected = studio.still(**settings).frames.astype(int)
    everywhere = lambda base, ids, concept: torch.ones_like(ids, dtype=torch.bool)  # noqa: E731
    monkeypatch.setattr("cdvideo.animate.text_states.phrase_positions", everywhere)
    with Studio(pocket, two[:1], joining="local") as studio:
        local = studio.still(**settings).frames.astype(int)
    assert abs(injected - local).max() <= 1


def test_strength_nothing_is_the_base(pocket, two):
    """The words are the concepts', the matrices the base's own."""
    settings = {"prompt": "a <one> bear next to a <two> cat", "num_inference_steps": 2, "seed": 4}
    bare = [dataclasses.replace(concept, tuned={}) for concept in two]
    with Studio(pocket, [(concept, 0.0) for concept in two]) as studio:
        nothing = studio.still(**settings).frames
    with Studio(pocket, bare) as studio:
        assert (studio.still(**settings).frames == nothing).all()


def test_a_clip_stars_both_and_leaves_the_base_as_it_was(pocket, pocket_motion, two):
    before = {name: value.clone() for name, value in pocket.unet.state_dict().items()}
    same = [dataclasses.replace(two[0]), two[1].renamed({"<two>": "<one>"})]
    with Studio(pocket, same, pocket_motion) as studio:
        clip = studio.clip("a V1* bear next to a V2* cat", num_frames=2, num_inference_steps=1)
    assert [entry["tokens"] for entry in clip.record["concepts"]] == [["V1*"], ["V2*"]] and clip.record["joining"] == "local"
    after = pocket.unet.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any("forward" in vars(module) for module in pocket.unet.modules())


def test_what_tunes_the_whole_unet_cannot_share(pocket, two):
    name, weight = next(iter(pocket.unet.named_parameters()))
    whole = dataclasses.replace(two[0], tuned={**two[0].tuned, name: weight.detach()})
    with pytest.raises(UserError, match="cannot share a picture"):
        Studio(pocket, [whole, two[1]])
