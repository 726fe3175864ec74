"""A compiled UNet trains as one that is not, and leaves nothing behind. Dynamo and AOTAutograd do their work; no machine code is made."""

import pytest
import torch

from cdvideo.base import compiling
from cdvideo.base.compiling import Compiled
from cdvideo.errors import UserError
from tests.train.trainings import relative_difference, run


@pytest.fixture
def passes(monkeypatch):
    """Compiles by counting the passes of what dynamo found."""
    counted = []

    def backend(graph, inputs):
        from torch._dynamo.backends.debugging import aot_eager

        compiled = aot_eager(graph, inputs)
        return lambda *given: counted.append(1) or compiled(*given)

    monkeypatch.setattr(compiling, "BACKEND", backend)
    torch.compiler.reset()
    yield counted
    torch.compiler.reset()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_learns_the_same(small, pictures, tmp_path, passes, accumulate):
    usual = run(small, pictures, tmp_path / "a.safetensors", steps=4, accumulate=accumulate)
    assert not passes
    compiled = run(small, pictures, tmp_path / "b.safetensors", steps=4, accumulate=accumulate, compile_unet=True)
    assert len(passes) >= 4, "every step went through the compiled UNet"
    assert torch.allclose(usual.losses(), compiled.losses(), rtol=1e-5, atol=0)
    assert relative_difference(compiled.tensors(), usual.tensors()) < 1e-5
    assert small.unet._compiled_call_impl is None


def test_milestones_see_the_model_uncompiled(small, pictures, tmp_path, passes):
    seen = []

    def on_milestone(milestone):
        before = len(passes)
        size = small.unet.config.sample_size
        states = small.text_states(["a photo of a V* bear"])
        with torch.no_grad():
            small.unet(torch.zeros(1, 4, size, size), 10, encoder_hidden_states=states)
        seen.append(len(passes) - before)

    run(small, pictures, tmp_path / "a.safetensors", steps=4, milestone_every=2, on_milestone=on_milestone, compile_unet=True)
    assert seen == [0, 0] and passes


def test_a_compiler_that_fails_is_named(small, pictures, tmp_path, monkeypatch):
    def backend(graph, inputs):
        raise RuntimeError("no C++ compiler is here")

    monkeypatch.setattr(compiling, "BACKEND", backend)
    torch.compiler.reset()
    with pytest.raises(UserError, match="cannot be compiled") as caught:
        run(small, pictures, tmp_path / "a.safetensors", steps=2, compile_unet=True)
    assert "no C++ compiler is here" in str(caught.value) and "--compile" in caught.value.remedy
    assert small.unet._compiled_call_impl is None


def test_other_errors_in_it_are_what_they_are():
    with pytest.raises(KeyError), Compiled(torch.nn.Linear(1, 1), False):
        raise KeyError("another")
