"""Whose film a folder holds: no film replaces that of another storyboard, or files that are nobody's film."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cdvideo.errors import UserError
from cdvideo.files import replace_files

_OWNER_NAME = "film.json"
"""Beside the takes: where the storyboard lies, and the names of the film's files."""
SHOTS = "shots"
"""The folder of the takes, within a film's."""


def check_owner(out: Path, source: Path) -> None:
    """Nothing, where the folder `out` holds no film but the storyboard's. Raises UserError.

    A film belongs to a storyboard for as long as that is where it was: one that has moved takes its film along.
    """
    owner = _said(out).get("storyboard")
    if owner and Path(owner) != source.resolve() and os.path.isfile(owner):
        remedy = "give another title or --out, or replace it with --overwrite"
        raise UserError(f"{out} holds the film of another storyboard, {owner}", remedy=remedy)


def check_files(out: Path, files: Iterable[Path]) -> None:
    """Nothing, where none of `files` in `out` is there but as a film's. Raises UserError.

    In a folder with takes of before films said what is theirs, all are.
    """
    names = _said(out).get("files")
    if names is None and next((out / SHOTS).glob("*/record.json"), None):
        return
    if foreign := next((file for file in files if os.path.lexists(file) and file.name not in (names or ())), None):
        remedy = "give another --out, or replace it with --overwrite"
        raise UserError(f"{foreign} exists already", cause="it is of no film that was rendered there", remedy=remedy)


def own(out: Path, source: Path, files: Iterable[Path]) -> None:
    """Says in `out` that the film there is the storyboard's, and `files` of it are the film's, with those of before."""
    file = out / SHOTS / _OWNER_NAME
    names = sorted({*_said(out).get("files", ()), *(path.name for path in files)})
    replace_files(file, [(file, json.dumps({"storyboard": str(source.resolve()), "files": names}).encode())])


def films_of(source: Path, folders: Iterable[Path]) -> Iterator[Path]:
    """Those of the folders that hold a film of the storyboard."""
    yield from (folder for folder in folders if _said(folder).get("storyboard") == str(source.resolve()))


def _said(out: Path) -> dict[str, Any]:
    try:
        said = json.loads((out / SHOTS / _OWNER_NAME).read_text(encoding="utf-8"))
        return {"storyboard": str(said["storyboard"]), "files": [str(name) for name in said["files"]]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
