"""Bases out of folders, single files and the hub's cache; every tensor in its place, and what cannot be used said so."""

import json
import shlex
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from cdvideo.base import loading
from cdvideo.base.hub import cached_models
from cdvideo.base.loading import Components, fingerprint, load_components
from cdvideo.base.single_file import SD15_FOLDER, shipped_tokenizer
from cdvideo.errors import UserError
from tests import tiny
from tests.base import original_layout

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.pipeline_folder(tmp_path / "tiny")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and a hub that nobody answers for."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "hub"


def load(source: Path | str, dtype: torch.dtype = torch.float32, **options: bool) -> Components:
    return load_components(str(source), dtype=dtype, device=CPU, **options)


def load_single(path: Path, configs: Path, dtype: torch.dtype = torch.float32) -> Components:
    """A tiny single file: the tiny folder's configurations stand in for the shipped ones of SD1.5."""
    return loading._from_single_file(str(path), str(path), path, dtype, CPU, configs=configs)


def assert_tiny(components: Components) -> None:
    for ours, original in ((components.unet, tiny.unet()), (components.vae, tiny.vae()), (components.text_encoder, tiny.text_encoder())):
        state, expected = ours.state_dict(), original.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], expected[name]) for name in state)
        assert not ours.training and not any(parameter.requires_grad for parameter in ours.parameters())
        assert not any(tensor.is_meta for tensor in (*ours.parameters(), *ours.buffers()))


def original_file(path: Path, changed: dict[str, torch.Tensor | None] | None = None) -> Path:
    state = {**original_layout.checkpoint(tiny.unet(), tiny.vae(), tiny.text_encoder()), **(changed or {})}
    kept = {name: value.contiguous() for name, value in state.items() if value is not None}
    save_file(kept, path)
    return path


def test_a_folder_loads_exactly(folder):
    components = load(folder)
    assert_tiny(components)
    assert components.canonical_id == str(folder) and components.scheduler_config["beta_schedule"] == "scaled_linear"
    assert components.tokenizer.model_max_length == tiny.NUM_TOKENS
    ids = torch.tensor([components.tokenizer("a photo of a bear").input_ids])
    assert torch.equal(components.text_encoder(ids).last_hidden_state, tiny.text_encoder()(ids).last_hidden_state)


def test_the_real_configuration_of_the_text_encoder_is_kept(folder):
    assert load(folder).text_encoder.config.eos_token_id == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_come_in_the_requested_precision(folder, dtype):
    components = load(folder, dtype)
    for module in (components.unet, components.vae, components.text_encoder):
        assert {parameter.dtype for parameter in module.parameters()} == {dtype}


def test_names_of_older_libraries_are_understood(folder):
    """Published files call the autoencoder's attention query, key, value; they have a text_model level and saved position ids."""
    text = load_file(folder / "text_encoder/model.safetensors")
    text = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in text.items()}
    text["text_model.embeddings.position_ids"] = torch.arange(tiny.NUM_TOKENS)[None]
    save_file(text, folder / "text_encoder/model.safetensors")
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    vae = {}
    for name, value in load_file(path).items():
        for new, old in names.items():
            name = name.replace(new, old)
        vae[name] = value
    assert any(".query." in name for name in vae)
    save_file(vae, path)
    assert_tiny(load(folder))


def test_half_precision_prefers_the_fp16_files(folder):
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    marked = {name: torch.zeros_like(value, dtype=torch.float16) for name, value in load_file(path).items()}
    save_file(marked, folder / "unet/diffusion_pytorch_model.fp16.safetensors")
    assert not any(parameter.any() for parameter in load(folder, torch.float16).unet.parameters())
    assert_tiny(load(folder))


def test_pickled_weights_in_a_folder(folder):
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    assert_tiny(load(folder))


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model"),
        ("unet/config.json", "unet/config.json"),
        ("tokenizer/tokenizer.json", "tokenizer/vocab.json"),
        ("model_index.json", "no model_index.json"),
    ],
)
def test_incomplete_folders(folder, part, said):
    (folder / part).unlink()
    with pytest.raises(UserError, match=said):
        load(folder)


