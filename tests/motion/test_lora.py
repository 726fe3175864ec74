"""MotionLoRAs in three layouts, applied as diffusers and peft apply them, and taken out again without a trace."""

import json
import re
from pathlib import Path

import pytest
import torch
from diffusers import UNetMotionModel
from diffusers.utils import convert_unet_state_dict_to_peft
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from cdvideo.base.catalog import CAMERA_MOVES, CAMERAS
from cdvideo.errors import UserError
from cdvideo.motion import LoraInjection, MotionLora, MotionModule, attach, load_motion_lora, parse_camera, save_motion_lora
from tests import tiny
from tests.base import original_layout
from tests.motion.test_attach import clip

LAYER = "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q"
OFFICIAL = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor.to_q_lora"


def official_lora(seed: int = 0, rank: int = 4, **overrides) -> dict[str, torch.Tensor]:
    """Random changes to every attention matrix of the tiny motion module, under the names of AnimateDiff's own files."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in original_layout.motion_checkpoint(tiny.motion_adapter(**overrides).state_dict()).items():
        if match := re.fullmatch(r"(.+\.attention_blocks\.\d)\.(to_q|to_k|to_v|to_out)(?:\.0)?\.weight", name):
            outputs, inputs = value.shape
            stem = f"{match[1]}.processor.{match[2]}_lora"
            state[f"{stem}.down.weight"] = torch.randn(rank, inputs, generator=generator) / inputs**0.5
            state[f"{stem}.up.weight"] = 0.5 * torch.randn(outputs, rank, generator=generator)
    return state


def hub_lora(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same under the names of the repositories on the hub, as diffusers' own conversion script writes them."""
    pairs = (
        (".norms.0", ".norm1"),
        (".norms.1", ".norm2"),
        (".ff_norm", ".norm3"),
        (".attention_blocks.0", ".attn1"),
        (".attention_blocks.1", ".attn2"),
        (".temporal_transformer", ""),
    )
    result = {}
    for name, value in state.items():
        for theirs, ours in pairs:
            name = name.replace(theirs, ours)
        result[f"unet.{name}"] = value
    return result


