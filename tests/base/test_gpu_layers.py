"""Layers as a GPU computes them, against diffusers' own: on a GPU where there is one, else in Triton's interpreter."""

import copy
from collections import Counter

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.activations import GEGLU
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from torch import nn

from cdvideo.base import attention, gpu_layers
from cdvideo.base.gpu_layers import fused_layers, has_kernels, joined_by_kernel
from cdvideo.base.single_file import SD15_FOLDER
from cdvideo.base.weights import lay_weights_together, read_json
from cdvideo.errors import UserNote

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def with_kernels(monkeypatch):
    pytest.importorskip("triton")
    # Convolutions of fp32 are rounded to 10 bits by default.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    if DEVICE == "cpu":
        monkeypatch.setattr(gpu_layers, "has_kernels", lambda device: True)


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def drawn(module):
    """The module with weights that a generator drew, none of which trains."""
    for seed, parameter in enumerate(module.parameters()):
        parameter.data = normal(seed, *parameter.shape).cpu() * 0.3
    return module.to(DEVICE, memory_format=torch.channels_last).requires_grad_(False).eval()


def compare(module, pictures, **inputs):
    """The fused module's pictures without and with gradients, and the gradients of all that has one, are diffusers'."""
    exact = copy.deepcopy(module)
    kind = type(module)
    pictures, of_exact = pictures.clone().requires_grad_(True), pictures.clone().requires_grad_(True)
    wanted = exact(of_exact, **inputs)[0] if kind is Transformer2DModel else exact(of_exact, **inputs)
    upstream = normal(99, *wanted.shape)
    own, others = (
        [one for one in [start, *module_.parameters()] if one.requires_grad] for start, module_ in ((pictures, module), (of_exact, exact))
    )
    with fused_layers(module):
        assert type(module) is not kind, "else diffusers is compared with itself"
        found = module(pictures, **inputs)[0] if kind is Transformer2DModel else module(pictures, **inputs)
        grads = torch.autograd.grad(found, own, upstream)
        with torch.no_grad():
            without = module(pictures, **inputs)[0] if kind is Transformer2DModel else module(pictures, **inputs)
    assert type(module) is kind
    for one, other in [(found, wanted), (without, wanted), *zip(grads, torch.autograd.grad(wanted, others, upstream), strict=True)]:
        assert one.shape == other.shape and (one - other).detach().abs().max() < 1e-4 * other.detach().abs().max()
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("out_channels", [16, 24], ids=["as many", "more"])
def test_a_residual_block(with_kernels, out_channels):
    block = drawn(ResnetBlock2D(in_channels=16, out_channels=out_channels, temb_channels=12, groups=4))
    compare(block, normal(1, 2, 16, 5, 4), temb=normal(2, 2, 12))


def test_a_residual_block_of_the_autoencoder(with_kernels):
    block = drawn(ResnetBlock2D(in_channels=16, out_channels=8, temb_channels=None, groups=4, time_embedding_norm="group", eps=1e-6))
    compare(block, normal(1, 2, 16, 3, 6), temb=None)


@pytest.mark.parametrize("use_linear_projection", [False, True])
def test_a_transformer_whose_keys_and_values_train(with_kernels, use_linear_projection):
    transformer = drawn(
        Transformer2DModel(2, 8, 16, num_layers=1, norm_num_groups=4, cross_attention_dim=12, use_linear_projection=use_linear_projection)
    )
    attention = transformer.transformer_blocks[0].attn2
    for layer in (attention.to_k, attention.to_v):
        layer.requires_grad_(True)
    compare(transformer, normal(1, 2, 16, 3, 2), encoder_hidden_states=normal(2, 2, 5, 12))


