"""A concept's way into the base, against Custom Diffusion's own processor, and out again."""

import dataclasses
import hashlib

import pytest
import torch
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor

from cdvideo.base import initializer_id, key_value_names
from cdvideo.base import model as base_model
from cdvideo.base.single_file import shipped_tokenizer
from cdvideo.base.text import copy_of, eos_positions, single_token_id, tokenizer_with
from cdvideo.concept import Concept, ConceptHeader
from cdvideo.errors import UserError
from cdvideo.motion import attach
from cdvideo.train import Subject
from cdvideo.train.methods import find_method


def make_concept(base, strength: float = 0.3) -> Concept:
    generator = torch.Generator().manual_seed(4)
    parameters = dict(base.unet.named_parameters())
    key_values = {}
    for name in key_value_names(base.unet):
        value = parameters[name].detach()
        key_values[name] = value + strength * value.std() * torch.randn(value.shape, generator=generator)
    width = base.text_encoder.config.hidden_size
    header = ConceptHeader(base=base.id, fingerprint=base.fingerprint, tokens=("V*",), class_words=("bear",))
    return Concept(header=header, tuned=key_values, embeddings={"V*": torch.randn(width, generator=generator)})


def digest(base) -> str:
    state = [*base.unet.state_dict().items(), *base.text_encoder.state_dict().items()]
    sha = hashlib.sha256()
    for name, value in state:
        sha.update(name.encode() + value.flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def test_every_cross_attention_matrix_is_tuned_and_nothing_else(pocket):
    names = key_value_names(pocket.unet)
    blocks = [module for name, module in pocket.unet.named_modules() if name.endswith("attn2")]
    assert len(names) == 2 * len(blocks) and all("attn2.to_k" in name or "attn2.to_v" in name for name in names)


def test_ejecting_restores_the_base_bit_for_bit(pocket):
    before, tokenizer = digest(pocket), pocket.tokenizer
    with pocket.inject(make_concept(pocket)):
        assert digest(pocket) != before
        assert pocket.tokenizer.convert_tokens_to_ids("V*") == len(tokenizer)
    assert digest(pocket) == before and pocket.tokenizer is tokenizer
    ids = pocket.tokenizer("a V* bear").input_ids
    assert max(ids) < len(tokenizer)


def test_weights_that_lie_as_a_gpu_wants_them_are_the_same(pocket, pocket_motion, monkeypatch):
    """A base that is loaded to a GPU has its queries, keys and values lie together: through all that is done to it."""
    monkeypatch.setattr(base_model, "has_kernels", lambda device: True)
    other = base_model.load("pocket", device="cpu", dtype="fp32")
    assert other.fingerprint == pocket.fingerprint and digest(other) == digest(pocket)

    def lie_together(unet):
        attentions = [module for name, module in unet.named_modules() if name.endswith(".attn1") and "motion" not in name]
        apart = {attn.to_v.weight.data_ptr() - attn.to_q.weight.data_ptr() - 2 * attn.to_q.weight.nbytes for attn in attentions}
        return len(attentions) > 1 and apart == {0}

    assert lie_together(other.unet) and not lie_together(pocket.unet)
    assert lie_together(attach(other.unet, pocket_motion))
    with other.inject(make_concept(other)):
        assert digest(other) != digest(pocket)
    for name in ("dreambooth", "svdiff"):
        with find_method(name).tune(other, [Subject(token="V*", class_word="bear", initializer="bear")]) as tuning, torch.no_grad():
            for value in tuning.parameters:
                value.add_(0.1)
    assert digest(other) == digest(pocket) and lie_together(other.unet)


def test_an_injected_concept_predicts_what_custom_diffusions_processors_would(pocket):
    """diffusers' own processor for these files, set by hand with the concept's matrices, on an untouched copy of the UNet."""
    concept = make_concept(pocket)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 16, 16, generator=generator)
    with torch.no_grad(), pocket.inject(concept):
        states = pocket.text_states(["a V* bear wearing a hat", "a bear"])
        ours = pocket.unet(latents, 500, encoder_hidden_states=states).sample

    processors = {}
    for name, processor in pocket.unet.attn_processors.items():
        if "attn2" not in name:
            processors[name] = processor
            continue
        path = name.removesuffix(".processor")
        key, value = concept.tuned[f"{path}.to_k.weight"], concept.tuned[f"{path}.to_v.weight"]
        module = CustomDiffusionAttnProcessor(train_kv=True, train_q_out=False, hidden_size=key.shape[0], cross_attention_dim=key.shape[1])
        module.to_k_custom_diffusion.weight.data = key.clone()
        module.to_v_custom_diffusion.weight.data = value.clone()
        processors[name] = module
    pocket.unet.set_attn_processor(processors)
    with torch.no_grad():
        theirs = pocket.unet(latents, 500, encoder_hidden_states=states).sample
        assert (ours - theirs).abs().max() < 1e-5


