"""Kernels for GPUs against PyTorch's operators in double precision: on a GPU where there is one, else in Triton's interpreter."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
from cdvideo.base import gpu_kernels as kernels  # noqa: E402


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def check(found, wanted, *, inputs=(), exact_inputs=()):
    """Values, and gradients of the inputs, are those wanted; each may be several."""
    pairs = list(zip(found, wanted, strict=True))
    if inputs:
        weights = [normal(100 + index, *one.shape) for index, one in enumerate(found)]
        grads = torch.autograd.grad(sum((w * f).sum() for w, f in zip(weights, found, strict=True)), inputs)
        exact = torch.autograd.grad(sum((w.double() * f).sum() for w, f in zip(weights, wanted, strict=True)), exact_inputs)
        pairs += list(zip(grads, exact, strict=True))
    for one, other in pairs:
        assert one.shape == other.shape and (one - other).detach().abs().max() < 1e-5 * other.abs().max()


@pytest.mark.parametrize("silu", [True, False], ids=["silu", "plain"])
@pytest.mark.parametrize("has_added", [True, False], ids=["added", "alone"])
@pytest.mark.parametrize(
    ("num_pictures", "num_places", "num_channels", "num_groups"), [(2, 100, 40, 4), (1, 1100, 16, 8), (3, 1, 96, 32)], ids=str
)
def test_group_norm(num_pictures, num_places, num_channels, num_groups, has_added, silu):
    x = (2 * normal(0, num_pictures, num_places, num_channels) + 3).requires_grad_(True)
    weight, bias, added = normal(1, num_channels), normal(2, num_channels), normal(3, num_pictures, num_channels) if has_added else None
    found = kernels.group_norm(x, num_groups, weight, bias, 1e-5, added=added, silu=silu)
    exact = x.detach().double().requires_grad_(True)
    states = exact + added.double()[:, None] if has_added else exact
    wanted = F.group_norm(states.transpose(1, 2), num_groups, weight.double(), bias.double(), 1e-5).transpose(1, 2)
    check([found], [F.silu(wanted) if silu else wanted], inputs=[x], exact_inputs=[exact])


def test_a_norm_of_large_values_of_one_sign_is_exact():
    x, ones = 0.01 * normal(0, 1, 200, 8) + 100, torch.ones(8, device=DEVICE)
    found = kernels.group_norm(x, 2, ones, 0 * ones, 1e-6)
    wanted = F.group_norm(x.double().transpose(1, 2), 2, eps=1e-6).transpose(1, 2)
    assert (found - wanted).abs().max() < 1e-2, "in fp32, summed squares of a hundred have no room for a hundredth's"


def test_gelu_gate():
    x = normal(0, 2, 19, 2 * 70).requires_grad_(True)
    exact = x.detach().double().requires_grad_(True)
    gated, gate = exact.chunk(2, dim=-1)
    check([kernels.gelu_gate(x)], [gated * F.gelu(gate)], inputs=[x], exact_inputs=[exact])


@pytest.mark.parametrize("has_change", [True, False], ids=["sum", "alone"])
@pytest.mark.parametrize("has_positions", [True, False], ids=["positions", "plain"])
def test_sum_and_norm(has_change, has_positions):
    num_frames, num_places, width = 3, 5, 40
    inputs = [normal(seed, 2 * num_frames, num_places, width).requires_grad_(True) for seed in range(1 + has_change)]
    weight, bias, positions = normal(2, width), normal(3, width), normal(4, num_frames, width)
    where = {"positions": positions, "num_places": num_places} if has_positions else {}
    found = kernels.sum_and_norm(inputs[0], inputs[1] if has_change else None, weight, bias, 1e-5, **where)
    exact = [one.detach().double().requires_grad_(True) for one in inputs]
    total = sum(exact)
    normed = F.layer_norm(total, (width,), weight.double(), bias.double())
    check(found, [total, normed + positions.repeat(2, 1)[:, None] if has_positions else normed], inputs=inputs, exact_inputs=exact)


def test_of_a_sum_and_its_norm_one_alone_may_be_used():
    states, weight, bias = normal(0, 4, 40).requires_grad_(True), normal(1, 40), normal(2, 40)
    exact = states.detach().double().requires_grad_(True)
    normed = F.layer_norm(exact, (40,), weight.double(), bias.double())
    check(kernels.sum_and_norm(states, None, weight, bias, 1e-5)[1:], [normed], inputs=[states], exact_inputs=[exact])
    check(kernels.sum_and_norm(states, None, weight, bias, 1e-5)[:1], [exact], inputs=[states], exact_inputs=[exact])


def test_a_sum_has_the_bias_of_what_comes_next_and_its_norm_has_not():
    states, change, weight, bias, later = normal(0, 4, 40), normal(1, 4, 40), normal(2, 40), normal(3, 40), normal(4, 40)
    total = states.double() + change.double()
    normed = F.layer_norm(total, (40,), weight.double(), bias.double())
    check(kernels.sum_and_norm(states, change, weight, bias, 1e-5, bias_of_next=later), [total + later, normed])


@pytest.mark.parametrize("num_frames", [16, 24, 5])
def test_attention_between_frames(num_frames):
    num_clips, num_places, num_heads, width = 2, 3, 2, 20
    parts = [normal(seed, num_clips * num_frames, num_places, num_heads * width) for seed in range(3)]
    by_head = [one.double().reshape(num_clips, num_frames, num_places, num_heads, width).permute(0, 2, 3, 1, 4) for one in parts]
    wanted = F.scaled_dot_product_attention(*by_head).permute(0, 3, 1, 2, 4).reshape(parts[0].shape)
    check([kernels.attend_frames(*parts, num_heads, num_frames)], [wanted])
    check([kernels.attend_frames(*torch.cat(parts, dim=-1).chunk(3, dim=-1), num_heads, num_frames)], [wanted])


def test_sum_with_bias():
    inputs, bias = [normal(seed, 3, 11, 70).requires_grad_(True) for seed in range(2)], normal(2, 70)
    exact = [one.detach().double().requires_grad_(True) for one in inputs]
    check([kernels.sum_with_bias(*inputs, bias)], [sum(exact) + bias], inputs=inputs, exact_inputs=exact)
