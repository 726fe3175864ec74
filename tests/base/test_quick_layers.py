"""Layers as a CPU computes them fast, against PyTorch's own in double precision, and against themselves where nothing may change."""

import copy

import pytest
import torch
from diffusers import UNetMotionModel
from diffusers.models.activations import GEGLU
from torch import nn
from torch.nn.utils import parametrize

from cdvideo.base import quick_layers as module
from cdvideo.base.quick_layers import quick_layers
from cdvideo.motion import attach
from tests import tiny
from tests.motion.test_attach import module as random_module

pytestmark = pytest.mark.skipif(not module._has_operators(), reason="layers are PyTorch's own on this processor")


def seeded(layer, *shape, dtype=torch.float32):
    """The layer with weights, and an input, that a generator drew."""
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return layer.to(dtype).requires_grad_(False), torch.randn(shape, generator=generator).to(dtype)


LAYERS = {
    "linear": (lambda: nn.Linear(24, 40), (3, 7, 24)),
    "linear without a bias": (lambda: nn.Linear(24, 40, bias=False), (5, 24)),
    "geglu": (lambda: GEGLU(24, 32), (3, 7, 24)),
    "convolution": (lambda: nn.Conv2d(8, 12, 3, padding=1), (2, 8, 9, 5)),
    "without padding": (lambda: nn.Conv2d(8, 12, 3), (2, 8, 9, 5)),
    "one cell": (lambda: nn.Conv2d(8, 12, 1), (2, 8, 9, 5)),
    "uneven": (lambda: nn.Conv2d(8, 12, (1, 3), padding=(0, 2)), (2, 8, 9, 5)),
    "every other": (lambda: nn.Conv2d(8, 12, 3, padding=1, stride=2), (2, 8, 9, 5)),
}


@pytest.mark.parametrize("beats_mkl", [True, False], ids=["oneDNN's products", "MKL's"])
@pytest.mark.parametrize("name", LAYERS)
def test_it_computes_the_same_with_and_without_gradients(name, beats_mkl, monkeypatch):
    monkeypatch.setattr(module, "_beats_mkl", lambda: beats_mkl)
    make, shape = LAYERS[name]
    layer, states = seeded(make(), *shape)
    exact, exact_states = copy.deepcopy(layer).double(), states.double().requires_grad_(True)
    wanted = exact(exact_states)
    upstream = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (wanted_grad,) = torch.autograd.grad(wanted, exact_states, upstream)
    kind = type(layer)
    with quick_layers(layer):
        assert type(layer).__name__ == f"_Quick{kind.__name__}", "else PyTorch is compared with itself"
        with torch.no_grad():
            without = layer(states)
        states.requires_grad_(True)
        got = layer(states)
        (grad,) = torch.autograd.grad(got, states, upstream.float())
    assert type(layer) is kind and layer not in module._ORDERED
    for own, other in ((without, wanted), (got, wanted), (grad, wanted_grad)):
        assert own.shape == other.shape and (own - other).abs().max() < 1e-5 * other.abs().max()


def test_weights_that_change_are_seen():
    layer, pixels = seeded(nn.Conv2d(4, 6, 3, padding=1), 1, 4, 8, 8)
    pixels.requires_grad_(True)
    with quick_layers(layer):
        layer(pixels).sum().backward()
        with torch.no_grad():
            layer.weight.mul_(2)
            layer.bias.zero_()
        changed = layer(pixels)
        (grad,) = torch.autograd.grad(changed.sum(), pixels)
    assert torch.allclose(changed, layer(pixels), atol=1e-5)
    assert torch.allclose(grad, 2 * pixels.grad, atol=1e-4)


def test_what_is_trained_gets_its_gradient():
    layer, states = seeded(nn.Linear(24, 40), 5, 24)
    layer.requires_grad_(True)
    with quick_layers(layer):
        layer(states).square().sum().backward()
    assert torch.allclose(layer.weight.grad, 2 * layer(states).T @ states, rtol=1e-5)


