"""A clip into a file of the kind its name asks for, with the record inside and beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from cdvideo.errors import UserError
from cdvideo.files import explained, replace_files
from cdvideo.video.clip import Clip
from cdvideo.video.destination import (
    FRAME_NAME,
    Kind,
    StrPath,
    check_destination,
    kind_of,
    sidecar_of,
)
from cdvideo.video.encode import encode_gif, encode_mp4, encode_png, encode_webm


def write(clip: Clip, path: StrPath) -> Path:
    """The path, as a Path, where the clip now lies; by its suffix an .mp4, .webm, .gif, .png (one frame), else a folder.

    A folder holds frame_0000.png and so on; frames of an earlier, longer clip in it are removed, other files are left alone.
    The record is in the file's own metadata and as JSON beside it: `NAME.mp4.json`, `record.json` in a folder. An earlier file
    is replaced only by a complete one. Raises UserError where the path cannot be written or the format cannot hold the clip.
    """
    check_destination(path, num_frames=clip.num_frames, fps=clip.fps)
    kind = kind_of(path)
    target = Path(path)
    replace_files(target, _files(clip, target, kind))
    if kind == "folder":
        _remove_frames_from(clip.num_frames, target)
    return target


def _files(clip: Clip, target: Path, kind: Kind) -> Iterator[tuple[Path, bytes]]:
    if kind == "folder":
        for index, frame in enumerate(clip.frames):
            yield target / f"frame_{index:04d}.png", encode_png(frame, clip.fps)
    else:
        yield target, _encoded(clip, target, kind)
    sidecar = json.dumps(clip.record, ensure_ascii=False, indent=2) + "\n"
    # A lone surrogate, such as a badly decoded argument leaves in a prompt, becomes JSON's own escape for it.
    yield sidecar_of(target, kind), sidecar.encode("utf-8", errors="backslashreplace")


def _encoded(clip: Clip, target: Path, kind: Kind) -> bytes:
    import av

    try:
        match kind:
            case "mp4":
                return encode_mp4(clip)
            case "webm":
                return encode_webm(clip)
            case "gif":
                return encode_gif(clip)
            case _:
                return encode_png(clip.frames[0], clip.fps, clip.record)
    except av.codec.codec.UnknownCodecError as error:
        remedy = "install PyAV from its wheel (pip install --only-binary av av), or give a name that ends in .gif"
        raise UserError(f"{target} cannot be made.", cause=f"this PyAV has no encoder {error}", remedy=remedy) from error
    except av.FFmpegError as error:
        cause = f"the encoder refused {clip.num_frames} frames of {clip.width}x{clip.height}: {error.strerror}"
        raise UserError(f"{target} cannot be made.", cause=cause, remedy="give a folder (no suffix) for a PNG per frame") from error


def _remove_frames_from(num_frames: int, folder: Path) -> None:
    with explained(folder):
        for path in folder.iterdir():
            if (match := FRAME_NAME.fullmatch(path.name)) and int(match[1]) >= num_frames:
                path.unlink()
