"""Numbers of Python's own and of other kinds, such as NumPy's: told from what is none, and as JSON and errors write them."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, of Python's own or another kind, such as NumPy's."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def plain_number(value: Real | float) -> int | float:
    """A number as one of Python's own, which JSON knows."""
    return int(value) if isinstance(value, Integral) else float(value)


def written(value: Any) -> str:
    """A value as an error names it: a number shortly, and what is none so that it is seen to be none."""
    if is_whole(value):
        return str(value)
    return f"{value:g}" if is_number(value) else repr(value)