def test_in_autocast_and_in_other_precisions_layers_are_pytorchs():
    layer, states = seeded(nn.Linear(24, 40), 5, 24)
    convolution, pixels = seeded(nn.Conv2d(4, 6, 3, padding=1), 1, 4, 8, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = layer(states)
    with quick_layers(layer, convolution), torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(layer(states), wanted)
        got = convolution(pixels)
    assert torch.equal(got, convolution(pixels))


def test_what_the_operators_cannot_compute_is_left_alone(monkeypatch):
    grouped, dilated, reflecting = nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, dilation=2), nn.Conv2d(4, 4, 3, padding_mode="reflect")
    odd = nn.ModuleList([grouped, dilated, reflecting, nn.Conv1d(4, 4, 3)])
    kinds = [type(layer) for layer in odd]
    large = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(4, 4, 3))
    with quick_layers(odd):
        assert [type(layer) for layer in odd] == kinds
    monkeypatch.setattr(module, "MOST_ORDERED_BYTES", 100)
    with quick_layers(large):
        assert type(large[0]) is not nn.Linear and type(large[1]) is nn.Conv2d
    monkeypatch.setattr(module, "_has_operators", lambda: False)
    with quick_layers(large):
        assert type(large[0]) is nn.Linear


@pytest.mark.skipif(not module._has_bf16(), reason="this CPU does not compute in bf16")
def test_gates_in_bf16():
    layer, states = seeded(GEGLU(24, 32), 3, 7, 24, dtype=torch.bfloat16)
    wanted = copy.deepcopy(layer).double()(states.double())
    with quick_layers(layer), torch.no_grad():
        assert (layer(states).double() - wanted).abs().max() < 0.02 * wanted.abs().max()


def test_gates_whose_matrix_is_another_layer_are_left_alone():
    layer, states = seeded(GEGLU(24, 32), 3, 7, 24)
    parametrize.register_parametrization(layer.proj, "weight", nn.Tanh(), unsafe=True)
    wanted = layer(states)
    with quick_layers(layer):
        assert type(layer) is GEGLU and torch.allclose(layer(states), wanted, atol=1e-5)


def test_a_convolution_is_copied_and_its_pass_is_ended_by_a_later_backward():
    layer, pixels = seeded(nn.Conv2d(4, 6, 3, padding=1), 1, 4, 8, 8)
    pixels.requires_grad_(True)
    with quick_layers(layer):
        got = layer(pixels).square().sum()
        own = copy.deepcopy(layer)
    (grad,) = torch.autograd.grad(got, pixels)
    (wanted,) = torch.autograd.grad(layer(pixels).square().sum(), pixels)
    assert torch.allclose(grad, wanted, atol=1e-3) and torch.allclose(own(pixels), layer(pixels), atol=1e-5)


def test_a_copy_made_within_it_and_one_within_another_are_themselves():
    layer, states = seeded(nn.Linear(24, 40), 5, 24)
    with quick_layers(layer):
        own = copy.deepcopy(layer)
        with quick_layers(layer):
            pass
        assert type(layer) is not nn.Linear, "the outer one still holds"
        own.weight.data.zero_()
        assert layer(states).abs().sum() > 0 and torch.equal(own(states), own.bias.expand(5, -1))


def test_a_motion_unet_tells_its_precision_without_a_walk_over_its_layers(monkeypatch):
    unet = attach(tiny.unet().to(torch.bfloat16), random_module())
    with quick_layers(unet):
        monkeypatch.setattr(nn.Module, "named_modules", None)
        assert unet.dtype == torch.bfloat16
    assert type(unet) is UNetMotionModel


def test_a_whole_unet_in_training():
    unet = tiny.unet().requires_grad_(False)
    trained = [parameter for name, parameter in unet.named_parameters() if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))]
    for parameter in trained:
        parameter.requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    size = unet.config.sample_size
    latents = torch.randn(2, unet.config.in_channels, size, size, generator=generator)
    states = torch.randn(2, tiny.NUM_TOKENS, unet.config.cross_attention_dim, generator=generator, requires_grad=True)

    def step():
        loss = unet(latents, torch.tensor([10, 700]), encoder_hidden_states=states).sample.square().mean()
        return [loss, *torch.autograd.grad(loss, [states, *trained])]

    wanted = step()
    with quick_layers(unet):
        got = step()
    for own, other in zip(got, wanted, strict=True):
        assert torch.allclose(own, other, rtol=1e-3, atol=1e-5 * float(other.detach().abs().max()))
