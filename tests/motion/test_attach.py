"""The motion UNet against diffusers' own assembly and against the original's mathematics; the base untouched."""

from pathlib import Path

import pytest
import torch
from diffusers import UNetMotionModel
from safetensors.torch import save_file

from cdvideo.errors import UserError
from cdvideo.motion import MotionModule, attach, load_motion, set_motion_norm
from tests import tiny
from tests.base import original_layout
from tests.motion.original_animatediff import motion_transformer, v1_residual_block

CPU = torch.device("cpu")


def clip(num_clips: int = 2, num_frames: int = 5, size: int = 8) -> dict[str, torch.Tensor]:
    """The inputs of a motion UNet."""
    generator = torch.Generator().manual_seed(11)
    return {
        "sample": torch.randn(num_clips, 4, num_frames, size, size, generator=generator),
        "timestep": torch.tensor(321),
        "encoder_hidden_states": torch.randn(num_clips * num_frames, tiny.NUM_TOKENS, tiny.TEXT_WIDTH, generator=generator),
    }


def module(**overrides) -> MotionModule:
    return MotionModule.from_adapter(tiny.motion_adapter(**overrides), source="tiny")


@torch.no_grad()
def test_diffusers_norm_is_diffusers_own_motion_unet():
    unet, adapter = tiny.unet(), tiny.motion_adapter()
    ours = attach(unet, MotionModule.from_adapter(adapter, source="tiny"), motion_norm="diffusers")
    theirs = UNetMotionModel.from_unet2d(unet, adapter).eval()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())
    assert torch.equal(ours(**clip()).sample, theirs(**clip()).sample)


@torch.no_grad()
@pytest.mark.parametrize("mid_block", [True, False])
def test_frame_norm_is_the_original_motion_transformer(tmp_path, mid_block):
    """Every motion transformer of a UNet loaded from an original-layout file, against the mathematics written out."""
    widths = (32, 64)
    adapter = tiny.motion_adapter(
        block_out_channels=widths,
        motion_num_attention_heads=8,
        motion_norm_num_groups=32,
        motion_max_seq_length=32,
        use_motion_mid_block=mid_block,
    )
    weights = original_layout.motion_checkpoint(adapter.state_dict())
    save_file(weights, tmp_path / "mm.safetensors")
    unet = tiny.unet(block_out_channels=widths)
    model = attach(unet, load_motion(str(tmp_path / "mm.safetensors"), base_unet=unet, dtype=torch.float32, device=CPU))
    places = [name.removesuffix(".proj_in") for name, _ in model.named_modules() if name.endswith("motion_modules.0.proj_in")]
    assert len(places) == 5 if mid_block else 4
    generator = torch.Generator().manual_seed(0)
    for place in places:
        transformer = model.get_submodule(place)
        hidden = torch.randn(2, transformer.in_channels, 6, 4, 3, generator=generator)
        hidden = hidden + torch.arange(6).view(1, 1, 6, 1, 1)  # frames that differ in level: joint and per-frame norms must too
        theirs = motion_transformer(hidden, weights, place, num_heads=8, num_groups=32)
        ours = transformer(hidden.transpose(1, 2).flatten(0, 1), num_frames=6).unflatten(0, (2, 6)).transpose(1, 2)
        assert (ours - theirs).abs().max() < 2e-5
        set_motion_norm(model, "diffusers")
        joint = transformer(hidden.transpose(1, 2).flatten(0, 1), num_frames=6).unflatten(0, (2, 6)).transpose(1, 2)
        set_motion_norm(model, "frame")
        assert (joint - theirs).abs().max() > 1e-2


@torch.no_grad()
def test_the_whole_unet_is_the_2d_unet_with_the_original_transformers_in_between():
    """Set each motion transformer's forward to the reference: the UNet around it must give the same noise."""
    adapter = tiny.motion_adapter()
    weights = original_layout.motion_checkpoint(adapter.state_dict())
    model = attach(tiny.unet(), MotionModule.from_adapter(adapter, source="tiny"))
    ours = model(**clip()).sample

    def reference(place):
        def forward(hidden_states, encoder_hidden_states=None, timestep=None, class_labels=None, num_frames=1, cross_attention_kwargs=None):
            hidden = hidden_states.unflatten(0, (-1, num_frames)).transpose(1, 2)
            return motion_transformer(hidden, weights, place, num_heads=4, num_groups=8).transpose(1, 2).flatten(0, 1)

        return forward

    for name, transformer in model.named_modules():
        if type(transformer).__name__ == "AnimateDiffTransformer3D":
            transformer.forward = reference(name)
    theirs = model(**clip()).sample
    assert (ours - theirs).abs().max() < 1e-5 * max(1.0, float(theirs.abs().max()))


@torch.no_grad()
def test_one_frame_is_the_same_in_both_norms():
    inputs = clip(num_frames=1)
    per_frame, joint = attach(tiny.unet(), module()), attach(tiny.unet(), module(), motion_norm="diffusers")
    assert torch.allclose(per_frame(**inputs).sample, joint(**inputs).sample, atol=1e-6)


def v1_module() -> MotionModule:
    result = module(use_motion_mid_block=False)
    assert result.version == "v1"
    return result


