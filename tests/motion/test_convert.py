"""Motion modules and MotionLoRAs from one layout into the other and back, bit for bit; diffusers itself reads what is written."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import MotionAdapter
from safetensors.torch import load_file, save_file

from cdvideo.errors import UserError
from cdvideo.motion import convert, load_motion
from tests import tiny
from tests.base import original_layout
from tests.command_line import call
from tests.motion.test_lora import OFFICIAL, hub_lora, official_lora, peft_lora

State = dict[str, torch.Tensor]
VERSIONS = {"v1": (False, 24), "v2": (True, 32), "v3": (False, 32)}


def adapter(version: str = "v2", **overrides) -> MotionAdapter:
    mid_block, table = VERSIONS[version]
    return tiny.motion_adapter(use_motion_mid_block=mid_block, motion_max_seq_length=table, **overrides)


def with_original_heads() -> dict[str, object]:
    """AnimateDiff's files do not say how many heads and groups there are: 8 and 32, so the widths have to be multiples of 32."""
    return {"block_out_channels": (32, 64), "motion_num_attention_heads": 8, "motion_norm_num_groups": 32}


def same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(
        value.dtype == second[name].dtype and torch.equal(value, second[name]) for name, value in first.items()
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_original_module_becomes_diffusers_and_comes_back(tmp_path, version, dtype):
    theirs = adapter(version, **with_original_heads()).to(dtype)
    original = original_layout.motion_checkpoint(theirs.state_dict())
    wrapped = {"state_dict": {f"module.{name}": value for name, value in original.items()}, "epoch": 1}
    torch.save(wrapped, tmp_path / "mm.ckpt")
    done = convert(str(tmp_path / "mm.ckpt"), tmp_path / "folder")
    assert (done.kind, done.layout, done.to) == (f"AnimateDiff {version} motion module", "original", "diffusers")
    read, problems = MotionAdapter.from_pretrained(tmp_path / "folder", output_loading_info=True, torch_dtype=dtype)
    assert not any(problems.values()) and same(read.state_dict(), theirs.state_dict())
    assert read.config["motion_max_seq_length"] == VERSIONS[version][1] and read.config["motion_num_attention_heads"] == 8
    back = convert(str(tmp_path / "folder"), tmp_path / "back.safetensors")
    assert (back.layout, back.to) == ("diffusers", "original") and same(load_file(tmp_path / "back.safetensors"), original)
    convert(str(tmp_path / "folder"), tmp_path / "back.ckpt")
    assert same(torch.load(tmp_path / "back.ckpt", weights_only=True)["state_dict"], original)


def test_a_module_with_settings_of_its_own_keeps_them(tmp_path):
    theirs = adapter()
    theirs.save_pretrained(tmp_path / "m")
    convert(str(tmp_path / "m"), tmp_path / "mm.safetensors")
    module = load_motion(str(tmp_path / "mm.safetensors"), base_unet=tiny.unet(), dtype=torch.float32, device=torch.device("cpu"))
    assert (module.num_heads, module.num_norm_groups) == (4, 8)
    convert(str(tmp_path / "mm.safetensors"), tmp_path / "again")
    read = json.loads((tmp_path / "again" / "config.json").read_text())
    assert read == {**json.loads((tmp_path / "m" / "config.json").read_text()), "_diffusers_version": read["_diffusers_version"]}
    assert same(load_file(tmp_path / "again" / "diffusion_pytorch_model.safetensors"), theirs.state_dict())
    with pytest.raises(UserError, match=r"it has 4 heads and 8 groups"):
        convert(str(tmp_path / "m"), tmp_path / "mm.ckpt")


def test_position_tables_that_the_hub_leaves_out_are_written(tmp_path):
    theirs = adapter(**with_original_heads())
    theirs.save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "diffusion_pytorch_model.safetensors"
    save_file({name: value for name, value in theirs.state_dict().items() if not name.endswith(".pe")}, file)
    convert(str(tmp_path / "m"), tmp_path / "mm.safetensors")
    fresh = MotionAdapter(**{name: value for name, value in theirs.config.items() if not name.startswith("_")}).state_dict()
    tables = {name: value for name, value in original_layout.motion_checkpoint(fresh).items() if name.endswith(".pe")}
    written = load_file(tmp_path / "mm.safetensors")
    assert tables and all(torch.allclose(written[name], value, atol=1e-6) for name, value in tables.items())
    (tmp_path / "m" / "config.json").unlink()
    with pytest.raises(UserError, match="how many frames"):
        convert(str(file), tmp_path / "other.safetensors")


def test_half_precision_on_demand(tmp_path):
    state = original_layout.motion_checkpoint(adapter(**with_original_heads()).state_dict())
    save_file(state, tmp_path / "mm.safetensors")
    convert(str(tmp_path / "mm.safetensors"), tmp_path / "half", dtype="fp16")
    written = load_file(tmp_path / "half" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in written.values()} == {torch.float16}
    name = "down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"
    save_file({**state, name: torch.full_like(state[name], 1e5)}, tmp_path / "large.safetensors")
    with pytest.raises(UserError, match="holds larger numbers"):
        convert(str(tmp_path / "large.safetensors"), tmp_path / "large", dtype="fp16")
    assert not (tmp_path / "large").exists()


@pytest.mark.parametrize("layout", [hub_lora, peft_lora])
def test_motion_loras_there_and_back(tmp_path, layout):
    original = {name: value.half() for name, value in official_lora().items()}
    save_file(original, tmp_path / "a.safetensors")
    done = convert(str(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    assert (done.kind, done.layout, done.rounded) == ("AnimateDiff MotionLoRA", "original", False) and "rank 4" in done.details
    assert same(load_file(tmp_path / "b.safetensors"), peft_lora(original))
    (tmp_path / "hub").mkdir()
    save_file(layout(original), tmp_path / "hub" / "diffusion_pytorch_model.safetensors")
    convert(str(tmp_path / "hub"), tmp_path / "c.safetensors")
    assert same(load_file(tmp_path / "c.safetensors"), original)
    convert(str(tmp_path / "a.safetensors"), tmp_path / "folder")
    assert same(load_file(tmp_path / "folder" / "pytorch_lora_weights.safetensors"), peft_lora(original))


def test_alphas_are_multiplied_in_and_said(tmp_path):
    state = official_lora()
    save_file({**state, f"{OFFICIAL}.alpha": torch.tensor(2.0)}, tmp_path / "a.safetensors")
    result = call("models", "convert", str(tmp_path / "a.safetensors"), "--to", "original", "--out", str(tmp_path / "b.safetensors"))
    assert result.exit_code == 0 and "multiplied into its matrices" in result.output
    written = load_file(tmp_path / "b.safetensors")
    assert torch.equal(written[f"{OFFICIAL}.up.weight"], state[f"{OFFICIAL}.up.weight"] / 2)
    assert torch.equal(written[f"{OFFICIAL}.down.weight"], state[f"{OFFICIAL}.down.weight"])


def test_the_command_says_what_it_found_and_replaces_nothing_unasked(tmp_path):
    source, out = tmp_path / "mm.safetensors", tmp_path / "v2"
    save_file(original_layout.motion_checkpoint(adapter(**with_original_heads()).state_dict()), source)
    arguments = ("models", "convert", str(source), "--out", str(out))
    first = call(*arguments)
    assert first.exit_code == 0 and "AnimateDiff v2 motion module, 32 frames, fp32, in AnimateDiff's own layout" in first.output
    assert f"wrote {out / 'config.json'}" in first.output
    second = call(*arguments)
    assert second.exit_code == 2 and "exists already" in second.output
    assert call(*arguments, "--force").exit_code == 0
    assert {path.name for path in out.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}


BLOCK = "down_blocks.0.motion_modules.0"


def faulty(fault: str, folder: Path) -> Path:
    state = original_layout.motion_checkpoint(adapter(**with_original_heads()).state_dict())
    path = folder / "x.safetensors"
    if fault == "vae":
        state = {"first_stage_model.x": torch.zeros(2)}
    elif fault == "unet":
        state["down_blocks.0.resnets.0.conv1.weight"] = torch.zeros(4, 4)
    elif fault == "stranger":
        state[f"{BLOCK}.temporal_transformer.extra.weight"] = torch.zeros(4)
    elif fault == "missing":
        del state[f"{BLOCK}.temporal_transformer.proj_in.weight"]
    elif fault == "first":
        del state[f"{BLOCK}.temporal_transformer.norm.weight"]
    elif fault == "shape":
        state[f"{BLOCK}.temporal_transformer.proj_in.weight"] = torch.zeros(4, 4)
    elif fault == "pickle":
        path = folder / "x.ckpt"
        torch.save({"state_dict": state, "config": Path("x")}, path)
        return path
    elif fault == "nothing":
        return folder / "none.ckpt"
    save_file(state, path)
    return path


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("vae", "neither a motion module nor a MotionLoRA"),
        ("unet", "a motion UNet"),
        ("stranger", f"{BLOCK}.extra.weight left over"),
        ("missing", f"lacks {BLOCK}.proj_in.weight"),
        ("first", "lacks"),
        ("shape", "in the file"),
        ("pickle", "holds more than weights"),
        ("nothing", "there is no motion module at"),
    ],
)
def test_what_cannot_be_converted_is_refused(tmp_path, fault, said):
    result = call("models", "convert", str(faulty(fault, tmp_path)), "--out", str(tmp_path / "out"))
    assert result.exit_code == 2 and said in " ".join(result.output.split()) and "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("out", "to", "said"),
    [
        ("out.safetensors", "diffusers", "keeps a motion module in a folder"),
        ("out", "original", "ends in none of .safetensors, .ckpt"),
    ],
)
def test_outputs_of_the_wrong_kind(tmp_path, out, to, said):
    source = tmp_path / "mm.safetensors"
    save_file(original_layout.motion_checkpoint(adapter(**with_original_heads()).state_dict()), source)
    with pytest.raises(UserError, match=said) as refused:
        convert(str(source), tmp_path / out, to=to)
    assert refused.value.remedy


def test_layers_that_animatediff_has_no_name_for(tmp_path):
    layer = f"unet.{BLOCK}.transformer_blocks.0.ff.net.2"
    state = {**peft_lora(official_lora()), f"{layer}.lora_A.weight": torch.ones(2, 64), f"{layer}.lora_B.weight": torch.ones(16, 2)}
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="is no attention matrix of a motion module"):
        convert(str(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    convert(str(tmp_path / "a.safetensors"), tmp_path / "c.safetensors", to="diffusers", dtype="fp16")
    assert load_file(tmp_path / "c.safetensors").keys() == state.keys()
