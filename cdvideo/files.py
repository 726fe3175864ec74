"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cdvideo.errors import UserError


def check_writable(path: Path) -> None:
    """Makes sure, before any work is done for it, that a file can be written there. Raises UserError where it cannot."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a file", remedy=f"name a file: {path / 'NAME'}{path.suffix}")
    existing = path.absolute().parent
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"cannot write {path}", cause=f"{existing} is a file, not a folder", remedy="choose another place with --out")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {path}", cause=f"no permission to write in {existing}", remedy="choose another place with --out")


@contextmanager
def replacing(path: Path, what: str) -> Iterator[Path]:
    """A temporary path beside `path` to write to, which takes its place at the end of the block.

    Where anything fails the temporary file goes and what lay at `path` stays; a failure to write becomes a UserError that names `what`.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"cannot write the {what} {path}", cause=str(error), remedy="free some space there, or choose another place with --out"
        ) from error
    finally:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            # The folder itself cannot be reached: the error above has said so.
            pass
