"""What recordings of a UNet's passes read: keys and values stay where those of before were, or recordings are let go of.

Recordings themselves are tested in `tests/base/test_recorded.py`.
"""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cdvideo.animate.passes import UNetPasses
from cdvideo.base.recorded import Recordings


@pytest.fixture
def passes(monkeypatch):
    """`forgotten` counts how often recordings were let go of."""
    unet = nn.Linear(2, 2)
    unet.device = torch.device("cpu")
    made = UNetPasses(unet, Recordings(torch.device("cpu")))
    made.forgotten = 0

    def forget():
        made.forgotten += 1

    monkeypatch.setattr(made.recordings, "forget", forget)
    return made


def text(value, *shape):
    return SimpleNamespace(sources={"to_k": torch.full(shape, value), "to_v": torch.full(shape, -value)})


def test_keys_and_values_of_the_same_shapes_go_where_those_of_before_are(passes):
    first, second = text(1.0, 2, 77, 8), text(5.0, 2, 77, 8)
    passes.read(first)
    passes.noise._replays["of the first"] = passes.noise.compute
    places = {name: value.data_ptr() for name, value in first.sources.items()}
    passes.read(second)
    assert passes.forgotten == 0 and {name: value.data_ptr() for name, value in second.sources.items()} == places
    assert second.sources["to_k"].unique().tolist() == [5] and second.sources["to_v"].unique().tolist() == [-5]


@pytest.mark.parametrize("shape", [(3, 77, 8), (2, 154, 8)], ids=["another prompt", "a longer one"])
def test_where_they_do_not_fit_recordings_are_let_go_of(passes, shape):
    passes.read(text(1.0, 2, 77, 8))
    passes.noise._replays["of the first"] = passes.noise.compute
    longer = text(5.0, *shape)
    passes.read(longer)
    assert passes.forgotten == 1 and longer.sources["to_k"].shape == shape


def test_where_weights_have_moved_recordings_are_let_go_of(passes):
    passes.read(text(1.0, 2, 77, 8))
    passes.unet.weight = nn.Parameter(passes.unet.weight.detach().clone())
    passes.read(text(2.0, 2, 77, 8))
    assert passes.forgotten == 1


def test_where_nothing_is_recorded_nothing_is_copied(passes):
    first, second = text(1.0, 2, 77, 8), text(5.0, 2, 77, 8)
    place = second.sources["to_k"].data_ptr()
    passes.read(first)
    passes.read(second)
    assert second.sources["to_k"].data_ptr() == place and first.sources["to_k"].unique().tolist() == [1]
