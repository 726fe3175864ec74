"""What guidance's halves have in common is computed once, and nothing else: against the plain forward pass."""

import pytest
import torch

from cdvideo.animate.halves import shared_halves
from cdvideo.motion import attach, set_motion_norm
from tests import tiny
from tests.motion.test_attach import clip, module


def unets():
    moving = attach(tiny.unet(), module())
    v1 = attach(tiny.unet(), module())
    set_motion_norm(v1, "frame", version="v1")
    linear = tiny.unet(use_linear_projection=True)
    plain_first = tiny.unet(down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))
    return {"clips": moving, "v1": v1, "stills": tiny.unet(), "linear": linear, "text later": plain_first}


@torch.no_grad()
@pytest.mark.parametrize("kind", ["clips", "v1", "stills", "linear", "text later"])
def test_both_halves_come_out_as_they_would(kind):
    unet, inputs = unets()[kind], clip()
    inputs["sample"] = inputs["sample"][:1].repeat(2, 1, 1, 1, 1)
    if kind not in ("clips", "v1"):
        inputs["sample"] = inputs["sample"][:, :, 0]
        inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"][::5]
    wanted = unet(**inputs).sample
    before = set(vars(unet.conv_in))
    with shared_halves(unet):
        got = unet(**inputs).sample
    assert (got - wanted).abs().max() < 1e-5 and (wanted[0] - wanted[1]).abs().max() > 1e-3, "the text tells them apart"
    assert set(vars(unet.conv_in)) == before and torch.equal(unet(**inputs).sample, wanted), "and it is gone"


@torch.no_grad()
def test_the_layers_before_the_text_see_one_half():
    unet, inputs, seen = attach(tiny.unet(), module()), clip(), {}
    inputs["sample"] = inputs["sample"][:1].repeat(2, 1, 1, 1, 1)
    block = unet.down_blocks[0]
    first, second = block.attentions[0].transformer_blocks[0].attn1.to_q, block.attentions[0].transformer_blocks[0].attn2.to_q
    for name, layer in (("conv", block.resnets[0].conv1), ("self", first), ("cross", second)):
        layer.register_forward_pre_hook(lambda layer, args, name=name: seen.__setitem__(name, len(args[0])))
    with shared_halves(unet):
        unet(**inputs)
    assert seen == {"conv": 5, "self": 5, "cross": 10}, "five frames, and two clips of five"
