"""What is replayed gives what it would compute, whatever it is given between, and what it gave before stays as it was."""

import pytest
import torch

from cdvideo.base import graphs
from cdvideo.base.graphs import PLAIN_CALLS, Replayed
from cdvideo.errors import UserNote


@pytest.fixture
def recordings(monkeypatch):
    """Lets the CPU record: a recording reads and writes the same memory at every replay, as a CUDA graph does."""
    made = []

    class Graph:
        def __init__(self):
            made.append(self)

        def replay(self):
            again = self.compute()
            for place, value in zip(self.written, again if isinstance(again, tuple) else (again,), strict=True):
                place.copy_(value)

    class recording:
        def __init__(self, graph):
            self.graph = graph

        def __enter__(self):
            pass

        def __exit__(self, *error):
            pass

    usual = graphs._Recording.__init__

    def init(self, compute, inputs):
        usual(self, compute, inputs)
        self._graph.compute = lambda: compute(*self._read)
        self._graph.written = self._written if isinstance(self._written, tuple) else (self._written,)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    monkeypatch.setattr(graphs._Recording, "__init__", init)
    return made


def test_each_kind_of_input_is_recorded_once(recordings):
    replayed = Replayed(lambda one, other: (one + other, one * other), records=True)
    kept = []
    for size in (2, 3):
        for number in range(PLAIN_CALLS + 3):
            one, other = torch.full((size,), float(number)), torch.full((size,), 2.0)
            kept.append((replayed(one, other), one + other, one * other))
    assert len(recordings) == 2
    assert all(torch.equal(found[0], total) and torch.equal(found[1], product) for found, total, product in kept)


def test_a_single_tensor_comes_back_as_one(recordings):
    replayed = Replayed(torch.sin, records=True)
    found = [replayed(torch.tensor([value])) for value in (0.1, 0.2, 0.3, 0.4)]
    assert recordings and [float(value) for value in found] == [float(torch.tensor(value).sin()) for value in (0.1, 0.2, 0.3, 0.4)]


def test_what_cannot_be_recorded_is_computed_and_said(monkeypatch):
    class Refusing:
        def __init__(self):
            raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Refusing)
    replayed = Replayed(torch.cos, records=True)
    values = [torch.tensor(value) for value in (0.1, 0.2, 0.3, 0.4)]
    with pytest.warns(UserNote, match="cannot be recorded.*not permitted") as said:
        assert [replayed(value) for value in values] == [value.cos() for value in values]
    assert len(said) == 1


def test_elsewhere_nothing_is_recorded(recordings):
    replayed = Replayed(torch.cos, records=False)
    for _ in range(PLAIN_CALLS + 2):
        replayed(torch.tensor(0.5))
    assert not recordings
