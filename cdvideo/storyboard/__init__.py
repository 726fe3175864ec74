"""Storyboards: a YAML file of shots becomes a film.

Names are imported when first used, so that checking a file needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdvideo.storyboard.checking import check, read_storyboard
    from cdvideo.storyboard.film import Film, render
    from cdvideo.storyboard.planning import FilmPlan, PlannedShot, plan_film
    from cdvideo.storyboard.script import Storyboard
    from cdvideo.storyboard.takes import slug

__all__ = ["Film", "FilmPlan", "PlannedShot", "Storyboard", "check", "plan_film", "read_storyboard", "render", "slug"]

_HOMES = {
    "Film": "film",
    "FilmPlan": "planning",
    "PlannedShot": "planning",
    "Storyboard": "script",
    "check": "checking",
    "plan_film": "planning",
    "read_storyboard": "checking",
    "render": "film",
    "slug": "takes",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
