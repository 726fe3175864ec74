"""Files that are written together, and never over others without being told to. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cdvideo.errors import UserError
from cdvideo.files import probe_folder, replace_files


@dataclass(frozen=True, kw_only=True)
class Export:
    """What was written: the files, and each token's name in the other program. `errors` are per layer, where something was lost."""

    files: tuple[Path, ...]
    tokens: Mapping[str, str]
    errors: Mapping[str, float] = field(default_factory=dict)
    relative_error: float = 0.0


def check_free(paths: Iterable[Path], *, overwrite: bool) -> None:
    """Nothing, where the files can be written. Call it before the work. Raises UserError naming the first that is there already."""
    for path in paths:
        if os.path.isdir(path):
            raise UserError(f"{path} cannot be written", cause="it is a folder", remedy="give another --out")
        if os.path.lexists(path) and not overwrite:
            raise UserError(f"{path} exists already", remedy="give another --out, or replace it with --overwrite")
        probe_folder(Path(os.path.realpath(path)).parent, path, longest_name=path)


def write_new(target: Path, files: Mapping[Path, bytes], *, overwrite: bool) -> None:
    """Writes all files or none. Raises UserError about `target`, or naming a file that is there already."""
    check_free(files, overwrite=overwrite)
    replace_files(target, files.items())
