"""Where a clip goes: what a path means, whether it can be written, and putting finished files there all or nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal, get_args

from cdvideo.errors import UserError
from cdvideo.files import ELSEWHERE, explained, probe_folder

Kind = Literal["mp4", "webm", "gif", "png", "folder"]
StrPath = str | os.PathLike[str]

RECORD_NAME = "record.json"
PNG_RECORD_KEY, PNG_FPS_KEY = "cdvideo", "cdvideo-fps"
FRAME_NAME = re.compile(r"frame_(\d{4,})\.png")
_SUFFIXES: dict[str, Kind] = {f".{kind}": kind for kind in get_args(Kind) if kind != "folder"}
_FORMS = "NAME.mp4, NAME.webm, NAME.gif, NAME.png (one frame), or a folder (no suffix) for a PNG per frame"

# A GIF counts time in hundredths of a second, and browsers slow a delay of one down to ten.
GIF_MAX_FPS = 50.0


def kind_of(path: StrPath) -> Kind:
    """What will be written at `path`, by its suffix in any case; without a suffix, or with a closing slash, a folder.

    Raises UserError where the suffix is of no known kind, unless a folder of that name exists.
    """
    as_path = Path(path)
    if as_path == Path():
        raise UserError("cdvideo cannot write a clip to no name.", cause="it would lie about in the working folder", remedy=_FORMS)
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
    if kind == "folder" and os.path.isdir(target):
        _check_own_frames(target)
    for file in [sidecar_of(target, kind)] if kind == "folder" else [target, sidecar_of(target, kind)]:
        if os.path.isdir(file):
            remedy = f"give a file inside it, such as {file / ('clip' + target.suffix)}" if file == target else ELSEWHERE
            raise UserError(f"{file} cannot be written.", cause="it is a folder", remedy=remedy)
    final = Path(os.path.realpath(target))
    probe_folder(final if kind == "folder" else final.parent, target, longest_name=sidecar_of(target, kind))


def _check_own_frames(folder: Path) -> None:
    """Nothing, where a folder holds no frames and record but those of an earlier clip, which a new one may replace."""
    with explained(folder):
        frames = [path for path in folder.iterdir() if FRAME_NAME.fullmatch(path.name)]
    foreign = next((path for path in sorted(frames) if not _is_own_png(path)), None)
    if foreign is None and not frames and os.path.exists(folder / RECORD_NAME):
        foreign = folder / RECORD_NAME
    if foreign:
        cause = f"{foreign.name} in it is not of a clip that cdvideo wrote, and would be lost"
        raise UserError(f"{folder} cannot become a folder of frames.", cause=cause, remedy="give a folder that is free")


def _is_own_png(path: Path) -> bool:
    """Whether a file is a PNG that cdvideo wrote."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return PNG_FPS_KEY in picture.info
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


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
