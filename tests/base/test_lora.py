"""LoRAs for the image model, in every layout that they come in: against diffusers' own names, sums by hand, and exports of concepts."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers
from safetensors.torch import save_file
from torch import nn

from cdvideo import base
from cdvideo.base.lora import ImageLora, ImageLoraInjection, load_lora, parse_lora, together
from cdvideo.errors import UserError
from cdvideo.interop import export_kohya
from tests import tiny
from tests.base import original_layout
from tests.interop.conftest import concept_of, noise_predicted
from tests.motion.test_lora import official_lora, peft_lora

State = dict[str, torch.Tensor]
RANK, ALPHA = 3, 2.0
KEY = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
PROMPT = "a photo of a bear"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.pipeline_folder(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def loaded(folder) -> base.Base:
    return base.load(str(folder), device="cpu", dtype="fp32")


def networks(loaded: base.Base) -> list[tuple[str, nn.Module]]:
    return [("unet", loaded.unet), ("text_encoder", loaded.text_encoder)]


def pairs(loaded: base.Base) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(down, up) for every linear and convolutional layer, by `unet.` or `text_encoder.text_model.` and its name."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for prefix, network in networks(loaded):
        for name, layer in network.named_modules():
            name = f"text_model.{name.removeprefix('text_model.')}" if prefix == "text_encoder" else name
            if isinstance(layer, nn.Linear):
                down, up = (
                    torch.randn(RANK, layer.in_features, generator=generator),
                    torch.randn(layer.out_features, RANK, generator=generator),
                )
            elif isinstance(layer, nn.Conv2d):
                down = torch.randn(RANK, layer.in_channels, *layer.kernel_size, generator=generator)
                up = torch.randn(layer.out_channels, RANK, 1, 1, generator=generator)
            else:
                continue
            made[f"{prefix}.{name}"] = (0.1 * down, 0.1 * up)
    return made


def kohya(loaded: base.Base) -> State:
    state: State = {}
    for layer, (down, up) in pairs(loaded).items():
        prefix, _, name = layer.partition(".")
        stem = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[prefix] + name.replace(".", "_")
        state |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(ALPHA)}
    return state


def named(loaded: base.Base, down: str, up: str, prefix: str = "") -> State:
    state: State = {}
    for layer, pair in pairs(loaded).items():
        state |= {f"{prefix}{layer}.{down}.weight": pair[0], f"{prefix}{layer}.{up}.weight": pair[1] * (ALPHA / RANK)}
    return state


def peft(loaded: base.Base) -> State:
    return named(loaded, "lora_A", "lora_B")


def diffusers_layers(loaded: base.Base) -> State:
    return named(loaded, "lora.down", "lora.up")


def peft_alone(loaded: base.Base) -> State:
    """What peft's own `save_pretrained` writes of a UNet."""
    state = named(loaded, "lora_A", "lora_B", prefix="base_model.model.")
    return {name.replace("base_model.model.unet.", "base_model.model."): value for name, value in state.items() if ".unet." in name}


def old_diffusers(loaded: base.Base) -> State:
    """diffusers' names of 0.21: attention by its processors, in the text encoder too. diffusers' own converter makes them."""
    converted, _ = _convert_non_diffusers_lora_to_diffusers(kohya(loaded))
    return {name: value * (ALPHA / RANK) if ".up." in name else value for name, value in converted.items()}


def written(path: Path, state: State) -> str:
    save_file({name: value.clone().contiguous() for name, value in state.items()}, path)
    return str(path)


def everything(loaded: base.Base) -> State:
    return {f"{prefix}.{name}": value for prefix, network in networks(loaded) for name, value in network.state_dict().items()}


@torch.no_grad()
@pytest.mark.parametrize("layout", [kohya, peft, diffusers_layers, peft_alone, old_diffusers])
def test_strength_times_alpha_over_rank_times_up_times_down_is_added(loaded, tmp_path, layout):
    lora = load_lora(written(tmp_path / "l.safetensors", layout(loaded)), base=loaded)
    before = {name: value.clone() for name, value in everything(loaded).items()}
    expected = dict(before)
    for layer, (down, up) in pairs(loaded).items():
        if layout is peft_alone and not layer.startswith("unet."):
            continue
        layer = layer.replace("text_encoder.text_model.", "text_encoder.")
        name = next(
            name for name in (f"{layer}.weight", layer.replace("text_encoder.", "text_encoder.text_model.") + ".weight") if name in before
        )
        whole = torch.einsum("or,rihw->oihw", up[:, :, 0, 0], down) if down.ndim == 4 else up @ down
        expected[name] = before[name] + 0.5 * (ALPHA / RANK) * whole
    with ImageLoraInjection(loaded, [(lora, 0.5)]):
        during = everything(loaded)
        assert all(torch.allclose(during[name], value, atol=1e-6) for name, value in expected.items())
        assert any(not torch.equal(during[name], value) for name, value in before.items() if name.startswith("text_encoder")) != (
            layout is peft_alone
        )
    assert all(torch.equal(value, before[name]) for name, value in everything(loaded).items()), "bit-identical afterwards"


