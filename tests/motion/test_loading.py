"""Motion modules out of folders and AnimateDiff's own files; versions told apart, other files refused."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from cdvideo.errors import UserError
from cdvideo.motion import MotionModule, load_motion
from cdvideo.motion.module import position_table
from tests import tiny
from tests.base import original_layout
from tests.motion.original_animatediff import positions

CPU = torch.device("cpu")


def load(source: Path | str, base_unet=None, dtype: torch.dtype = torch.float32, **options: bool) -> MotionModule:
    return load_motion(str(source), base_unet=base_unet or tiny.unet(), dtype=dtype, device=CPU, **options)


def original_file(path: Path, state: dict[str, torch.Tensor], changed: dict[str, torch.Tensor] | None = None) -> Path:
    save_file({**original_layout.motion_checkpoint(state), **(changed or {})}, path)
    return path


def assert_same(module: MotionModule, state: dict[str, torch.Tensor]) -> None:
    assert module.state.keys() == state.keys()
    assert all(torch.equal(module.state[name], state[name]) for name in state)


def test_a_diffusers_folder(tmp_path):
    adapter = tiny.motion_adapter()
    adapter.save_pretrained(tmp_path / "m")
    module = load(tmp_path / "m")
    assert_same(module, adapter.state_dict())
    assert (module.version, module.max_frames, module.num_heads, module.num_norm_groups) == ("v2", 16, 4, 8)
    assert module.widths == (16, 32) and module.num_transformer_layers == 1 and module.canonical_id == str(tmp_path / "m")
    assert module.fingerprint == MotionModule.from_adapter(adapter, source="x").fingerprint
    assert load(tmp_path / "m" / "diffusion_pytorch_model.safetensors").num_heads == 4


@pytest.mark.parametrize(("mid_block", "table", "version"), [(True, 32, "v2"), (False, 32, "v3"), (False, 24, "v1")])
@pytest.mark.parametrize("wrapped", [False, True])
def test_original_files_are_told_apart_by_their_tensors(tmp_path, mid_block, table, version, wrapped):
    state = tiny.motion_adapter(use_motion_mid_block=mid_block, motion_max_seq_length=table).state_dict()
    path = original_file(tmp_path / "mm.safetensors", state)
    if wrapped:
        inner = {f"module.{name}": value for name, value in load_file(path).items()}
        path = tmp_path / "mm.ckpt"
        torch.save({"epoch": 1, "state_dict": inner, "animatediff_config": {"motion_module_type": "Vanilla"}}, path)
    module = load(path)
    assert_same(module, state)
    assert (module.version, module.max_frames, module.num_heads, module.num_norm_groups) == (version, table, 8, 32)


def test_precision_changes_the_weights_and_not_the_fingerprint(tmp_path):
    path = original_file(tmp_path / "mm.safetensors", tiny.motion_adapter().state_dict())
    full, half = load(path), load(path, dtype=torch.float16)
    assert {value.dtype for value in half.state.values()} == {torch.float16}
    assert full.fingerprint == half.fingerprint
    other = load(original_file(tmp_path / "other.safetensors", tiny.motion_adapter(seed=1).state_dict()))
    assert other.fingerprint != full.fingerprint


def test_the_position_table_is_the_papers():
    assert torch.allclose(position_table(48, 32)[0], positions(32, 48), atol=1e-6)


MODULE = "down_blocks.0.motion_modules.0"
OTHERS = {
    "a AnimateDiff MotionLoRA": {
        f"{MODULE}.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor.to_q_lora.down.weight": (4, 4)
    },
    "a motion UNet": {f"{MODULE}.temporal_transformer.norm.weight": (16,), "down_blocks.0.resnets.0.conv1.weight": (4, 4)},
    "a UNet in diffusers' layout": {"time_embedding.linear_1.weight": (2, 2)},
    "Stable Diffusion 1.x": {
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    },
    "a ControlNet": {"controlnet_cond_embedding.conv_in.weight": (2, 2)},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_files_are_called_by_their_name(tmp_path, kind):
    save_file({name: torch.zeros(shape) for name, shape in OTHERS[kind].items()}, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match=kind.replace("a Anim", "an Anim")) as refused:
        load(tmp_path / "m.safetensors")
    assert refused.value.remedy


def test_a_module_for_another_base(tmp_path):
    path = original_file(tmp_path / "mm.safetensors", tiny.motion_adapter(block_out_channels=(24, 32)).state_dict())
    with pytest.raises(UserError, match=r"down_blocks.0.motion_modules.0.norm.weight is \(24,\) in the module, the base needs \(16,\)"):
        load(path)
    with pytest.raises(UserError, match=r"lacks down_blocks.2"):
        path = original_file(tmp_path / "m.safetensors", tiny.motion_adapter().state_dict())
        load(path, tiny.unet(block_out_channels=(16, 32, 32), down_block_types=("DownBlock2D",) * 3, up_block_types=("UpBlock2D",) * 3))


def test_two_position_tables_that_differ(tmp_path):
    name = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.1.pos_encoder.pe"
    path = original_file(tmp_path / "mm.safetensors", tiny.motion_adapter().state_dict(), {name: torch.zeros(1, 16, 16)})
    with pytest.raises(UserError, match="twice, with different values"):
        load(path)


def test_folders_that_are_no_module(tmp_path):
    tiny.pipeline_folder(tmp_path / "base")
    with pytest.raises(UserError, match="it is a base model"):
        load(tmp_path / "base")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"lacks config.json"):
        load(tmp_path / "empty")


def test_an_image_to_video_module(tmp_path):
    tiny.motion_adapter().save_pretrained(tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "conv_in_channels": 9}))
    with pytest.raises(UserError, match="PIA"):
        load(tmp_path / "m")


def test_unreachable_and_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for options in ({"offline": True}, {}):
        with pytest.raises(UserError, match=r"hf download guoyww/animatediff-motion-adapter-v1-5-2 config.json"):
            load("v2", **options)
    with pytest.raises(UserError, match="did you mean 'pocket'"):
        load("pockett")
