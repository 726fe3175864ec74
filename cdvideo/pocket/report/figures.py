"""The report's figures: each measure with its count, its interval, its target, and whether it is met."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cdvideo.pocket.report.intervals import bootstrap, wilson


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured value over `count` trials and its 95 % interval; None where it could not be measured, and `note` says why."""

    value: float | None
    count: int = 0
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a figure is to reach: at least the target, or at most it. `unit` is "%", "dB", "s", or nothing for a cosine."""

    title: str
    target: float
    unit: str
    at_most: bool = False

    def met(self, figure: Figure) -> bool | None:
        if figure.value is None:
            return None
        return figure.value <= self.target if self.at_most else figure.value >= self.target


GOALS: dict[str, Goal] = {
    "psnr_db": Goal(title="Autoencoder PSNR on held-out scenes", target=29, unit="dB"),
    "subject": Goal(title="Subject class right", target=0.92, unit="%"),
    "worn": Goal(title="Worn thing present", target=0.85, unit="%"),
    "held": Goal(title="Held thing present", target=0.85, unit="%"),
    "place": Goal(title="Place right", target=0.95, unit="%"),
    "all": Goal(title="All named parts right at once", target=0.75, unit="%"),
    "motion": Goal(title="Motion direction or kind right", target=0.85, unit="%"),
    "identity": Goal(title="Subject identity kept from frame to frame (CLIP cosine)", target=0.95, unit=""),
    "camera": Goal(title="Camera MotionLoRA does what its name says", target=0.90, unit="%"),
    "still_s": Goal(title="A still picture", target=2, unit="s", at_most=True),
    "clip_s": Goal(title="A clip of 16 frames", target=20, unit="s", at_most=True),
}


ALSO: dict[str, tuple[str, str]] = {
    "colour": ("Colour of the subject right, where one is named", "%"),
    "worn_unasked": ("Something worn where the prompt names nothing", "%"),
    "held_unasked": ("Something held where the prompt names nothing", "%"),
    "identity_to_first": ("Subject's CLIP cosine with its first frame", ""),
    "identity_world": ("Identity in clips that the picture world paints itself", ""),
    "psnr_photos_db": ("Autoencoder PSNR on the photos in samples/", "dB"),
}
"""Titles and units of the figures that have no target."""

JUDGE_TARGET = 0.97
"""What the judge's own accuracy is to reach, for each label."""


def rate(hits: Sequence[bool], note: str = "") -> Figure:
    if not hits:
        return missing(note or "nothing to count")
    low, high = wilson(sum(hits), len(hits))
    return Figure(value=sum(hits) / len(hits), count=len(hits), low=low, high=high, note=note)


def mean(values: Sequence[float], note: str = "") -> Figure:
    if not values:
        return missing(note or "nothing to measure")
    low, high = bootstrap([values])
    return Figure(value=float(np.mean(values)), count=len(values), low=low, high=high, note=note)


def median(values: Sequence[float], note: str = "") -> Figure:
    """Its interval is the range of the values: five say no more."""
    return Figure(value=float(np.median(values)), count=len(values), low=min(values), high=max(values), note=note)


def missing(note: str) -> Figure:
    return Figure(value=None, note=note)


def shown(value: float | None, unit: str) -> str:
    if value is None or math.isnan(value):
        return "–"
    return {"%": f"{100 * value:.1f} %", "dB": f"{value:.1f} dB", "s": f"{value:.2f} s"}.get(unit, f"{value:.3f}")


def as_json(figures: dict[str, Figure], extra: dict[str, Any]) -> dict[str, Any]:
    """The headline keys as plain numbers, all about each of them under "details", and everything else."""
    details = {}
    for key, figure in figures.items():
        goal = GOALS.get(key)
        about = {"target": goal.target, "at_most": goal.at_most, "unit": goal.unit, "met": goal.met(figure)} if goal else {}
        details[key] = {**asdict(figure), **about}
    headline = {key: figures[key].value if key in figures else None for key in GOALS}
    return {**headline, "details": details, **extra}