def test_tensors_that_do_not_belong_are_named(folder):
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    state = load_file(path)
    removed = state.pop("conv_in.bias")
    save_file(state, path)
    with pytest.raises(UserError, match=r"lacks conv_in\.bias"):
        load(folder)
    save_file({**state, "conv_in.bias": removed, "conv_in.extra": removed.clone()}, path)
    with pytest.raises(UserError, match=r"conv_in.extra left over"):
        load(folder)
    save_file({**state, "conv_in.bias": torch.zeros(3)}, path)
    with pytest.raises(UserError, match=r"conv_in.bias is \(3,\) in the file, \(16,\) in the model"):
        load(folder)


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("model_index.json", {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}, "text_encoder_2"),
        ("unet/config.json", {"in_channels": 9}, "inpainting"),
        ("unet/config.json", {"cross_attention_dim": 64}, "width 64"),
        ("scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}, "v_prediction"),
    ],
)
def test_folders_of_other_models(folder, part, changes, said):
    path = folder / part
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UserError, match=said):
        load(folder)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_single_file_in_the_original_layout(folder, tmp_path, suffix):
    path = original_file(tmp_path / "model.safetensors")
    if suffix == ".ckpt":
        state = load_file(path)
        extra = {"model_ema.decay": torch.ones(()), "alphas_cumprod": torch.ones(4)}
        path = tmp_path / "model.ckpt"
        torch.save({"state_dict": {**state, **extra}, "global_step": 3}, path)
    assert_tiny(load_single(path, folder))


def test_a_single_file_with_what_other_programs_leave_in(folder, tmp_path):
    prefix = "cond_stage_model.transformer."
    extra = {f"{prefix}text_model.embeddings.position_ids": torch.arange(16)[None], f"{prefix}logit_scale": torch.ones(())}
    assert_tiny(load_single(original_file(tmp_path / "m.safetensors", extra), folder))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model.diffusion_model.out.2.bias": None}, "lacks conv_out.bias"),
        ({"model.diffusion_model.out.9.bias": torch.zeros(2)}, r"model.diffusion_model.out.9.bias"),
        ({"first_stage_model.encoder.mid.odd": torch.zeros(2)}, r"first_stage_model.encoder.mid.odd"),
        ({"cond_stage_model.transformer.text_model.odd": torch.zeros(2)}, r"odd left over"),
        ({"model.diffusion_model.out.2.bias": torch.zeros(5)}, r"conv_out.bias is \(5,\)"),
    ],
)
def test_single_files_with_wrong_tensors(folder, tmp_path, changed, said):
    with pytest.raises(UserError, match=said):
        load_single(original_file(tmp_path / "m.safetensors", changed), folder)


@pytest.mark.parametrize("prefix", ["first_stage_model.", "cond_stage_model."])
def test_single_files_without_a_component(folder, tmp_path, prefix):
    state = original_layout.checkpoint(tiny.unet(), tiny.vae(), tiny.text_encoder())
    save_file({name: value.contiguous() for name, value in state.items() if not name.startswith(prefix)}, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match=r"lacks the (autoencoder|text encoder)"):
        load_single(tmp_path / "m.safetensors", folder)


INPUT, CONTEXT = (
    "model.diffusion_model.input_blocks.0.0.weight",
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
)
KINDS = {
    "Stable Diffusion XL": {INPUT: (320, 4, 3, 3), "conditioner.embedders.0.x": (1,)},
    "Stable Diffusion 2": {INPUT: (320, 4, 3, 3), CONTEXT: (320, 1024), "cond_stage_model.model.ln_final.bias": (1024,)},
    "Stable Diffusion 3": {"model.diffusion_model.joint_blocks.0.x": (1,)},
    "inpainting": {INPUT: (320, 9, 3, 3), CONTEXT: (320, 768)},
    "InstructPix2Pix": {INPUT: (320, 8, 3, 3), CONTEXT: (320, 768)},
    "a LoRA": {"lora_unet_x.lora_up.weight": (4, 4)},
    "textual inversion": {"emb_params": (1, 768)},
    "AnimateDiff motion module": {"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": (320,)},
    "cdvideo concept": {"unet.down_blocks.0.attn2.to_k.weight": (2, 2), "embedding.V*": (768,)},
    "a UNet in diffusers' layout": {"time_embedding.linear_1.weight": (2, 2), "conv_in.weight": (2, 2)},
    "something unknown": {"weights": (2, 2)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_checkpoints_are_called_by_their_name(tmp_path, kind):
    save_file({name: torch.zeros(shape) for name, shape in KINDS[kind].items()}, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match=kind) as refused:
        load(tmp_path / "m.safetensors")
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"just some words, not a model", "neither safetensors nor"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"\x80\x02garbage", "holds more than weights|damaged"),
        (b"PK\x03\x04 cut short", "damaged"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, content, said):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        load(path)


def test_a_truncated_file_says_so(tmp_path):
    path = original_file(tmp_path / "m.safetensors")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="damaged safetensors"):
        load(path)