@torch.no_grad()
def test_a_convolution_of_one_cell_is_a_matrix(loaded, tmp_path):
    """SD1.5's proj_in is a convolution in diffusers; LoRAs hold it as either."""
    layer = "down_blocks.0.attentions.0.proj_in"
    down, up = pairs(loaded)[f"unet.{layer}"]
    assert down.ndim == 4
    flat = {f"unet.{layer}.lora_A.weight": down[:, :, 0, 0], f"unet.{layer}.lora_B.weight": up[:, :, 0, 0]}
    whole = {f"unet.{layer}.lora_A.weight": down, f"unet.{layer}.lora_B.weight": up}
    changed = []
    for number, state in enumerate((flat, whole)):
        lora = load_lora(written(tmp_path / f"{number}.safetensors", state), base=loaded)
        with ImageLoraInjection(loaded, [(lora, 1.0)]):
            changed.append(loaded.unet.get_submodule(layer).weight.clone())
    assert torch.equal(*changed) and not torch.equal(changed[0], loaded.unet.get_submodule(layer).weight)


@torch.no_grad()
def test_an_exported_concept_is_the_concept_again(loaded, tmp_path):
    concept = concept_of(loaded)
    with pytest.warns(UserWarning, match="no Stable Diffusion 1.x"):
        export = export_kohya(loaded, concept, tmp_path, "bear")
    with loaded.inject(concept):
        whole = noise_predicted(loaded, PROMPT)
    plain = noise_predicted(loaded, PROMPT)
    with ImageLoraInjection(loaded, [(load_lora(str(tmp_path / "bear-lora.safetensors"), base=loaded), 1.0)]):
        as_lora = noise_predicted(loaded, PROMPT)
    moved = float((whole - plain).norm())
    assert export.relative_error <= 1e-3 and float((as_lora - whole).norm()) < 2e-3 * moved and moved > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("rank", [None, 2])
def test_on_top_of_a_lora_a_concept_adds_what_it_changes(loaded, tmp_path, rank):
    lora = load_lora(written(tmp_path / "l.safetensors", kohya(loaded)), base=loaded)
    concept = concept_of(loaded, rank=rank)
    name = KEY.removeprefix("unet.")
    original = loaded.unet.get_submodule(name).weight.clone()
    with ImageLoraInjection(loaded, [(lora, 0.7)]) as inside:
        with loaded.inject(inside.beneath(concept), 0.5):
            both = loaded.unet.get_submodule(name).weight.clone()
        expected = original + 0.7 * lora.layers[KEY].change(original.device) + 0.5 * (concept.tuned[f"{name}.weight"] - original)
        assert torch.allclose(both, expected, atol=1e-6)
    assert torch.equal(loaded.unet.get_submodule(name).weight, original)


def test_adapters_in_diffusers_predict_the_same(loaded, tmp_path):
    pytest.importorskip("peft")
    parts = {"vae": loaded.vae, "text_encoder": loaded.text_encoder, "tokenizer": loaded.tokenizer, "unet": loaded.unet}
    spare = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = StableDiffusionPipeline(**parts, scheduler=tiny.scheduler(), **spare)
    pipeline.load_lora_weights(kohya(loaded), adapter_name="l")
    pipeline.set_adapters(["l"], [0.5])
    theirs = noise_predicted(loaded, PROMPT)
    pipeline.unload_lora_weights()
    with ImageLoraInjection(loaded, [(load_lora(written(tmp_path / "l.safetensors", kohya(loaded)), base=loaded), 0.5)]):
        assert (noise_predicted(loaded, PROMPT) - theirs).abs().max() < 1e-5


