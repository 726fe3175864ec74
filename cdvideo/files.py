"""Files that are written whole or not at all, and what a file system says when it cannot."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from cdvideo.errors import UserError

_PROBE_BYTES = 4096
_LEFT_BEHIND_SECONDS = 3600
ELSEWHERE = "give another path"

Content = bytes | Callable[[BinaryIO], None]
"""What a file will hold, or what writes it into an open, empty file that can be read and sought in."""


def check_writable(path: Path) -> None:
    """Nothing, where a file can be written to `path`. Call it before the work whose result goes there. Raises UserError otherwise."""
    if os.path.isdir(path):
        inside = path / f"NAME{path.suffix}"
        raise UserError(f"{path} cannot be written.", cause="it is a folder", remedy=f"give a file inside it, such as {inside}")
    probe_folder(Path(os.path.realpath(path)).parent, path, longest_name=path)


def check_free(paths: Iterable[Path], *, overwrite: bool) -> None:
    """Nothing, where the files can be written. Call it before the work. Raises UserError naming the first that is there already."""
    for path in paths:
        if os.path.lexists(path) and not os.path.isdir(path) and not overwrite:
            raise UserError(f"{path} exists already", remedy="give another --out, or replace it with --overwrite")
        check_writable(path)


def probe_folder(folder: Path, target: Path, *, longest_name: Path) -> None:
    """Nothing, where a few bytes can be written in `folder`, or in the nearest one above it that exists.

    A full disk, missing rights, a read-only disk and a name too long show here. Raises UserError about `target`.
    """
    with explained(target):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            longest_name.lstat()
        while not os.path.lexists(folder):
            folder = folder.parent
        if not os.path.isdir(folder):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())


@contextlib.contextmanager
def explained(target: Path) -> Iterator[None]:
    """A block in which a failure of the file system becomes a UserError about `target`."""
    try:
        yield
    except OSError as error:
        cause, remedy = _explain(error, target)
        raise UserError(f"{target} cannot be written.", cause=cause, remedy=remedy) from error


def _explain(error: OSError, target: Path) -> tuple[str, str]:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            full = "the disk is full" if error.errno == errno.ENOSPC else "your share of the disk is used up"
            return f"{full}{_free_space(target)}", "free some space there, or give a path on another disk"
        case errno.EFBIG:
            return "the file would be larger than this system or `ulimit -f` allows", "raise the limit, or render fewer frames"
        case errno.EACCES | errno.EPERM:
            return "permission denied", "give a folder that you may write to"
        case errno.EROFS:
            return "the disk is read-only", "give a path on a disk that can be written"
        case errno.ENAMETOOLONG:
            return "the name is too long for this disk", "give a shorter name"
        case errno.ENOTDIR:
            return f"{error.filename or 'a part of the path'} is a file, not a folder", "give a path through folders only"
    return error.strerror or str(error), ELSEWHERE


def _free_space(target: Path) -> str:
    for folder in target.absolute().parents:
        if os.path.isdir(folder):
            return f" ({shutil.disk_usage(folder).free / 1e6:.1f} MB free in {folder})"
    return ""


def replace_files(target: Path, files: Iterable[tuple[Path, Content]]) -> None:
    """Nothing; afterwards every file of `files` (path and content) is there in full, or none is and what was there still is.

    Everything is first written out under temporary names in the final folders, and only then renamed in the order given.
    Folders that are missing are made. Raises UserError about `target`, with temporary files and new folders removed; the same
    clearing up follows Ctrl-C and an exception from `files` itself or from what writes one.
    """
    staged: list[tuple[Path, Path]] = []
    made: list[Path] = []
    finished = False
    try:
        with explained(target):
            for path, content in files:
                # Through a link the file itself is replaced, not the link.
                final = Path(os.path.realpath(path))
                _make_folders(final.parent, made)
                if final.parent not in {staged_final.parent for _, staged_final in staged}:
                    _sweep(final.parent)
                temporary = final.with_name(f".cdvideo-{secrets.token_hex(6)}.partial")
                staged.append((temporary, final))
                with open(temporary, "x+b") as file:
                    if isinstance(content, bytes):
                        file.write(content)
                    else:
                        content(file)
                    file.flush()
                    os.fsync(file.fileno())
            for temporary, final in staged:
                os.replace(temporary, final)
            finished = True
    finally:
        for temporary, _ in staged:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        if not finished:
            for folder in reversed(made):
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _sweep(folder: Path) -> None:
    """Removes temporary files of processes that were killed while they wrote: those that nobody has written to for an hour."""
    for left in folder.glob(".cdvideo-*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _LEFT_BEHIND_SECONDS:
                left.unlink()


def _make_folders(folder: Path, made: list[Path]) -> None:
    missing = []
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        made.append(new)
