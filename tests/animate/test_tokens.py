"""Long prompts in chunks, and what is said about prompts."""

import warnings

import pytest
import torch

from cdvideo.animate.text_states import text_states
from cdvideo.animate.tokens import describe_prompt, say_unknown_tokens, tokenize
from cdvideo.base import Vocabulary, token_ids
from cdvideo.errors import UserNote
from tests.animate.test_text_states import concept_of

LONG = "a bear reading a book in the snow and a cat on the beach with a dog at night in the city near a tree by the sea under the moon"


def test_a_short_prompt_is_as_the_tokenizer_has_it(pocket):
    prompts = ["a bear reading a book", "", "bad quality, worse quality"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokens = tokenize(pocket.tokenizer, prompts)
    assert torch.equal(tokens.ids, token_ids(pocket.tokenizer, prompts)) and bool((tokens.weights == 1).all())


def test_all_prompts_have_as_many_chunks_as_the_longest(pocket):
    length = pocket.tokenizer.model_max_length
    with pytest.warns(UserNote, match=f"tokens long and is read in 2 parts of at most {length - 2}"):
        tokens = tokenize(pocket.tokenizer, [LONG + " and more", "bad quality"])
    assert tokens.ids.shape == (2, 2 * length)
    assert tokens.ids[:, 0].tolist() == tokens.ids[:, length].tolist() == [pocket.tokenizer.bos_token_id] * 2
    assert torch.equal(tokens.ids[1, length:], token_ids(pocket.tokenizer, [""])[0])
    words = pocket.tokenizer(LONG + " and more", add_special_tokens=False).input_ids
    special = {pocket.tokenizer.bos_token_id, pocket.tokenizer.eos_token_id, pocket.tokenizer.pad_token_id}
    assert [token for token in tokens.ids[0].tolist() if token not in special] == words


def test_chunks_are_encoded_by_themselves(pocket):
    length = pocket.tokenizer.model_max_length
    tokens = tokenize(pocket.tokenizer, [" ".join(["bear"] * (length - 2) + ["cat"])])
    with torch.no_grad():
        states, own = text_states(pocket, tokens), pocket.text_states([" ".join(["bear"] * (length - 2)), "cat"])
    assert torch.allclose(states[0], own.flatten(0, 1), atol=1e-5)


def test_a_cut_spares_words_and_a_concepts_phrase(pocket):
    concept = concept_of(pocket, "<one>", "bear", 1)
    size = pocket.tokenizer.model_max_length - 2
    with Vocabulary(pocket, [concept]):
        phrase = tokenize(pocket.tokenizer, [" ".join(["cat"] * (size - 1)) + " <one> bear"], [concept]).ids
        word = tokenize(pocket.tokenizer, [" ".join(["cat"] * (size - 1)) + " zzyzzyx"]).ids
        own = pocket.tokenizer.convert_tokens_to_ids("<one>")
        pieces = pocket.tokenizer("zzyzzyx", add_special_tokens=False).input_ids
    assert phrase[0, size + 3] == own and len(pieces) > 1
    assert word[0, size + 3 : size + 3 + len(pieces)].tolist() == pieces


def test_a_weight_moves_its_words_away_from_the_empty_prompt(pocket):
    """e + w (z - e) at "bear", which is the second word; nothing else moves."""
    with torch.no_grad():
        weighted = text_states(pocket, tokenize(pocket.tokenizer, ["a (bear:1.4) in the snow"]))[0]
        plain, empty = pocket.text_states(["a bear in the snow", ""])
    expected = plain.clone()
    expected[2] = empty[2] + 1.4 * (plain[2] - empty[2])
    assert torch.allclose(weighted, expected, atol=1e-5)


def test_words_like_a_concepts_token_are_said(pocket):
    concept = concept_of(pocket, "V1*", "bear", 1)
    with pytest.warns(UserNote) as said:
        say_unknown_tokens(["a V1* bear and a V2* cat", "a (<dog>:1.2) and (V*)"], [concept])
    assert [str(one.message).split(",")[0] for one in said] == [f"the prompt names {word}" for word in ("V2*", "<dog>", "V*")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        say_unknown_tokens(["a V1* bear, 3 * 4, x<y, **bold**, AV*"], [concept])


def test_a_prompt_is_described_by_its_length_and_whom_it_names(pocket):
    concept = concept_of(pocket, "V*", "bear", 1)
    with Vocabulary(pocket, [concept]):
        assert describe_prompt(pocket.tokenizer, "a V* bear (reading:1.2)", [concept]) == "4 tokens (up to 30 at a time), V* is a concept"
        assert describe_prompt(pocket.tokenizer, "a bear", [concept]) == "2 tokens (up to 30 at a time)"