def test_folders_and_pickles(loaded, tmp_path):
    lora = load_lora(written(tmp_path / "pytorch_lora_weights.safetensors", peft(loaded)), base=loaded)
    assert load_lora(str(tmp_path), base=loaded).digest == lora.digest
    torch.save(peft(loaded), tmp_path / "l.bin")
    assert load_lora(str(tmp_path / "l.bin"), base=loaded).digest == lora.digest
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no LoRA"):
        load_lora(str(tmp_path / "empty"), base=loaded)


STEM = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def faulty(loaded: base.Base, fault: str) -> State:
    state = {name: value for name, value in kohya(loaded).items() if name.startswith("lora_unet_")}
    if fault == "loha":
        return {f"{STEM}.hada_w1_a": torch.zeros(4, 4)}
    if fault == "lokr":
        return {f"{STEM}.lokr_w1": torch.zeros(4, 4)}
    if fault == "dora":
        return {**state, f"{STEM}.dora_scale": torch.zeros(16, 1)}
    if fault == "tucker":
        return {**state, f"{STEM}.lora_mid.weight": torch.zeros(3, 3, 3, 3)}
    if fault == "stranger":
        return {**state, "lora_unet_nowhere.lora_down.weight": torch.zeros(2, 4), "lora_unet_nowhere.lora_up.weight": torch.zeros(4, 2)}
    if fault == "bias":
        return {**state, f"{STEM}.diff_b": torch.zeros(16)}
    if fault == "sdxl":
        return {**state, f"{STEM}.lora_down.weight": torch.zeros(RANK, 2048)}
    if fault == "second encoder":
        return {
            **state,
            "lora_te2_text_model_x.lora_down.weight": torch.zeros(2, 4),
            "lora_te2_text_model_x.lora_up.weight": torch.zeros(4, 2),
        }
    if fault == "half":
        return {name: value for name, value in state.items() if name != f"{STEM}.lora_up.weight"}
    if fault == "motion lora":
        return peft_lora(official_lora())
    if fault == "module":
        return original_layout.motion_checkpoint(tiny.motion_adapter().state_dict())
    return {"embedding.V*": torch.zeros(4)}


@pytest.mark.parametrize(
    ("fault", "said", "remedy"),
    [
        ("loha", rf"it is a LoHa: it holds {STEM}\.hada_w1_a", "--base"),
        ("lokr", "it is a LoKr", "--base"),
        ("dora", r"it is a DoRA: it holds .*dora_scale", "--base"),
        ("tucker", "Tucker", "--base"),
        ("stranger", "it changes lora_unet_nowhere, which the base has not", "trained on this base"),
        ("bias", r"it holds .*diff_b, which is neither half", "Stable Diffusion 1.5"),
        ("sdxl", rf"{re.escape(KEY)} is \(16, 2048\) in the LoRA, \(16, 32\) in the base; it is made for Stable Diffusion XL", "--base"),
        ("second encoder", "lora_te2_text_model_x, which the base has not; it is made for Stable Diffusion XL", "--base"),
        ("half", f"lacks the up matrix of {re.escape(KEY)}", "kohya"),
        ("motion lora", "it is an AnimateDiff MotionLoRA", "--camera"),
        ("module", "it is an AnimateDiff motion module", "--motion"),
        ("concept", "it is a cdvideo concept", "--concept"),
    ],
)
def test_what_cannot_be_used_is_called_by_its_name(loaded, tmp_path, fault, said, remedy):
    before = {name: value.clone() for name, value in everything(loaded).items()}
    with pytest.raises(UserError, match=said) as refused:
        load_lora(written(tmp_path / "l.safetensors", faulty(loaded, fault)), base=loaded)
    assert remedy in refused.value.remedy
    assert all(torch.equal(value, before[name]) for name, value in everything(loaded).items())


def test_strengths_and_names():
    assert parse_lora("style.safetensors:0.7") == ("style.safetensors", 0.7) and parse_lora("animatelcm") == ("animatelcm", 1.0)
    with pytest.raises(UserError, match="nan is no strength of a LoRA"):
        parse_lora("style.safetensors:nan")
    first, second = (ImageLora(source=name, layers={}, digest=name) for name in "ab")
    assert together([(first, 0.8)], [(second, 1.0), (first, 0.5)]) == [(first, 0.5), (second, 1.0)]


def test_an_unknown_alias(loaded):
    with pytest.raises(UserError, match="no LoRA called 'animatelcn'") as refused:
        load_lora("animatelcn", base=loaded)
    assert "did you mean 'animatelcm'" in refused.value.remedy
