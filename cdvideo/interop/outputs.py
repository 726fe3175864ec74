"""Files that are written together, and never over others without being told to. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cdvideo.files import check_free, replace_files


@dataclass(frozen=True, kw_only=True)
class Export:
    """What was written: the files, and each token's name in the other program. `errors` are per layer, where something was lost."""

    files: tuple[Path, ...]
    tokens: Mapping[str, str]
    errors: Mapping[str, float] = field(default_factory=dict)
    relative_error: float = 0.0


def write_new(target: Path, files: Mapping[Path, bytes], *, overwrite: bool) -> None:
    """Writes all files or none. Raises UserError about `target`, or naming a file that is there already."""
    check_free(files, overwrite=overwrite)
    replace_files(target, files.items())