def peft_lora(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same as peft names it: what diffusers' loader turns the hub's files into."""
    return convert_unet_state_dict_to_peft(hub_lora(state))


def module(**overrides) -> MotionModule:
    return MotionModule.from_adapter(tiny.motion_adapter(**overrides), source="tiny")


def load(source: Path | str, *, motion: MotionModule | None = None, kind: str = "sd15", **options: bool) -> MotionLora:
    return load_motion_lora(str(source), motion=motion or module(), kind=kind, **options)


def moving_unet():
    return attach(tiny.unet(), module(), motion_norm="diffusers")


def write(path: Path, state: dict[str, torch.Tensor], **metadata: str) -> Path:
    save_file({name: value.contiguous() for name, value in state.items()}, path, metadata=metadata or None)
    return path


@torch.no_grad()
@pytest.mark.parametrize("layout", [official_lora, hub_lora, peft_lora])
def test_the_product_is_added_to_the_weight_that_diffusers_names(tmp_path, layout):
    """diffusers' own conversion of the names, and the sum of Hu et al. by hand, on diffusers' own motion UNet."""
    original = official_lora()
    lora = load(write(tmp_path / "lora.safetensors", original if layout is official_lora else layout(original)))
    theirs = UNetMotionModel.from_unet2d(tiny.unet(), tiny.motion_adapter()).eval()
    peft = {name.removeprefix("unet."): value for name, value in peft_lora(original).items()}
    layers = [name.removesuffix(".lora_A.weight") for name in peft if name.endswith(".lora_A.weight")]
    assert len(layers) == len(lora.layers) == 7 * 2 * 4
    for layer in layers:
        theirs.get_submodule(layer).weight += 0.5 * peft[f"{layer}.lora_B.weight"] @ peft[f"{layer}.lora_A.weight"]
    ours = moving_unet()
    plain = ours(**clip()).sample
    with LoraInjection(ours, [(lora, 0.5)]):
        assert (ours(**clip()).sample - theirs(**clip()).sample).abs().max() < 1e-5
    assert (plain - theirs(**clip()).sample).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("layout", [hub_lora, peft_lora])
@pytest.mark.parametrize("strengths", [(1.0,), (0.5,), (0.7, -0.4)])
def test_diffusers_adapters_predict_the_same(tmp_path, layout, strengths):
    """`load_lora_weights`' own way into a motion UNet, which needs peft."""
    pytest.importorskip("peft")
    from diffusers.loaders import StableDiffusionLoraLoaderMixin

    theirs = UNetMotionModel.from_unet2d(tiny.unet(), tiny.motion_adapter()).eval()
    loras, names = [], []
    for seed, strength in enumerate(strengths):
        state = official_lora(seed, rank=4 + seed)
        state, alphas, metadata = StableDiffusionLoraLoaderMixin.lora_state_dict(layout(state), return_lora_metadata=True)
        names.append(f"lora{seed}")
        StableDiffusionLoraLoaderMixin.load_lora_into_unet(state, alphas, theirs, adapter_name=names[-1], metadata=metadata)
        loras.append((load(write(tmp_path / f"{seed}.safetensors", official_lora(seed, rank=4 + seed))), strength))
    theirs.set_adapters(names, list(strengths))
    ours = moving_unet()
    with LoraInjection(ours, loras):
        assert (ours(**clip()).sample - theirs(**clip()).sample).abs().max() < 1e-5


@torch.no_grad()
def test_what_diffusers_saves_is_read_with_its_alpha(tmp_path):
    """A LoRA made by peft with lora_alpha 8 at rank 4, saved by diffusers' `save_lora_adapter` with its settings in the header."""
    peft = pytest.importorskip("peft")
    theirs = UNetMotionModel.from_unet2d(tiny.unet(), tiny.motion_adapter()).eval()
    targets = [name for name, _ in theirs.named_modules() if re.fullmatch(r".+motion_modules.+attn\d\.(to_[qkv]|to_out\.0)", name)]
    pattern = {targets[0]: 2}
    theirs.add_adapter(peft.LoraConfig(r=4, lora_alpha=8, alpha_pattern=pattern, target_modules=targets, init_lora_weights=False))
    theirs.save_lora_adapter(tmp_path)
    assert "lora_adapter_metadata" in (tmp_path / "pytorch_lora_weights.safetensors").read_bytes()[:20000].decode("latin1")
    lora, ours = load(tmp_path), moving_unet()
    assert lora.layers[targets[0]].scale == 0.5 and lora.layers[targets[1]].scale == 2
    with LoraInjection(ours, [(lora, 1.0)]):
        assert (ours(**clip()).sample - theirs(**clip()).sample).abs().max() < 1e-5


@torch.no_grad()
def test_before_attaching_and_afterwards_are_the_same():
    lora = MotionLora.from_state(official_lora(), source="x")
    made = module()
    with LoraInjection(made, [(lora, 0.8)]):
        before = attach(tiny.unet(), made)(**clip()).sample
    after = attach(tiny.unet(), made)
    with LoraInjection(after, [(lora, 0.8)]):
        assert torch.equal(after(**clip()).sample, before)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ejecting_restores_every_bit(dtype):
    unet = tiny.unet().to(dtype)
    model = attach(unet, module())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loras = [(MotionLora.from_state(official_lora(seed), source="x"), 0.3 + seed) for seed in (0, 1)]
    outer = LoraInjection(model, loras[:1])
    with LoraInjection(model, loras):
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert changed == {f"{layer}.weight" for layer in loras[0][0].layers}
    outer.eject()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with LoraInjection(model, []):
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_wrapped_pickles_alphas_and_prefixes(tmp_path):
    state = {f"module.{name}": value for name, value in official_lora().items()}
    state[f"module.{OFFICIAL}.alpha"] = torch.tensor(2.0)
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "lora.ckpt")
    lora = load(tmp_path / "lora.ckpt")
    assert lora.layers[LAYER].scale == 0.5
    assert {low_rank.scale for layer, low_rank in lora.layers.items() if layer != LAYER} == {1.0}


