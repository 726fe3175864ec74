"""Whose film a folder holds: no film replaces that of another storyboard, or files that are nobody's film."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cdvideo.errors import UserError
from cdvideo.files import replace_files
from cdvideo.storyboard.makings import MEMORY

_OWNER_NAME = "film.json"
"""Beside the takes: says where the storyboard of the film lies."""
SHOTS = "shots"
"""The folder of the takes, within a film's."""


def check_own(out: Path, files: Iterable[Path], source: Path) -> None:
    """Nothing, where the film of the storyboard `source` may be written to `out`. Raises UserError where `files` are not of its film.

    A film belongs to a storyboard for as long as that is where it was: one that has moved takes its film along.
    """
    owner = _owner(out)
    if owner and owner != source.resolve() and owner.is_file():
        remedy = "give another title or --out, or replace it with --overwrite"
        raise UserError(f"{out} holds the film of another storyboard, {owner}", remedy=remedy)
    is_films = owner is not None or (out / SHOTS / MEMORY).exists()
    if foreign := next((file for file in files if os.path.lexists(file) and not is_films), None):
        raise UserError(
            f"{foreign} exists already",
            cause="it is of no film that was rendered there",
            remedy="give another --out, or replace it with --overwrite",
        )


def own(out: Path, source: Path) -> None:
    """Says in `out` that the film there is the storyboard's."""
    file = out / SHOTS / _OWNER_NAME
    replace_files(file, [(file, json.dumps({"storyboard": str(source.resolve())}).encode())])


def films_of(source: Path, films: Path) -> Iterator[Path]:
    """The folders in `films` that hold a film of the storyboard."""
    if films.is_dir():
        yield from (folder for folder in sorted(films.iterdir()) if _owner(folder) == source.resolve())


def _owner(out: Path) -> Path | None:
    """The storyboard of the film in `out`; None where there is none, or nobody knows."""
    try:
        return Path(json.loads((out / SHOTS / _OWNER_NAME).read_text(encoding="utf-8"))["storyboard"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