def test_the_tokens_row_is_the_concepts_embedding(pocket):
    concept = make_concept(pocket)
    with pocket.inject(concept):
        ids = torch.tensor(pocket.tokenizer("a V* bear").input_ids)
        rows = pocket.text_encoder.get_input_embeddings()(ids)
    assert torch.equal(rows[2], concept.embeddings["V*"])
    plain = pocket.text_encoder.get_input_embeddings()
    assert torch.equal(rows[3], plain.weight[pocket.tokenizer("bear").input_ids[1]])


def test_prompts_without_the_token_encode_as_before(pocket):
    before = pocket.text_states(["a bear on the beach"])
    with pocket.inject(make_concept(pocket)):
        assert torch.equal(pocket.text_states(["a bear on the beach"]), before)


def test_half_strength_lies_half_way(pocket):
    concept = make_concept(pocket)
    name = key_value_names(pocket.unet)[0]
    original = dict(pocket.unet.named_parameters())[name].detach().clone()
    with pocket.inject(concept, scale=0.5):
        now = dict(pocket.unet.named_parameters())[name].detach()
        assert torch.allclose(now, (original + concept.tuned[name]) / 2, atol=1e-6)


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "embedding", "fingerprint"])
def test_concepts_that_do_not_fit_are_refused_by_name(pocket, fault):
    concept = make_concept(pocket)
    name = next(iter(concept.tuned))
    key_values, embeddings, header = dict(concept.tuned), dict(concept.embeddings), concept.header
    if fault == "missing":
        del key_values[name]
    elif fault == "extra":
        name = "down_blocks.9.attn2.to_k.weight"
        key_values[name] = torch.zeros(2, 2)
    elif fault == "shape":
        key_values[name] = torch.zeros(3, 3)
    elif fault == "embedding":
        embeddings["V*"], name = torch.zeros(5), "V*"
    else:
        header, name = dataclasses.replace(header, base="other/base", fingerprint="0000"), "other/base"
    before = digest(pocket)
    with pytest.raises(UserError) as refused:
        pocket.inject(Concept(header=header, tuned=key_values, embeddings=embeddings))
    assert name in str(refused.value) and refused.value.remedy
    assert digest(pocket) == before


def test_a_concept_of_another_version_of_the_base_is_to_be_trained_again(pocket, tmp_path):
    concept = make_concept(pocket)
    Concept(header=dataclasses.replace(concept.header, fingerprint="0000"), tuned=concept.tuned, embeddings=concept.embeddings).save(
        tmp_path / "old.safetensors"
    )
    with pytest.raises(UserError, match=r"old\.safetensors was tuned from other weights") as refused:
        pocket.inject(Concept.load(tmp_path / "old.safetensors"))
    assert "another version of the base pocket" in refused.value.cause and refused.value.remedy == "train it again"


def test_eos_is_found_explicitly():
    """V* above EOS, padding equal to EOS, and SD1.5's configuration: the text encoder would pool V*'s position, 2."""
    ids = torch.tensor([[49406, 320, 49408, 4298, 49407, 49407, 49407], [49406, 320, 4298, 49407, 49407, 49407, 49407]])
    assert eos_positions(ids, 49407).tolist() == [4, 3]
    with pytest.raises(ValueError, match="no end-of-text"):
        eos_positions(torch.tensor([[1, 2]]), 49407)