def test_the_names_that_motion_director_gives(tmp_path):
    """Community files name the projection behind `processor`, and change the feed-forward too."""
    block = "mid_block.motion_modules.0.temporal_transformer.transformer_blocks.0"
    names = {"attention_blocks.1.to_out.processor.0": (32, 32), "ff.net.0.processor.proj": (256, 32)}
    state = {f"{block}.{name}_lora.up.weight": torch.ones(shape[0], 2) for name, shape in names.items()}
    state |= {f"{block}.{name}_lora.down.weight": torch.ones(2, shape[1]) for name, shape in names.items()}
    place = "mid_block.motion_modules.0.transformer_blocks.0"
    assert load(write(tmp_path / "lora.safetensors", state)).layers.keys() == {f"{place}.attn2.to_out.0", f"{place}.ff.net.0.proj"}


def test_a_folder_as_on_the_hub(tmp_path):
    write(tmp_path / "diffusion_pytorch_model.safetensors", hub_lora(official_lora()))
    assert load(tmp_path).layers.keys() == MotionLora.from_state(official_lora(), source="x").layers.keys()


def test_saving_writes_the_official_layout_in_half(tmp_path):
    state = official_lora()
    save_motion_lora(tmp_path / "deep" / "a.safetensors", peft_lora(state))
    saved = load_file(tmp_path / "deep" / "a.safetensors")
    assert saved.keys() == state.keys() and {value.dtype for value in saved.values()} == {torch.float16}
    assert all(torch.equal(saved[name], value.half()) for name, value in state.items())
    save_motion_lora(tmp_path / "b.safetensors", {**state, f"{OFFICIAL}.alpha": torch.tensor(2.0)})
    halved = load_file(tmp_path / "b.safetensors")
    assert torch.equal(halved[f"{OFFICIAL}.up.weight"], (state[f"{OFFICIAL}.up.weight"] / 2).half())
    assert torch.equal(halved[f"{OFFICIAL}.down.weight"], saved[f"{OFFICIAL}.down.weight"])


def faulty(fault: str) -> dict[str, torch.Tensor]:
    state = official_lora()
    down, up = f"{OFFICIAL}.down.weight", f"{OFFICIAL}.up.weight"
    if fault == "half":
        del state[up]
    elif fault == "ranks":
        state[up] = torch.zeros(16, 3)
    elif fault == "alpha":
        state[f"{OFFICIAL}.alpha"] = torch.zeros(2)
    elif fault == "endless alpha":
        state[f"{OFFICIAL}.alpha"] = torch.tensor(float("inf"))
    elif fault == "twice":
        state |= {f"unet.{LAYER}.lora_A.weight": state[down].clone()}
    elif fault == "dora":
        state |= {f"unet.{LAYER}.lora_magnitude_vector": torch.zeros(16)}
    elif fault == "stranger":
        state |= {f"unet.conv_in.lora.{name}.weight": torch.zeros(4, 4) for name in ("up", "down")}
    elif fault == "outputs":
        state[up] = torch.zeros(20, 4)
    elif fault == "nan":
        state[down] = state[down].clone()
        state[down][0, 0] = float("nan")
    return state


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("half", f"lacks the up matrix of {LAYER}"),
        ("ranks", r"do not go together: up \(16, 3\), down \(4, 16\)"),
        ("alpha", f"alpha of {LAYER} is no number"),
        ("endless alpha", f"alpha of {LAYER} is no number"),
        ("twice", "twice, in different layouts"),
        ("nan", f"the matrices of {LAYER} hold values that are not numbers"),
        ("dora", "lora_magnitude_vector, which is neither"),
        ("stranger", "changes conv_in, which the module has not"),
        ("outputs", rf"{LAYER} is \(20, 16\) in the MotionLoRA, \(16, 16\) in the module"),
    ],
)
def test_files_that_cannot_be_used_say_why(tmp_path, fault, said):
    with pytest.raises(UserError, match=said) as refused:
        load(write(tmp_path / "lora.safetensors", faulty(fault)))
    assert refused.value.remedy


