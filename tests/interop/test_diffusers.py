"""Custom Diffusion's files out and in: diffusers' own classes load what is written, and what others wrote is read."""

import dataclasses
import json
import shutil

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor
from safetensors.torch import load_file, save_file

from cdvideo.base import key_value_names
from cdvideo.base.single_file import SD15_FOLDER
from cdvideo.concept import Concept, LowRankChange
from cdvideo.errors import UserError
from cdvideo.interop import export_diffusers, import_diffusers
from cdvideo.interop.custom_diffusion import foreign_tokens
from cdvideo.interop.importing import _read
from tests import tiny
from tests.base import original_layout
from tests.interop.conftest import concept_of, noise_predicted, same_concept

WEIGHTS = "pytorch_custom_diffusion_weights"


def pipeline() -> StableDiffusionPipeline:
    """Untouched copies of the tiny base's parts; diffusers adds tokens to them."""
    return StableDiffusionPipeline(
        vae=tiny.vae(),
        text_encoder=tiny.text_encoder(),
        tokenizer=tiny.tokenizer(),
        unet=tiny.unet(),
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def predicted_by(pipe: StableDiffusionPipeline, prompt: str) -> torch.Tensor:
    ids = pipe.tokenizer(prompt, padding="max_length", max_length=tiny.NUM_TOKENS, return_tensors="pt").input_ids
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = pipe.text_encoder(ids).last_hidden_state
        return pipe.unet(latents, 500, encoder_hidden_states=states).sample


def pixels_by(pipe: StableDiffusionPipeline, prompt: str) -> torch.Tensor:
    """A whole picture of the pipeline's own making, (1, H, W, 3) in [0, 1]: four steps, guidance 7.5."""
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe(prompt, latents=latents, num_inference_steps=4, guidance_scale=7.5, output_type="np").images
    return torch.from_numpy(drawn)


def pixels_within(loaded, concept, prompt: str) -> torch.Tensor:
    """The same picture by a pipeline of the base's own parts, whose prompts are encoded while the concept is injected."""
    pipe = pipeline()
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    pipe.set_progress_bar_config(disable=True)
    with loaded.inject(concept):
        pipe.unet = loaded.unet
        text, negative = loaded.text_states([prompt]), loaded.text_states([""])
        states = {"prompt_embeds": text, "negative_prompt_embeds": negative}
        drawn = pipe(**states, latents=latents, num_inference_steps=4, guidance_scale=7.5, output_type="np").images
    return torch.from_numpy(drawn)


def set_processors(unet, weights) -> None:
    """One CustomDiffusionAttnProcessor for each cross-attention, filled from the exported tensors, all of which are used."""
    processors, used = {}, set()
    for name, processor in unet.attn_processors.items():
        key = weights.get(f"{name}.to_k_custom_diffusion.weight")
        if key is None:
            processors[name] = processor
            continue
        module = CustomDiffusionAttnProcessor(train_q_out=False, hidden_size=key.shape[0], cross_attention_dim=key.shape[1])
        own = {part: weights[f"{name}.{part}"] for part in ("to_k_custom_diffusion.weight", "to_v_custom_diffusion.weight")}
        module.load_state_dict(own)
        used |= {f"{name}.{part}" for part in own}
        processors[name] = module
    assert used == set(weights)
    unet.set_attn_processor(processors)


def test_processors_set_by_hand_and_the_embedding_draw_what_the_injection_draws(tiny_base, concept, tmp_path):
    export_diffusers(concept, tmp_path)
    pipe = pipeline()
    with tiny_base.inject(concept):
        ours = noise_predicted(tiny_base, "photo of a V* bear")
    plain = predicted_by(pipe, "photo of a bear")
    set_processors(pipe.unet, load_file(tmp_path / f"{WEIGHTS}.safetensors"))
    pipe.load_textual_inversion(str(tmp_path), weight_name="<new1>.safetensors")
    theirs = predicted_by(pipe, "photo of a <new1> bear")
    assert (ours - theirs).abs().max() < 1e-4 < (plain - theirs).abs().max()
    picture = pixels_within(tiny_base, concept, "photo of a V* bear")
    assert (
        (picture - pixels_by(pipe, "photo of a <new1> bear")).abs().max()
        < 1e-4
        < (picture - pixels_by(pipeline(), "photo of a bear")).abs().max()
    )


def test_diffusers_own_loader_takes_the_pickles_when_it_is_given_a_pipeline(tiny_base, concept, tmp_path):
    export_diffusers(concept, tmp_path, pickled=True)
    pipe = pipeline()
    pipe.unet.load_attn_procs(str(tmp_path), weight_name=f"{WEIGHTS}.bin", use_safetensors=False, _pipeline=pipe)
    pipe.load_textual_inversion(str(tmp_path), weight_name="<new1>.bin")
    with tiny_base.inject(concept):
        ours = noise_predicted(tiny_base, "photo of a V* bear")
    assert (ours - predicted_by(pipe, "photo of a <new1> bear")).abs().max() < 1e-4


@pytest.mark.parametrize("pickled", [False, True])
def test_a_round_trip_changes_nothing(tiny_base, tmp_path, pickled):
    concept = concept_of(tiny_base, ("V2*", "<my-cat>", "V1*"), ("bear", "cat", "dog"))
    written = export_diffusers(concept, tmp_path / "a", pickled=pickled)
    assert written.tokens == {"V2*": "<new2>", "<my-cat>": "<new3>", "V1*": "<new1>"}
    assert {path.name for path in written.files} == {path.name for path in (tmp_path / "a").iterdir()}
    for base in (None, tiny_base):
        imported = import_diffusers(tmp_path / "a", base=base)
        assert same_concept(imported.concept, concept) and imported.unknown == ()


def test_other_programs_files_say_nothing_of_their_making(tiny_base, concept, tmp_path):
    export_diffusers(concept, tmp_path, pickled=True)
    (tmp_path / "cdvideo.json").unlink()
    imported = import_diffusers(tmp_path, base=tiny_base, class_words=("bear",))
    header = imported.concept.header
    assert (header.method, header.steps, header.seed, header.spl_weight) == ("unknown", None, None, None)
    assert set(imported.unknown) == {"method", "steps", "seed", "spl_weight", "spl_mode"}
    assert (header.tokens, header.class_words, header.fingerprint) == (("V*",), ("bear",), tiny_base.fingerprint)
    assert import_diffusers(tmp_path, base=tiny_base).concept.header.class_words == ("unknown",)
    assert import_diffusers(tmp_path, base=tiny_base, tokens=("<b>",)).tokens == {"<b>": "<new1>"}
    imported.concept.save(tmp_path / "c.safetensors")
    loaded = Concept.load(tmp_path / "c.safetensors")
    assert same_concept(loaded, imported.concept)
    with tiny_base.inject(loaded):
        ours = noise_predicted(tiny_base, "a V* bear")
    with tiny_base.inject(concept):
        assert torch.equal(ours, noise_predicted(tiny_base, "a V* bear"))


def test_custom_diffusions_delta_bin(tiny_base, tmp_path):
    concept = concept_of(tiny_base, ("V1*", "V2*"), ("bear", "cat"))
    rows = {"<new1>": concept.embeddings["V1*"], "<new2>": concept.embeddings["V2*"]}
    torch.save({"unet": dict(concept.tuned), "modifier_token": rows}, tmp_path / "delta-500.bin")
    for path in (tmp_path, tmp_path / "delta-500.bin"):
        imported = import_diffusers(path, base=tiny_base, class_words=("bear", "cat")).concept
        assert imported.header.tokens == ("V1*", "V2*") and imported.header.class_words == ("bear", "cat")
        assert all(torch.equal(value, imported.tuned[name]) for name, value in concept.tuned.items())
        assert torch.equal(imported.embeddings["V2*"], concept.embeddings["V2*"])


def test_a_compressed_delta_is_a_change_to_the_base(tiny_base, tmp_path):
    parameters = dict(tiny_base.unet.named_parameters())
    whole = concept_of(tiny_base, rank=3)
    factors = {}
    for name, value in whole.tuned.items():
        left, singular, right = torch.linalg.svd(value - parameters[name], full_matrices=False)
        factors[name] = {"u": left[:, :3] * singular[:3], "v": right[:3]}
    torch.save({"unet": factors, "modifier_token": {"<new1>": whole.embeddings["V*"]}}, tmp_path / "compressed_delta.bin")
    imported = import_diffusers(tmp_path / "compressed_delta.bin", base=tiny_base).concept
    assert imported.is_compressed and imported.header.format_version == 2
    for name, value in imported.expanded(parameters).tuned.items():
        assert torch.allclose(value, whole.tuned[name], atol=1e-6)


def test_the_original_repositorys_checkpoint_is_read_under_diffusers_names(tmp_path):
    """All 32 matrices of SD1.5: the names there come from `original_layout`, which the loader's tests hold against diffusers' converter."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(json.loads((SD15_FOLDER / "unet" / "config.json").read_text()))
    names = key_value_names(unet)
    originals = {f"model.diffusion_model.{original_layout.unet_name(name, 2, {1, 2, 3})}": name for name in names}
    state = {original: torch.full((2, 3), float(number)) for number, original in enumerate(originals)}
    torch.save({"state_dict": {**state, "embed": torch.randn(1, 3)}}, tmp_path / "delta.ckpt")
    foreign = _read(tmp_path / "delta.ckpt")
    assert set(foreign.tuned) == set(names) and len(names) == 32
    assert all(torch.equal(foreign.tuned[name], state[original]) for original, name in originals.items())

    block = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2"
    state = {f"{block}.to_{part}.weight": torch.randn(4, 3) for part in "kv"}
    (tmp_path / "two").mkdir()
    torch.save({"state_dict": {**state, "embed": torch.randn(2, 3)}}, tmp_path / "two" / "delta_epoch=000000.ckpt")
    foreign = _read(tmp_path / "two")
    assert set(foreign.tuned) == {f"mid_block.attentions.0.transformer_blocks.0.attn2.to_{part}.weight" for part in "kv"}
    assert torch.equal(foreign.tuned["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"], state[f"{block}.to_k.weight"])
    assert set(foreign.embeddings) == {"<new1>", "<new2>"} and foreign.embeddings["<new1>"].shape == (3,)


def test_token_names():
    assert foreign_tokens(["V*"]) == {"V*": "<new1>"}
    assert foreign_tokens(["V1*", "V2*"]) == {"V1*": "<new1>", "V2*": "<new2>"}
    assert foreign_tokens(["<cat>", "V1*", "V*"]) == {"<cat>": "<new2>", "V1*": "<new1>", "V*": "<new3>"}


def test_nothing_is_replaced_unasked_and_nothing_half_written(concept, tmp_path, monkeypatch):
    export_diffusers(concept, tmp_path / "a")
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    with pytest.raises(UserError, match="exists already"):
        export_diffusers(concept, tmp_path / "a")
    export_diffusers(concept, tmp_path / "a", overwrite=True)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="cannot be written"):
        export_diffusers(concept, tmp_path / "b")
    assert not (tmp_path / "b").exists()


class Harmful:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("missing", "there is nothing at"),
        ("empty folder", "it has no pytorch_custom_diffusion_weights"),
        ("no embedding", "without a token's embedding"),
        ("queries", "more than cross-attention keys and values was tuned"),
        ("text encoder", "the text encoder was tuned too"),
        ("pickle", "holds more than weights"),
        ("concept", "it is a cdvideo concept"),
        ("lora", "it is a LoRA"),
        ("text", "is no checkpoint"),
        ("shape", "does not fit the base"),
        ("two deltas", "holds 2 deltas"),
        ("stale companion", "is not about the files beside it"),
        ("tokens", "--token names 2"),
        ("no base", "--base sd15"),
    ],
)
def test_what_cannot_be_imported_is_said(tiny_base, concept, tmp_path, fault, said):
    path, base, tokens = tmp_path / "x", tiny_base, ()
    export_diffusers(concept, path)
    weights = path / f"{WEIGHTS}.safetensors"
    state = load_file(weights)
    name = next(iter(state))
    if fault == "missing":
        path = tmp_path / "nowhere"
    elif fault == "empty folder":
        weights.unlink()
    elif fault == "no embedding":
        (path / "<new1>.safetensors").unlink()
        (path / "cdvideo.json").unlink()
    elif fault == "queries":
        save_file({**state, name.replace("to_k", "to_q"): torch.zeros(2, 2)}, weights)
    elif fault == "text encoder":
        path = tmp_path / "delta.bin"
        unet, row = dict(concept.tuned), concept.embeddings["V*"]
        torch.save({"unet": unet, "modifier_token": {"<new1>": row}, "text_encoder": {"a": torch.zeros(1)}}, path)
    elif fault == "pickle":
        path = tmp_path / "delta.ckpt"
        torch.save({"unet": Harmful()}, path)
    elif fault == "concept":
        path = tmp_path / "c.safetensors"
        concept.save(path)
    elif fault == "lora":
        path = tmp_path / "lora.safetensors"
        save_file({"lora_unet_x.lora_down.weight": torch.zeros(1, 1)}, path)
    elif fault == "text":
        path = tmp_path / "a.bin"
        path.write_text("hello")
    elif fault == "shape":
        save_file({**state, name: torch.zeros(2, 2)}, weights)
    elif fault == "two deltas":
        weights.unlink()
        for number in range(2):
            (path / f"delta{number}.bin").write_bytes(b"")
    elif fault == "stale companion":
        (path / "<new1>.safetensors").rename(path / "<new2>.safetensors")
        save_file({"<new2>": torch.zeros(3)}, path / "<new2>.safetensors")
    elif fault == "tokens":
        tokens = ("a*", "b*")
    elif fault == "no base":
        (path / "cdvideo.json").unlink()
        base = None
    with pytest.raises(UserError) as refused:
        import_diffusers(path, base=base, tokens=tokens)
    assert said in str(refused.value)


def test_compressed_concepts_need_the_base_first(concept, tmp_path):
    low_rank = {
        name: LowRankChange(torch.zeros(value.shape[0], 1), torch.zeros(1, value.shape[1])) for name, value in concept.tuned.items()
    }
    compressed = Concept(header=concept.header, tuned=low_rank, embeddings=concept.embeddings)
    with pytest.raises(UserError, match="compressed"):
        export_diffusers(compressed, tmp_path)


def test_an_export_over_another_leaves_nothing_of_it(tiny_base, concept, tmp_path):
    """Or the files of the one would be taken for those of the other."""
    other = dataclasses.replace(concept, tuned={name: value + 1 for name, value in concept.tuned.items()})
    export_diffusers(concept, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    export_diffusers(other, tmp_path, pickled=True, overwrite=True)
    assert not list(tmp_path.glob("*.safetensors")) and (tmp_path / "notes.txt").exists()
    assert same_concept(import_diffusers(tmp_path).concept, other)


def test_what_the_companion_names_is_read_whatever_lies_beside_it(tiny_base, concept, tmp_path):
    other = dataclasses.replace(concept, tuned={name: value + 1 for name, value in concept.tuned.items()})
    export_diffusers(other, tmp_path / "other")
    export_diffusers(concept, tmp_path, pickled=True)
    for file in (tmp_path / "other").glob("*.safetensors"):
        shutil.copy(file, tmp_path)
    assert same_concept(import_diffusers(tmp_path).concept, concept)
    with pytest.raises(UserError, match="is not about"):
        import_diffusers(tmp_path / f"{WEIGHTS}.safetensors", base=tiny_base)


def test_a_class_that_the_base_cannot_read_is_said(tiny_base, concept, tmp_path):
    export_diffusers(concept, tmp_path)
    with pytest.raises(UserError, match="'big bear' as one word"):
        import_diffusers(tmp_path, base=tiny_base, class_words=("big bear",))
