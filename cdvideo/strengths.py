"""A name and how strong what it names is to be, as users write them: "bear.safetensors:0.8". Imports no torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from cdvideo.errors import UserError
from cdvideo.numbers import is_number, plain_number, written

MOST_STRENGTH = 10
"""Beyond it, forth or back, pictures are noise."""


def split_strength(text: str, *, what: str, example: str) -> tuple[str, float]:
    """(name, strength) from "zoom-in" or "pan-left:0.6"; of a file that is there, and without a last colon, all is the name, at strength 1.

    `what` it is the strength of and an `example` of the whole are for the error. Raises UserError for a strength that is none;
    but what has a slash behind the colon is a path or an address.
    """
    name, colon, tail = text.rpartition(":")
    if not colon or Path(text).exists() or "/" in tail or "\\" in tail:
        return text, 1.0
    try:
        strength = float(tail)
    except ValueError:
        strength = math.nan
    if not math.isfinite(strength):
        raise UserError(f"{tail or 'nothing'} is no strength of {what}", remedy=f"write a number behind the colon, such as {example}")
    check_strength(strength, of=what)
    return name, strength


def check_strength(strength: Any, *, of: str) -> float:
    """The strength as one of Python's numbers. Raises UserError for what is none, or is too far from what was trained."""
    if not is_number(strength) or not abs(strength) <= MOST_STRENGTH:
        remedy = f"strengths go from -{MOST_STRENGTH} to {MOST_STRENGTH}; 1 is as it was trained"
        raise UserError(f"{written(strength)} is no strength of {of}", remedy=remedy)
    return plain_number(strength)
