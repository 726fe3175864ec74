"""A motion transformer as a GPU computes it, against diffusers' own: on a GPU where there is one, else in Triton's interpreter."""

import pytest
import torch
from diffusers import UNetMotionModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import nn

from cdvideo.base import gpu_layers
from cdvideo.base.gpu_layers import fused_layers
from cdvideo.base.weights import lay_together
from cdvideo.motion import quick_motion as module
from cdvideo.motion.module import placed
from cdvideo.motion.norm import NormPerFrame, set_motion_norm
from cdvideo.motion.quick_motion import quick_motion

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NUM_FRAMES = 5


@pytest.fixture
def with_kernels(monkeypatch):
    pytest.importorskip("triton")
    if DEVICE == "cpu":
        for own in (gpu_layers, module):
            monkeypatch.setattr(own, "has_kernels", lambda device: True)


@pytest.fixture
def transformer():
    made = AnimateDiffTransformer3D(
        2, 8, 16, norm_num_groups=4, activation_fn="geglu", positional_embeddings="sinusoidal", num_positional_embeddings=80
    )
    for seed, parameter in enumerate(made.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)) * 0.3
    return nn.ModuleList([made]).to(DEVICE).requires_grad_(False).eval()


def pictures(num_frames=NUM_FRAMES, num_clips=2):
    return torch.randn(num_clips * num_frames, 16, 2, 3, generator=torch.Generator().manual_seed(9)).to(DEVICE)


@pytest.mark.parametrize("norm", [NormPerFrame, nn.GroupNorm])
@pytest.mark.parametrize("together", [True, False], ids=["one product", "three products"])
@pytest.mark.parametrize("in_the_middle", [True, False], ids=["middle", "side"])
def test_it_moves_as_diffusers_does(with_kernels, transformer, norm, together, in_the_middle, monkeypatch):
    transformer[0].norm.__class__ = norm
    if together:
        state = transformer[0].state_dict()
        lay_together(state)
        transformer[0].load_state_dict(state, assign=True)
        transformer[0].requires_grad_(False)
        attention = transformer[0].transformer_blocks[0].attn1
        assert attention.to_v.weight.data_ptr() - attention.to_q.weight.data_ptr() == 2 * attention.to_q.weight.nbytes
    with torch.no_grad():
        wanted = transformer[0](pictures(), num_frames=NUM_FRAMES)
        # Blocks at a side name the number of frames, the one in the middle gives it at its place.
        inputs, named = ((None, None, None, NUM_FRAMES, None), {}) if in_the_middle else ((), {"num_frames": NUM_FRAMES})
        with fused_layers(transformer), quick_motion(transformer):
            assert type(transformer[0]) is not AnimateDiffTransformer3D, "else diffusers is compared with itself"
            monkeypatch.setattr(transformer[0].transformer_blocks[0], "forward", lambda *_: pytest.fail("this is diffusers'"))
            found = transformer[0](pictures(), *inputs, **named)
    assert type(transformer[0]) is AnimateDiffTransformer3D
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_what_lies_where_it_is_to_be_stays_there():
    """A training's own weights among them, which would otherwise no longer be those that are trained."""
    state = {f"attn.to_{name}.weight": torch.randn(4, 4) for name in "qkv"}
    same = placed(state, torch.float32, torch.device("cpu"))
    assert all(same[name] is value for name, value in state.items())
    joined = dict(state)
    lay_together(joined)
    assert all(torch.equal(joined[name], value) for name, value in state.items())
    assert joined["attn.to_k.weight"].storage_offset() == 16 and len({one.untyped_storage().data_ptr() for one in joined.values()}) == 1
    of_text = {"attn.to_q.weight": torch.randn(4, 4), "attn.to_k.weight": torch.randn(4, 6), "attn.to_v.weight": torch.randn(4, 6)}
    lay_together(kept := dict(of_text))
    assert all(kept[name] is value for name, value in of_text.items())


@pytest.mark.parametrize(("num_frames", "with_gradients"), [(NUM_FRAMES, True), (65, False)], ids=["gradients", "many frames"])
def test_what_the_kernel_cannot_do_is_left_to_diffusers(with_kernels, transformer, num_frames, with_gradients, monkeypatch):
    monkeypatch.setattr(module, "kernels", lambda: pytest.fail("there is no kernel for this"))
    states = pictures(num_frames, 1).requires_grad_(with_gradients)
    with quick_motion(transformer), torch.set_grad_enabled(with_gradients):
        found = transformer[0](states, num_frames=num_frames)
    with torch.no_grad():
        assert torch.allclose(found.detach(), transformer[0](states, num_frames=num_frames), atol=1e-5)


def test_every_motion_transformer_of_a_full_module_is_fused(monkeypatch):
    monkeypatch.setattr(module, "has_kernels", lambda device: True)
    with torch.device("meta"):
        unet = UNetMotionModel(use_motion_mid_block=True).requires_grad_(False)
    set_motion_norm(unet, "frame")
    with quick_motion(unet):
        assert sum(type(layer).__name__ == "_FusedMotion" for layer in unet.modules()) == 21


def test_on_a_cpu_nothing_changes(transformer):
    with quick_motion(transformer.to("cpu")):
        assert type(transformer[0]) is AnimateDiffTransformer3D
