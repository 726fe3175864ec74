"""Frames into a file of the kind its name asks for, with the record inside and beside it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cdvideo.errors import UserError
from cdvideo.files import Content, explained, replace_files
from cdvideo.video.clip import Clip
from cdvideo.video.destination import (
    FRAME_NAME,
    Kind,
    StrPath,
    check_destination,
    kind_of,
    sidecar_of,
)
from cdvideo.video.encode import Footage, encode_gif, encode_mp4, encode_png, encode_webm
from cdvideo.video.sound import Sound
from cdvideo.video.subtitles import Cue


def write(clip: Clip, path: StrPath) -> Path:
    """The path, as a Path, where the clip now lies; by its suffix an .mp4, .webm, .gif, .png (one frame), else a folder.

    A folder holds frame_0000.png and so on; frames of an earlier, longer clip in it are removed, other files are left alone.
    The record is in the file's own metadata and as JSON beside it: `NAME.mp4.json`, `record.json` in a folder. An earlier file
    is replaced only by a complete one. Raises UserError where the path cannot be written or the format cannot hold the clip.
    """
    return write_frames(lambda: clip.frames, path, num_frames=clip.num_frames, fps=clip.fps, record=clip.record)


def write_frames(
    frames: Callable[[], Iterable[NDArray[np.uint8]]],
    path: StrPath,
    *,
    num_frames: int,
    fps: float,
    record: dict[str, Any],
    sound: Sound | None = None,
    cues: Sequence[Cue] = (),
) -> Path:
    """As `write`, of frames that are made while they are written, so that a film of any length needs no more memory than a short one.

    `frames` gives all (H, W, 3) uint8 RGB frames of one size, from the first on, whenever it is called: once, and twice for a
    GIF, whose palette comes from all of them. An MP4 takes a sound (AAC) and captions (mov_text), a WebM too (Opus, WebVTT).
    Raises UserError as `write` and `check_sound` do, ValueError for a sound or captions in a format that has none, and for
    another number of frames than `num_frames`.
    """
    check_destination(path, num_frames=num_frames, fps=fps)
    kind = kind_of(path)
    target = Path(path)
    if (sound or cues) and kind not in ("mp4", "webm"):
        raise ValueError(f"{target} holds neither sound nor captions")
    footage = Footage(frames=frames, num_frames=num_frames, fps=fps, record=record, sound=sound, cues=cues)
    replace_files(target, _files(footage, target, kind))
    if kind == "folder":
        _remove_frames_from(num_frames, target)
    return target


def _files(footage: Footage, target: Path, kind: Kind) -> Iterator[tuple[Path, Content]]:
    if kind == "folder":
        for index, frame in enumerate(footage.frames()):
            yield target / f"frame_{index:04d}.png", encode_png(frame, footage.fps)
    elif kind == "png":
        (frame,) = footage.frames()
        yield target, encode_png(frame, footage.fps, footage.record)
    else:
        yield target, functools.partial(_encode, footage, target, kind)
    sidecar = json.dumps(footage.record, ensure_ascii=False, indent=2) + "\n"
    # A lone surrogate, such as a badly decoded argument leaves in a prompt, becomes JSON's own escape for it.
    yield sidecar_of(target, kind), sidecar.encode("utf-8", errors="backslashreplace")


def _encode(footage: Footage, target: Path, kind: Kind, file: BinaryIO) -> None:
    import av

    try:
        match kind:
            case "mp4":
                encode_mp4(footage, file)
            case "webm":
                encode_webm(footage, file)
            case _:
                encode_gif(footage, file)
    except av.codec.codec.UnknownCodecError as error:
        remedy = "install PyAV from its wheel (pip install --only-binary av av), or give a name that ends in .gif"
        raise UserError(f"{target} cannot be made.", cause=f"this PyAV has no encoder {error}", remedy=remedy) from error
    except av.FFmpegError as error:
        cause = f"the encoder refused {footage.num_frames} frames: {error.strerror}"
        raise UserError(f"{target} cannot be made.", cause=cause, remedy="give a folder (no suffix) for a PNG per frame") from error


def _remove_frames_from(num_frames: int, folder: Path) -> None:
    with explained(folder):
        for path in folder.iterdir():
            if (match := FRAME_NAME.fullmatch(path.name)) and int(match[1]) >= num_frames:
                path.unlink()