def test_a_file_of_eight_bits_is_read(tmp_path):
    small = {name: value.to(torch.float8_e4m3fn) for name, value in official_lora().items()}
    assert (
        load(write(tmp_path / "lora.safetensors", small)).layers.keys() == MotionLora.from_state(official_lora(), source="x").layers.keys()
    )


def test_modules_that_it_was_not_made_for(tmp_path):
    path = write(tmp_path / "lora.safetensors", official_lora())
    with pytest.raises(UserError, match=r"made for a module of width 16, this one has 24"):
        load(path, motion=module(block_out_channels=(24, 32)))
    with pytest.raises(UserError, match=r"made for a module with a middle block \(AnimateDiff v2\), and this one has none"):
        load(path, motion=module(use_motion_mid_block=False))
    model = attach(tiny.unet(block_out_channels=(24, 32)), module(block_out_channels=(24, 32)))
    with pytest.raises(UserError, match="width 16"):
        LoraInjection(model, [(MotionLora.from_state(official_lora(), source="x"), 1.0)])


@pytest.mark.parametrize(
    ("state", "said", "remedy"),
    [
        (original_layout.motion_checkpoint(tiny.motion_adapter().state_dict()), "it is an AnimateDiff motion module", "--motion"),
        ({"unet.down_blocks.0.attentions.0.attn1.to_q.lora_A.weight": torch.zeros(4, 4)}, "it is a LoRA", "MotionLoRA"),
        ({"first_stage_model.x": torch.zeros(2)}, "it is an autoencoder", "MotionLoRA"),
    ],
    ids=["module", "lora", "vae"],
)
def test_other_files_are_called_by_their_name(tmp_path, state, said, remedy):
    with pytest.raises(UserError, match=said) as refused:
        load(write(tmp_path / "other.safetensors", state))
    assert remedy in refused.value.remedy


def test_a_damaged_header(tmp_path):
    path = write(tmp_path / "a.safetensors", peft_lora(official_lora()), lora_adapter_metadata="{")
    with pytest.raises(UserError, match="damaged header"):
        load(path)
    path = write(tmp_path / "b.safetensors", peft_lora(official_lora()), lora_adapter_metadata=json.dumps({"unet.lora_alpha": "many"}))
    with pytest.raises(UserError, match="is no number"):
        load(path)


def test_names_and_places(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        UserError, match=r"hf download guoyww/animatediff-motion-lora-rolling-clockwise diffusion_pytorch_model.safetensors"
    ):
        load("roll-clockwise", offline=True)
    with pytest.raises(UserError, match="no camera move called 'zoom-inn'") as refused:
        load("zoom-inn", kind="pocket")
    assert "did you mean 'zoom-in'" in refused.value.remedy and all(move in refused.value.remedy for move in CAMERA_MOVES)
    with pytest.raises(UserError, match=r"no camera move at none\.safetensors"):
        load("none.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no MotionLoRA"):
        load(tmp_path / "empty")


def test_every_kind_of_base_knows_the_moves_that_pocket_is_trained_on():
    from cdvideo.pocket.world.moves import CAMERAS as TRAINED

    assert tuple(TRAINED) == CAMERA_MOVES and all(tuple(moves) == CAMERA_MOVES for moves in CAMERAS.values())


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("zoom-in", ("zoom-in", 1.0)),
        ("pan-left:0.6", ("pan-left", 0.6)),
        ("tilt-up:-1", ("tilt-up", -1.0)),
        ("loras/mine.ckpt:2", ("loras/mine.ckpt", 2.0)),
        (r"C:\loras\mine.ckpt", (r"C:\loras\mine.ckpt", 1.0)),
    ],
)
def test_strengths_stand_behind_a_colon(text, parsed):
    assert parse_camera(text) == parsed


@pytest.mark.parametrize("strength", ["nan", "inf", "abc", ""])
def test_strengths_have_to_be_finite_numbers(strength):
    with pytest.raises(UserError, match=f"{strength or 'nothing'} is no strength of a camera move"):
        parse_camera(f"zoom-in:{strength}")