def test_pickles_with_code_are_refused_and_the_given_command_converts_them(folder, tmp_path):
    path = tmp_path / "it's odd.ckpt"
    torch.save({"state_dict": load_file(original_file(tmp_path / "m.safetensors")), "callbacks": Fraction(1, 2)}, path)
    with pytest.raises(UserError, match="holds more than weights") as refused:
        load(path)
    command = shlex.split(refused.value.remedy.splitlines()[-1])
    subprocess.run([sys.executable, *command[1:]], check=True, cwd=Path(__file__).parents[2])
    assert_tiny(load_single(path.with_suffix(".safetensors"), folder))


@pytest.mark.parametrize(
    ("name", "said"), [("pokket", "did you mean 'pocket'"), ("", "known names"), ("./gone", "check the path"), ("a.ckpt", "path")]
)
def test_names_that_are_nothing(name, said):
    with pytest.raises(UserError) as refused:
        load(name)
    assert said in str(refused.value)


def cache(hub: Path, location: str, source: Path) -> None:
    """Put a folder into the hub cache as huggingface_hub would."""
    repository = hub / f"models--{location.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    source.rename(repository / "snapshots" / ("0" * 40))


def test_what_is_cached_loads_without_a_network_and_is_listed(hub, folder):
    cache(hub, "someone/tiny", folder)
    components = load("someone/tiny")
    assert_tiny(components)
    assert components.canonical_id == "someone/tiny"
    (model,) = cached_models()
    assert (model.location, model.kind, model.alias) == ("someone/tiny", "base", None) and model.size_bytes > 100_000


def test_the_catalogs_models_are_known_in_the_cache(hub, folder):
    cache(hub, "stable-diffusion-v1-5/stable-diffusion-v1-5", folder)
    (model,) = cached_models()
    assert model.alias == "sd15" and model.licence == "CreativeML OpenRAIL-M"
    assert load("sd15", offline=True).canonical_id == model.location


@pytest.mark.parametrize(("offline", "said"), [(True, "--offline"), (False, "127.0.0.1:9")])
def test_an_unreachable_model_says_where_was_looked_and_how_to_supply_it(hub, offline, said):
    with pytest.raises(UserError) as refused:
        load("sd15", offline=offline)
    message = str(refused.value)
    assert said in message and str(hub) in message and "hf download stable-diffusion-v1-5/stable-diffusion-v1-5" in message


def test_the_fingerprint_is_of_the_weights_not_of_their_precision(folder):
    marks = {fingerprint(c.unet, c.text_encoder) for c in (load(folder, dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16))}
    assert marks == {fingerprint(tiny.unet(), tiny.text_encoder())}
    assert (
        fingerprint(tiny.unet(seed=9), tiny.text_encoder()) not in marks
        and fingerprint(tiny.unet(), tiny.text_encoder(seed=9)) not in marks
    )


def test_the_shipped_vocabulary_is_clips():
    tokenizer = shipped_tokenizer()
    assert len(tokenizer) == 49408 and tokenizer.model_max_length == 77
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer.convert_tokens_to_ids("ktn") == 42170
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (49406, 49407, 49407)
    assert tokenizer("A  Photo\nof a CAT").input_ids == tokenizer("a photo of a cat").input_ids


def test_the_shipped_configurations_are_stable_diffusion_1_5s():
    """Parameter counts as published: UNet 859,520,964; autoencoder 83,653,863; text encoder 123,060,480."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    def config(name: str) -> dict:
        return json.loads((SD15_FOLDER / name / "config.json").read_text())

    with torch.device("meta"):
        models = (
            UNet2DConditionModel.from_config(config("unet")),
            AutoencoderKL.from_config(config("vae")),
            CLIPTextModel(CLIPTextConfig.from_dict(config("text_encoder"))),
        )
    assert [sum(p.numel() for p in model.parameters()) for model in models] == [859_520_964, 83_653_863, 123_060_480]
    assert models[2].config.eos_token_id == 2


@pytest.mark.parametrize(
    "module", ["cdvideo.base.catalog", "cdvideo.base.hub", "cdvideo.base.layout", "cdvideo.base.recognise", "cdvideo.resources"]
)
def test_listing_models_needs_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