def test_feed_forwards_by_parts(with_kernels, monkeypatch):
    monkeypatch.setattr(gpu_layers, "FED_AT_ONCE", 7)
    transformer = drawn(Transformer2DModel(2, 8, 16, num_layers=1, norm_num_groups=4, cross_attention_dim=12))
    pictures, inputs = normal(1, 3, 16, 2, 3), {"encoder_hidden_states": normal(2, 3, 5, 12)}
    kept = pictures.clone()
    with torch.no_grad():
        wanted = transformer(pictures, **inputs).sample
        with fused_layers(transformer):
            assert torch.allclose(transformer(pictures, **inputs).sample, wanted, atol=1e-4)
    assert torch.equal(pictures, kept)


@pytest.mark.parametrize("output_size", [None, (6, 10), (5, 10)], ids=["twice", "said", "another"])
def test_upsampling(with_kernels, output_size, monkeypatch):
    monkeypatch.setattr("cdvideo.base.gpu_kernels.pictures.UPSAMPLED_AT_ONCE", 2)
    layer = drawn(Upsample2D(12, use_conv=True, out_channels=20))
    pictures = normal(1, 3, 12, 3, 5).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        wanted = layer(pictures, output_size)
        with fused_layers(layer):
            assert type(layer) is not Upsample2D, "else diffusers is compared with itself"
            found = layer(pictures, output_size)
    assert found.shape == wanted.shape and (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_pictures_side_by_side(with_kernels, monkeypatch):
    one, other = (normal(width, 2, width, 3, 5).contiguous(memory_format=torch.channels_last) for width in (12, 140))
    with torch.no_grad():
        wanted = torch.cat([one, other], dim=1)
        with joined_by_kernel(one.device):
            found = torch.cat([one, other], dim=1)
            assert torch.equal(torch.cat(tensors=(one, other), dim=1), wanted)
            monkeypatch.setattr(gpu_layers, "kernels", lambda: pytest.fail("this is PyTorch's"))
            assert torch.equal(torch.cat([one, one]), torch.cat([one, one], 0))
            assert torch.cat([one, other.contiguous()], 1).shape == wanted.shape
            with torch.enable_grad():
                assert torch.equal(torch.cat([one, other], dim=1), wanted)
    assert torch.equal(found, wanted) and found.is_contiguous(memory_format=torch.channels_last)


def test_matrices_that_lie_together_and_a_bias_that_is_added_later(with_kernels, monkeypatch):
    """Keys and values of what attends to itself are one product with its queries, unless one of them trains."""
    transformer = drawn(Transformer2DModel(2, 8, 16, num_layers=1, norm_num_groups=4, cross_attention_dim=12))
    lay_weights_together(transformer)
    block = transformer.transformer_blocks[0]
    places = [layer.weight.data_ptr() for layer in (block.attn1.to_q, block.attn1.to_k, block.attn1.to_v)]
    assert places[1] - places[0] == places[2] - places[1] == block.attn1.to_q.weight.nbytes
    products: list[int] = []
    linear = torch.nn.functional.linear
    monkeypatch.setattr(attention.F, "linear", lambda states, weight, *bias: products.append(len(weight)) or linear(states, weight, *bias))
    compare(transformer, normal(1, 2, 16, 3, 2), encoder_hidden_states=normal(2, 2, 5, 12))
    assert products.count(48) == 2
    products.clear()
    block.attn1.to_k.requires_grad_(True)
    block.attn2.to_out[0].requires_grad_(True)
    compare(transformer, normal(1, 2, 16, 3, 2), encoder_hidden_states=normal(2, 2, 5, 12))
    assert 48 not in products


def test_a_models_last_norm(with_kernels):
    model = nn.Module()
    model.conv_norm_out = drawn(nn.GroupNorm(4, 16))
    pictures = normal(1, 2, 16, 5, 3).contiguous(memory_format=torch.channels_last)
    wanted = model.conv_norm_out(pictures)
    with fused_layers(model):
        assert type(model.conv_norm_out) is not nn.GroupNorm, "else PyTorch is compared with itself"
        found = model.conv_norm_out(pictures)
    assert torch.allclose(found, wanted, atol=1e-5) and found.is_contiguous(memory_format=torch.channels_last)


# Far from zero a root's 32nd power is infinite, as it may be.
@pytest.mark.filterwarnings("ignore:overflow encountered in multiply")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_gated_product_in_half_precision(with_kernels, monkeypatch, dtype):
    if DEVICE == "cpu" and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter takes bf16's bits for whole numbers")
    layer = drawn(GEGLU(64, 128)).to(dtype)
    states = normal(1, 3, 50, 64).to(dtype)
    with torch.no_grad():
        wanted = copy.deepcopy(layer).float()(states.float())
        with fused_layers(layer):
            if gpu_layers.kernels().multiplies_gated(states, layer.proj.weight, layer.proj.bias):
                # What it is compared with before it is used for the first time.
                assert gpu_layers._builds_gated_product(states.device, dtype)
                monkeypatch.setattr(gpu_layers.kernels(), "gelu_gate", lambda states: pytest.fail("one kernel does both"))
            found = layer(states)
    assert found.dtype == dtype and (found - wanted).norm() < 4e-3 * wanted.norm()


def test_what_has_a_mask_is_left_to_diffusers(with_kernels):
    transformer = drawn(Transformer2DModel(2, 8, 16, num_layers=1, norm_num_groups=4, cross_attention_dim=12))
    inputs = {
        "encoder_hidden_states": normal(2, 2, 5, 12),
        "encoder_attention_mask": torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]], device=DEVICE),
    }
    with torch.no_grad():
        wanted = transformer(normal(1, 2, 16, 2, 2), **inputs).sample
        with fused_layers(transformer):
            assert torch.allclose(transformer(normal(1, 2, 16, 2, 2), **inputs).sample, wanted, atol=1e-5)


