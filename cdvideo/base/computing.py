"""Layers of a library that compute, for a while, as a class of ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def computing_as(classes: Iterable[tuple[nn.Module, type[nn.Module]]]) -> Iterator[None]:
    """Within it, each of the layers computes as one of that class, with its own parameters."""
    changed: list[tuple[nn.Module, type[nn.Module]]] = []
    try:
        for layer, kind in classes:
            changed.append((layer, type(layer)))
            layer.__class__ = kind
        yield
    finally:
        for layer, before in reversed(changed):
            layer.__class__ = before
