"""Where a clip goes: what a path means, whether it can be written, and putting finished files there all or nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, get_args

from cdvideo.errors import UserError

Kind = Literal["mp4", "webm", "gif", "png", "folder"]
StrPath = str | os.PathLike[str]

RECORD_NAME = "record.json"
FRAME_NAME = re.compile(r"frame_(\d{4,})\.png")
_SUFFIXES: dict[str, Kind] = {f".{kind}": kind for kind in get_args(Kind) if kind != "folder"}
_FORMS = "NAME.mp4, NAME.webm, NAME.gif, NAME.png (one frame), or a folder (no suffix) for a PNG per frame"

# A GIF counts time in hundredths of a second, and browsers slow a delay of one down to ten.
GIF_MAX_FPS = 50.0
_PROBE_BYTES = 4096
_ELSEWHERE = "give another path"


def kind_of(path: StrPath) -> Kind:
    """What will be written at `path`, by its suffix in any case; without a suffix, or with a closing slash, a folder.

    Raises UserError where the suffix is of no known kind, unless a folder of that name exists.
    """
    as_path = Path(path)
    suffix = as_path.suffix.lower()
    if not suffix or os.fspath(path).endswith(("/", os.sep)):
        return "folder"
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if os.path.isdir(as_path):
        return "folder"
    raise UserError(f"cdvideo cannot write {as_path}.", cause=f'"{as_path.suffix}" is no format it knows', remedy=_FORMS)


def sidecar_of(path: Path, kind: Kind) -> Path:
    """The JSON file beside a video (`NAME.mp4.json`), or the one inside a folder of frames."""
    return path / RECORD_NAME if kind == "folder" else path.with_name(path.name + ".json")


def check_destination(path: StrPath, *, num_frames: int | None = None, fps: float | None = None) -> None:
    """Nothing, where a clip can be written to `path`. Call it before an expensive render.

    A few bytes are really written (to a nameless file) in the nearest folder that exists, so a full disk, missing rights and a
    read-only disk show up now; nothing stays behind and no folder is made. `num_frames` and `fps` (frames per second), where
    known, are held against what the format can do. Raises UserError that names the path, the cause and the way out.
    """
    kind = kind_of(path)
    target = Path(path)
    _check_format(target, kind, num_frames, fps)
    if kind == "folder" and os.path.exists(target) and not os.path.isdir(target):
        remedy = f"give a folder that is free, or a file name with a suffix: {_FORMS}"
        raise UserError(f"{target} cannot become a folder of frames.", cause="it is a file", remedy=remedy)
    for file in [sidecar_of(target, kind)] if kind == "folder" else [target, sidecar_of(target, kind)]:
        if os.path.isdir(file):
            remedy = f"give a file inside it, such as {file / ('clip' + target.suffix)}" if file == target else _ELSEWHERE
            raise UserError(f"{file} cannot be written.", cause="it is a folder", remedy=remedy)
    with explained(target):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            sidecar_of(target, kind).lstat()
        final = Path(os.path.realpath(target))
        folder = final if kind == "folder" else final.parent
        while not os.path.lexists(folder):
            folder = folder.parent
        if not os.path.isdir(folder):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())


def _check_format(target: Path, kind: Kind, num_frames: int | None, fps: float | None) -> None:
    if kind == "png" and num_frames is not None and num_frames > 1:
        raise UserError(
            f"{target} cannot hold a clip.",
            cause=f"a PNG is one picture, and there are {num_frames} frames",
            remedy=f"give a folder ({target.with_suffix('')}) for a PNG per frame, or a name that ends in .mp4, .webm or .gif",
        )
    if kind == "gif" and fps is not None and fps > GIF_MAX_FPS:
        raise UserError(
            f"{target} cannot run at {fps:g} frames per second.",
            cause=f"a GIF shows at most {GIF_MAX_FPS:g}",
            remedy=f"lower fps to {GIF_MAX_FPS:g} or less, or give a name that ends in .mp4",
        )


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
    return error.strerror or str(error), _ELSEWHERE


def _free_space(target: Path) -> str:
    for folder in target.absolute().parents:
        if os.path.isdir(folder):
            return f" ({shutil.disk_usage(folder).free / 1e6:.1f} MB free in {folder})"
    return ""


def replace_files(target: Path, files: Iterable[tuple[Path, bytes]]) -> None:
    """Nothing; afterwards every file of `files` (path and content) is there in full, or none is and what was there still is.

    Everything is first written out under temporary names in the final folders, and only then renamed in the order given.
    Folders that are missing are made. Raises UserError about `target`, with temporary files and new folders removed; the same
    clearing up follows Ctrl-C and an exception from `files` itself.
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
                temporary = final.with_name(f".cdvideo-{secrets.token_hex(6)}.partial")
                staged.append((temporary, final))
                with open(temporary, "xb") as file:
                    file.write(content)
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


def _make_folders(folder: Path, made: list[Path]) -> None:
    missing = []
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        made.append(new)
