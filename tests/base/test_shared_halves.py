"""What comes before the text is computed once for guidance's halves, and what they see is what they would see each by itself."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from cdvideo.animate import Studio
from cdvideo.animate.passes import noise_of
from cdvideo.base import gpu_layers
from cdvideo.base.gpu_layers import fused_layers
from cdvideo.base.shared_halves import computed_once, for_each_half
from cdvideo.sampling import seeded_noise


@pytest.fixture
def with_kernels(monkeypatch):
    """Triton's interpreter: what is shared is the same on every device."""
    if torch.cuda.is_available():
        pytest.skip("kernels are built there, and not interpreted")
    pytest.importorskip("triton")
    monkeypatch.setattr(gpu_layers, "has_kernels", lambda device: True)


@pytest.fixture
def states(pocket):
    with torch.no_grad():
        return pocket.text_states(["a bear in the snow", ""])


def test_latents_are_those_of_every_row_of_states(pocket, states):
    latents, timestep = seeded_noise(1, (1, 4, 16, 16)), torch.tensor(500)
    with torch.no_grad():
        both = noise_of(pocket.unet, latents, timestep, states)
        alone = [noise_of(pocket.unet, latents, timestep, own) for own in states.split(1)]
    assert torch.allclose(both, torch.cat(alone), atol=1e-5) and not torch.allclose(both[0], both[1], atol=1e-2)


@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
def test_rows_are_repeated_in_their_order(order):
    pictures = torch.randn(2, 3, 4, 5).contiguous(memory_format=order)
    found = for_each_half(pictures, 6)
    assert torch.equal(found, torch.cat([pictures] * 3)) and found.is_contiguous(memory_format=order)
    assert for_each_half(pictures, 2) is pictures


@pytest.mark.parametrize("motion_norm", ["frame", "diffusers"])
def test_a_clips_halves_are_those_of_the_whole_batch(pocket, pocket_motion, states, motion_norm):
    latents, timestep = seeded_noise(1, (1, 4, 6, 16, 16)), torch.tensor(500)
    with Studio(pocket, [], pocket_motion, motion_norm=motion_norm) as studio, torch.no_grad():
        whole = noise_of(studio._motion_unet, latents, timestep, states)
        with computed_once(studio._motion_unet, 2):
            both = noise_of(studio._motion_unet, latents, timestep, states)
    assert torch.allclose(both, whole, atol=1e-5) and not torch.allclose(both[0], both[1], atol=1e-2)


def test_fused_layers_are_shared_too(with_kernels):
    """As a GPU computes them, layers have classes of their own."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=4, block_out_channels=(16, 16), norm_num_groups=4, cross_attention_dim=12, attention_head_dim=2, layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).requires_grad_(False).eval()  # fmt: skip
    latents, states, seen = torch.randn(1, 4, 4, 4), torch.randn(2, 5, 12), []
    with torch.no_grad():
        whole = noise_of(unet, latents, torch.tensor(500), states)
        unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q.register_forward_hook(lambda *of: seen.append(len(of[-1])))
        with fused_layers(unet), computed_once(unet, 2):
            both = noise_of(unet, latents, torch.tensor(500), states)
    assert seen == [1] and torch.allclose(both, whole, atol=1e-4) and not torch.allclose(both[0], both[1], atol=1e-3)


def test_layers_before_the_text_see_half_the_rows_and_are_left_as_they_were(pocket, states):
    seen = {}
    first = pocket.unet.down_blocks[0]
    layers = {"resnet": first.resnets[0].conv1, "before": first.attentions[0].transformer_blocks[0].attn1.to_q}
    layers |= {"behind": first.attentions[0].transformer_blocks[0].attn2.to_q}
    hooks = []
    for name, layer in layers.items():
        hooks.append(layer.register_forward_hook(lambda _layer, _inputs, result, name=name: seen.update({name: len(result)})))
    with torch.no_grad(), computed_once(pocket.unet, 2):
        noise_of(pocket.unet, seeded_noise(1, (3, 4, 16, 16)), torch.tensor(500), states.repeat(3, 1, 1))
    for hook in hooks:
        hook.remove()
    assert seen == {"resnet": 3, "before": 3, "behind": 6}
    assert not any("forward" in vars(layer) for layer in pocket.unet.modules())