def fused(model):
    with fused_layers(model):
        return Counter(type(layer).__name__ for layer in model.modules() if type(layer).__name__.startswith("_Fused"))


def on_meta(kind, name):
    with torch.device("meta"):
        return kind.from_config(read_json(SD15_FOLDER / name / "config.json")).requires_grad_(False)


def test_of_stable_diffusion_every_block_is_fused(with_kernels, monkeypatch):
    monkeypatch.setattr(gpu_layers, "has_kernels", lambda device: True)
    blocks = {"_FusedResnetBlock": 22, "_FusedTransformer": 16, "_FusedTransformerBlock": 16, "_FusedGEGLU": 16}
    blocks |= {"_FusedUpsample": 3, "_FusedGroupNorm": 1}
    assert fused(on_meta(UNet2DConditionModel, "unet")) == blocks
    assert fused(on_meta(AutoencoderKL, "vae")) == {"_FusedResnetBlock": 24, "_FusedUpsample": 3, "_FusedGroupNorm": 2}


def test_blocks_that_train_or_differ_are_diffusers(with_kernels):
    def block(**settings):
        return drawn(ResnetBlock2D(in_channels=16, temb_channels=12, groups=4, **settings))

    assert fused(block()) == {"_FusedResnetBlock": 1}
    assert not fused(block().requires_grad_(True)) and not fused(block(output_scale_factor=2.0))
    assert not fused(block(time_embedding_norm="scale_shift")) and not fused(block(non_linearity="gelu")) and not fused(block(up=True))


def test_on_a_cpu_nothing_is_fused():
    block = ResnetBlock2D(in_channels=16, temb_channels=12, groups=4).requires_grad_(False)
    assert not has_kernels(torch.device("cpu")) and not fused(block)


def test_where_kernels_cannot_be_built_it_is_said(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))

    def nowhere():
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC.")

    monkeypatch.setattr(gpu_layers, "_agrees", lambda device: nowhere())
    with pytest.warns(UserNote, match=r"slower: Failed to find C compiler\.$"):
        assert not has_kernels.__wrapped__(torch.device("cuda", 0))
