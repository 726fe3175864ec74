"""Attention on a CPU against PyTorch's fused kernel and diffusers' own processor."""

import pytest
import torch
import torch.nn.functional as F
from diffusers.models import attention_processor
from diffusers.models.attention_processor import Attention
from einops import rearrange

from cdvideo.base import short_attention as attention
from cdvideo.base.short_attention import attended, short_attention
from cdvideo.motion import attach
from tests import tiny
from tests.motion.test_attach import clip, module


@pytest.mark.parametrize("most", [2**24, 0], ids=["short", "long"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_it_is_the_fused_kernels(monkeypatch, most, dtype, tolerance):
    monkeypatch.setattr(attention, "MOST_SCORE_BYTES", most)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, length, 8, generator=generator).to(dtype) for length in (16, 7, 7))
    wanted = F.scaled_dot_product_attention(query.double(), key.double(), value.double())
    got = attended(*(rearrange(states, "b h n d -> b n (h d)") for states in (query, key, value)), num_heads=3)
    assert (got.double() - rearrange(wanted, "b h n d -> b n (h d)")).abs().max() < tolerance


@torch.no_grad()
def test_a_unet_predicts_the_same_within_it_and_is_as_before_afterwards(monkeypatch):
    unet = attach(tiny.unet(), module())
    before = dict(unet.attn_processors)
    wanted = unet(**clip()).sample
    with short_attention(unet):
        got = unet(**clip()).sample
        changed = [name for name, processor in unet.attn_processors.items() if processor is not before[name]]
        monkeypatch.setattr(attention_processor.inspect, "signature", None)
        assert torch.equal(unet(**clip()).sample, got), "reading a signature at every call takes longer than many a layer"
        monkeypatch.undo()
    assert (got - wanted).abs().max() < 1e-5 and len(changed) == len(before), "every layer of it is plain"
    assert all(unet.attn_processors[name] is processor for name, processor in before.items())
    assert all(type(layer) is Attention for layer in unet.modules() if isinstance(layer, Attention))


@torch.no_grad()
def test_a_mask_and_layers_with_more_to_them_stay_diffusers_own():
    unet, inputs = tiny.unet(), clip()
    still = {
        "sample": inputs["sample"][:, :, 0],
        "timestep": inputs["timestep"],
        "encoder_hidden_states": inputs["encoder_hidden_states"][::5],
    }
    mask = torch.ones(2, tiny.NUM_TOKENS)
    mask[:, 3:] = 0
    wanted = unet(**still, encoder_attention_mask=mask).sample
    with short_attention(unet):
        assert (unet(**still, encoder_attention_mask=mask).sample - wanted).abs().max() < 1e-5
    own = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1
    own.residual_connection = True
    with short_attention(unet):
        assert type(own.processor).__name__ == "AttnProcessor2_0"