@torch.no_grad()
def test_v1_normalises_residual_blocks_over_frames():
    unet = tiny.unet()
    model = attach(unet, v1_module())
    seen = []
    hooks = [
        block.register_forward_hook(lambda block, args, kwargs, output: seen.append((block, args, kwargs, output)), with_kwargs=True)
        for block in model.modules()
        if type(block).__name__ == "ResnetBlock2D"
    ]
    model(**clip(num_clips=2, num_frames=5))
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(hooks) == 8
    for block, args, kwargs, output in seen:
        hidden, time = [*args, *kwargs.values()][:2]
        reference = v1_residual_block(hidden.unflatten(0, (2, 5)).transpose(1, 2), time[::5], block.state_dict(), num_groups=8)
        assert (output.unflatten(0, (2, 5)).transpose(1, 2) - reference).abs().max() < 2e-5
    joint = model(**clip()).sample
    set_motion_norm(model, "frame", version="v3")
    assert (model(**clip()).sample - joint).abs().max() > 1e-3
    assert not model._forward_pre_hooks


@torch.no_grad()
def test_norms_can_be_set_and_undone():
    for made, version in ((module(), "v2"), (v1_module(), "v1")):
        model = attach(tiny.unet(), made)
        names, first = list(model.state_dict()), model(**clip()).sample
        set_motion_norm(model, "diffusers", version=version)
        plain = attach(tiny.unet(), made, motion_norm="diffusers")
        assert torch.equal(model(**clip()).sample, plain(**clip()).sample)
        set_motion_norm(model, "frame", version=version)
        assert torch.equal(model(**clip()).sample, first) and list(model.state_dict()) == names
    with pytest.raises(UserError, match="motion norm"):
        attach(tiny.unet(), module(), motion_norm="joint")


@torch.no_grad()
def test_the_base_stays_bit_identical_and_its_memory_is_shared():
    unet = tiny.unet()
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    parameters = {name: id(parameter) for name, parameter in unet.named_parameters()}
    model = attach(unet, module())
    model(**clip())
    shared = model.state_dict()
    assert all(shared[name].data_ptr() == value.data_ptr() for name, value in unet.state_dict().items())
    model.to(torch.float64)
    del model, shared
    assert {name: id(parameter) for name, parameter in unet.named_parameters()} == parameters
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())


@torch.no_grad()
def test_a_concept_written_into_the_base_reaches_the_motion_unet():
    unet = tiny.unet()
    model = attach(unet, module())
    plain = model(**clip()).sample
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    unet.get_parameter(name).mul_(3)
    assert torch.equal(model.get_parameter(name), unet.get_parameter(name))
    assert not torch.equal(model(**clip()).sample, plain)


def test_the_module_trains_in_the_adapters_own_memory():
    adapter = tiny.motion_adapter()
    model = attach(tiny.unet(), MotionModule.from_adapter(adapter, source="tiny"))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    moving = {name: p.requires_grad_(True) for name, p in model.named_parameters() if "motion_modules" in name}
    model(**clip()).sample.square().mean().backward()
    assert all(parameter.grad is not None for parameter in moving.values())
    with torch.no_grad():
        moving["mid_block.motion_modules.0.proj_in.bias"].fill_(7)
    assert adapter.mid_block.motion_modules[0].proj_in.bias.eq(7).all()


@torch.no_grad()
def test_a_file_without_position_tables():
    adapter = tiny.motion_adapter()
    state = {name: value for name, value in adapter.state_dict().items() if not name.endswith("pos_embed.pe")}
    made = MotionModule.from_state(state, source="tiny", num_heads=4, num_norm_groups=8, max_frames=16)
    ours, whole = attach(tiny.unet(), made)(**clip()).sample, attach(tiny.unet(), module())(**clip()).sample
    assert torch.allclose(ours, whole, atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"block_out_channels": (24, 32)}, r"down_blocks.0.motion_modules.0.norm.weight is \(24,\) in the module, the base needs \(16,\)"),
        ({"block_out_channels": (16,)}, "lacks down_blocks.1"),
        ({"block_out_channels": (16, 32, 32)}, "has down_blocks.2"),
        ({"motion_layers_per_block": 2}, "for which the base has no place"),
    ],
)
def test_modules_for_other_bases(overrides, said):
    with pytest.raises(UserError, match=said):
        attach(tiny.unet(), module(**overrides))


def test_missing_and_extra_tensors_are_named():
    state = dict(tiny.motion_adapter().state_dict())
    value = state.pop("up_blocks.0.motion_modules.1.proj_out.bias")
    settings = {"source": "tiny", "num_heads": 4, "num_norm_groups": 8}
    with pytest.raises(UserError, match=r"lacks up_blocks.0.motion_modules.1.proj_out.bias"):
        attach(tiny.unet(), MotionModule.from_state(state, **settings))
    state |= {"up_blocks.0.motion_modules.1.proj_out.bias": value, "mid_block.motion_modules.0.odd": value}
    with pytest.raises(UserError, match=r"has mid_block.motion_modules.0.odd"):
        attach(tiny.unet(), MotionModule.from_state(state, **settings))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift"),
        ({"down_block_types": ("AttnDownBlock2D", "DownBlock2D")}, "AttnDownBlock2D"),
    ],
)
def test_bases_that_cannot_move(overrides, said):
    with pytest.raises(UserError, match=said):
        attach(tiny.unet(**overrides), module())


@torch.no_grad()
def test_the_modules_own_group_count_is_used():
    """`UNetMotionModel` knows one number of groups for base and module; theirs may differ."""
    model = attach(tiny.unet(), module(motion_norm_num_groups=4))
    norms = {m.norm.num_groups for m in model.modules() if type(m).__name__ == "AnimateDiffTransformer3D"}
    assert norms == {4} and model.conv_norm_out.num_groups == 8


def test_attaching_follows_the_base_in_precision(tmp_path: Path):
    model = attach(tiny.unet().to(torch.bfloat16), module())
    assert {tensor.dtype for tensor in (*model.parameters(), *model.buffers())} == {torch.bfloat16}
