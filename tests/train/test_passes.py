"""Recorded passes: what CUDA replays is one module of tensors in and tensors out, and gradients that are there already are added to."""

import pytest
import torch

from cdvideo.errors import UserError, UserNote
from cdvideo.train import loop
from cdvideo.train.passes import Pass, as_graphs, inputs_ahead
from tests.train.trainings import relative_difference, run


@pytest.fixture
def replays(monkeypatch):
    """Lets the CPU record: passes whose outputs and gradients lie in the same memory at every replay, as CUDA graphs' do."""
    counted = []

    def graphed(module, sample_args, num_warmup_iters, allow_unused_input):
        trained = [value for value in module.parameters() if value.requires_grad]
        usual, outputs, gradients = module.forward, [], []

        class Replay(torch.autograd.Function):
            @staticmethod
            def forward(ctx, *values):
                counted.append(1)
                with torch.enable_grad():
                    ctx.found = usual(*values[len(trained) :])
                if not outputs:
                    outputs.extend(torch.empty_like(value) for value in ctx.found)
                for place, value in zip(outputs, ctx.found, strict=True):
                    place.copy_(value.detach())
                return tuple(place.detach() for place in outputs)

            @staticmethod
            def backward(ctx, *of_outputs):
                pairs = [(value, of) for value, of in zip(ctx.found, of_outputs, strict=True) if value.requires_grad]
                found = torch.autograd.grad([value for value, _ in pairs], trained, [of for _, of in pairs], allow_unused=True)
                if not gradients:
                    gradients.extend(torch.empty_like(value) for value in trained)
                for place, value in zip(gradients, found, strict=True):
                    place.copy_(value)
                return (*(place.detach() for place in gradients), *[None] * len(sample_args))

        module.forward = lambda *values: Replay.apply(*trained, *values)
        return module

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphed)
    monkeypatch.setattr(loop, "records_graphs", lambda device, checkpointed: not checkpointed)
    monkeypatch.setattr(loop, "records_operators", lambda *_: False)
    return counted


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_training_as_graphs_learns_the_same(small, pictures, tmp_path, replays, accumulate):
    replayed = run(small, pictures, tmp_path / "a.safetensors", steps=3, accumulate=accumulate)
    assert len(replays) == 3 * accumulate
    replays.clear()
    usual = run(small, pictures, tmp_path / "b.safetensors", steps=3, accumulate=accumulate, gradient_checkpointing=True)
    assert not replays
    assert torch.allclose(replayed.losses(), usual.losses(), rtol=1e-6, atol=0)
    assert relative_difference(replayed.tensors(), usual.tensors()) < 1e-5


def test_a_device_that_cannot_record_says_so(small, monkeypatch):
    def failing(*_, **__):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", failing)
    with (
        pytest.warns(UserNote, match="cannot be recorded.*not permitted when stream is capturing$"),
        as_graphs(Pass(small, None, 0), [torch.zeros(1)]) as can_be,
    ):
        assert not can_be


def test_a_recording_is_let_go_at_the_end(small, replays):
    forward = Pass(small, None, 0)
    with as_graphs(forward, [torch.zeros(1)]) as can_be:
        assert can_be and "forward" in vars(forward)
    assert "forward" not in vars(forward)


def test_memory_that_runs_out_is_one_message(small, pictures, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Pass, "forward", full)
    with pytest.raises(UserError, match="not enough memory on cpu") as caught:
        run(small, pictures, tmp_path / "a.safetensors")
    assert "CUDA out of memory" in caught.value.cause and "--gradient-checkpointing" in caught.value.remedy


@pytest.mark.skipif(not torch.cuda.is_available(), reason="streams are a CUDA device's")
def test_inputs_made_beside_a_pass_are_those_made_before_it():
    """Each is a product that takes a while, of numbers that are copied there; the pass of before takes a while, too."""
    batches = [torch.full((2048, 2048), float(number)).pin_memory() for number in range(5)]
    device, busy = torch.device("cuda"), torch.ones(4096, 4096, device="cuda")

    def prepare(batch):
        on_device = batch.to(device, non_blocking=True)
        return (on_device @ torch.eye(2048, device=device), on_device.sum())

    found = []
    for batch, (product, total) in inputs_ahead(iter(batches), prepare, device, beside=True):
        for _ in range(5):
            busy = busy @ torch.eye(4096, device=device)
        found.append((batch, product.clone(), total.clone()))
    assert [batch is own for (batch, _, _), own in zip(found, batches, strict=True)] == [True] * 5
    for number, (_, product, total) in enumerate(found):
        assert bool((product == number).all()) and total.item() == number * 2048**2


def test_elsewhere_each_is_made_when_it_is_asked_for():
    made = []
    coming = inputs_ahead(iter("ab"), lambda batch: made.append(batch) or (), torch.device("cpu"), beside=True)
    assert next(coming) == ("a", ()) and made == ["a"] and [*coming] == [("b", ())]
