"""Passes of a training that are recorded as operators: it learns the same bits."""

import pytest
import torch

from cdvideo import base
from cdvideo.errors import UserNote
from cdvideo.train import loop, passes
from cdvideo.train.methods import METHODS
from tests.train.trainings import assert_same, run


def test_gradients_that_share_memory_or_lie_otherwise_are_added_as_autograd_adds_them():
    """Of sum((a + b) x) both gradients are one tensor; of a weight that is read the other way round, it lies the other way round."""

    class Sums(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (torch.nn.Parameter(torch.ones(2, 3)) for _ in range(3))

        def forward(self, values):
            loss = ((self.a + self.b) * values).sum() + (self.c.t() * values.t().contiguous()).sum()
            return loss, torch.zeros(()), torch.zeros(())

    values = [torch.arange(6.0).view(2, 3), torch.ones(2, 3)]
    for records in (True, False):
        module = Sums()
        settings = {"prior_weight": 0, "spl_weight": 0, "accumulate": 2, "records": records}
        step = passes.Passes(module, list(module.parameters()), torch.amp.GradScaler("cpu", enabled=False), **settings)
        for one in values:
            step([one])
        for parameter in module.parameters():
            assert torch.equal(parameter.grad, (values[0] + values[1]) / 2)
            assert parameter.grad.stride() == parameter.stride()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        norm = torch.cat([parameter.grad.flatten() for parameter in module.parameters()]).norm()
        assert norm.item() == pytest.approx(1, abs=1e-4), "each was scaled once"


@pytest.fixture
def plain(monkeypatch):
    """Called, it lets trainings compute every pass anew, and autograd add to the parameters' gradients."""
    return lambda: monkeypatch.setattr(loop, "records_operators", lambda *_: False)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_recorded_training_learns_the_same_bits(small_folder, pictures, tmp_path, plain, method, dtype, recwarn):
    settings = {"method": method, "accumulate": 2, "prior_weight": 0.5, "class_pictures": {"bear": pictures["V2*"]}}
    if METHODS[method].spl_weight or method == "textual-inversion":
        settings["spl_weight"] = 0.3
    loaded = base.load(str(small_folder), device="cpu", dtype=dtype)
    recwarn.clear()  # Where a processor does not compute in bf16, loading says so.
    recorded = run(loaded, pictures, tmp_path / "a.safetensors", **settings)
    assert not [one for one in recwarn if isinstance(one.message, UserNote)], "it was not recorded"
    plain()
    usual = run(base.load(str(small_folder), device="cpu", dtype=dtype), pictures, tmp_path / "b.safetensors", **settings)
    assert recorded.progress == usual.progress
    assert_same(recorded.tensors(), usual.tensors())


@pytest.mark.parametrize("mode", ["paper", "official"])
def test_both_readings_of_the_loss_are_recorded(small, pictures, tmp_path, plain, mode, recwarn):
    recorded = run(small, pictures, tmp_path / "a.safetensors", steps=4, spl_mode=mode)
    plain()
    usual = run(small, pictures, tmp_path / "b.safetensors", steps=4, spl_mode=mode)
    assert recorded.progress == usual.progress
    assert_same(recorded.tensors(), usual.tensors())
    assert not [one for one in recwarn if isinstance(one.message, UserNote)]


def test_a_pass_that_looks_at_values_is_not_recorded_and_learns_the_same(small, pictures, tmp_path, monkeypatch):
    usual = passes.masked_noise_loss

    def looking(noise_pred, noise, mask):
        assert noise_pred.sum().item() != 0
        return usual(noise_pred, noise, mask)

    monkeypatch.setattr(passes, "masked_noise_loss", looking)
    with pytest.warns(UserNote, match="cannot be recorded, so that steps take longer: .*looks at values"):
        looked = run(small, pictures, tmp_path / "a.safetensors", steps=3)
    monkeypatch.setattr(passes, "masked_noise_loss", usual)
    recorded = run(small, pictures, tmp_path / "b.safetensors", steps=3)
    assert looked.progress == recorded.progress
    assert_same(looked.tensors(), recorded.tensors())
