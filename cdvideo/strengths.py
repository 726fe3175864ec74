"""A name and how strong what it names is to be, as users write them: "bear.safetensors:0.8". Imports no torch."""

from __future__ import annotations

import math
from pathlib import Path

from cdvideo.errors import UserError


def split_strength(text: str, *, what: str, example: str) -> tuple[str, float]:
    """(name, strength) from "zoom-in" or "pan-left:0.6"; without a number behind the last colon, all of it is the name, at strength 1.

    `what` it is the strength of and an `example` of the whole are for the error. Raises UserError for a strength that is not finite.
    """
    name, colon, tail = text.rpartition(":")
    if not colon or Path(text).exists():
        return text, 1.0
    try:
        strength = float(tail)
    except ValueError:
        return text, 1.0
    if not math.isfinite(strength):
        raise UserError(f"{tail} is no strength of {what}", remedy=f"write a number behind the colon, such as {example}")
    return name, strength