def test_pooled_feature_is_eos_even_where_the_encoder_would_pool_v(pocket):
    with pocket.inject(make_concept(pocket)):
        pocket.text_encoder.eos_token_id = 2  # what makes transformers pool the highest id
        ids = torch.tensor([pocket.tokenizer("a V* bear").input_ids])
        output = pocket.text_encoder(ids)
        _, features = pocket.text_states_and_features(["a V* bear"])
        assert torch.equal(output.pooler_output[0], output.last_hidden_state[0, 2])  # V*
        assert torch.allclose(features[0], output.last_hidden_state[0, 4], atol=1e-5)  # EOS: start, a, V*, bear, end


def test_tokens_have_to_be_new_and_class_words_whole(pocket):
    with pytest.raises(UserError, match="knows already"):
        tokenizer_with(pocket.tokenizer, ("bear",))
    for token in ("", "my bear", "V*\t"):
        with pytest.raises(UserError, match="is not one word"):
            tokenizer_with(pocket.tokenizer, (token,))
    with pytest.raises(UserError, match="as one word"):
        single_token_id(pocket.tokenizer, "rhinoceros")
    assert single_token_id(tokenizer_with(pocket.tokenizer, ("<my-bear>",)), "<my-bear>") == len(pocket.tokenizer)


def test_a_tokenizers_copy_is_added_to_and_the_original_is_not():
    """Of Stable Diffusion's, whose many merges both share."""
    tokenizer, prompt = shipped_tokenizer(), "a photo of a <my-bear> thing"
    before = tokenizer(prompt).input_ids, len(tokenizer)
    extended = tokenizer_with(tokenizer, ("<my-bear>",))
    assert (tokenizer(prompt).input_ids, len(tokenizer)) == before and len(extended) == before[1] + 1
    assert before[1] in extended(prompt).input_ids
    assert vars(copy_of(tokenizer))["_merges"] is vars(tokenizer)["_merges"]


def test_a_token_that_is_a_word_is_not_read_inside_others(pocket):
    tokenizer = tokenizer_with(pocket.tokenizer, ("sks", "V*"))
    sks, v = tokenizer.convert_tokens_to_ids(["sks", "V*"])
    assert tokenizer("an sks, a V*bear").input_ids.count(sks) == 1 and v in tokenizer("an sks, a V*bear").input_ids
    assert sks not in tokenizer("a bear that asks").input_ids
    assert tokenizer("a bear that asks").input_ids == pocket.tokenizer("a bear that asks").input_ids


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), KeyboardInterrupt()], ids=["memory", "Ctrl-C"])
def test_an_injection_that_fails_halfway_leaves_the_base_as_it_was(pocket, monkeypatch, error):
    concept = make_concept(pocket)
    before = {name: value.clone() for name, value in pocket.unet.state_dict().items()}
    tokenizer, embedding, calls, usual = pocket.tokenizer, pocket.text_encoder.get_input_embeddings(), [], torch.lerp

    def failing(*tensors):
        calls.append(1)
        if len(calls) == 3:
            raise error
        return usual(*tensors)

    monkeypatch.setattr(torch, "lerp", failing)
    with pytest.raises(type(error)):
        pocket.inject(concept, 0.5)
    assert len(calls) == 3 and pocket.tokenizer is tokenizer and pocket.text_encoder.get_input_embeddings() is embedding
    assert all(torch.equal(before[name], value) for name, value in pocket.unet.state_dict().items())


def test_too_long_prompts_say_what_is_lost(pocket):
    with pytest.warns(UserWarning, match="not used: .*penguin"):
        pocket.text_states(["a bear " * 40 + "penguin"])


def test_a_token_may_start_from_an_entry_that_no_text_reads_as_one_piece():
    """Custom Diffusion starts from `ktn`, entry 42170 of CLIP's vocabulary, while the text "ktn" reads as two tokens."""
    tokenizer = shipped_tokenizer()
    assert initializer_id(tokenizer, "ktn") == 42170
    assert initializer_id(tokenizer, "bear") == tokenizer("bear", add_special_tokens=False).input_ids[0]
    with pytest.raises(UserError, match="as one word"):
        initializer_id(tokenizer, "quizzicality")
