"""A clip, its record or its description out of a file; the content decides what a file is, not its name."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cdvideo.errors import UserError, UserNote
from cdvideo.video.clip import Clip
from cdvideo.video.destination import FRAME_NAME, PNG_FPS_KEY, PNG_RECORD_KEY, Kind, StrPath, sidecar_of
from cdvideo.video.gather import gathered
from cdvideo.video.gif_bytes import parse_gif
from cdvideo.video.libav import filtered, to_rgb

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

# For pictures that carry no rate, as those of other programs do.
_FALLBACK_FPS = 8.0
_READABLE = "give an .mp4, .webm, .gif, .png or a folder of frame_0000.png, frame_0001.png, ..."


def read(path: StrPath, *, most: int | None = None) -> Clip:
    """The Clip in an MP4, WebM, GIF, PNG or folder of frames, with its record ({} where there is none).

    Of its frames, the first `most` are decoded, or all. They are 8-bit RGB at the file's own size; `fps` is the mean rate, and 8 for
    pictures that carry none. Raises UserError where there is no such file, where it is of another kind, and where it is damaged or ends
    early.
    """
    file = Path(path)
    with _damage_explained(file):
        match kind := _kind_on_disk(file):
            case "folder":
                frames, fps = _read_pngs(_frame_files(file)[:most])
            case "png":
                frames, fps = _read_pngs([file])
            case "gif":
                frames, fps = _read_gif(file, most)
            case _:
                frames, fps = _read_video(file, most)
        return Clip(frames=frames, fps=fps, record=_record(file, kind) or {})


def read_record(path: StrPath) -> dict[str, Any] | None:
    """The record in the file's metadata, else in the JSON beside it, else None. Raises UserError as `read` does."""
    file = Path(path)
    with _damage_explained(file):
        return _record(file, _kind_on_disk(file))


def describe(path: StrPath) -> dict[str, Any]:
    """What `cdvideo info` shows: kind, path, width, height (pixels), num_frames, fps, duration (seconds), codec, bytes, record.

    `record` is None where there is none. No picture is decoded; of a video that ends early, what is there is told, with a note. Raises
    UserError as `read` does.
    """
    file = Path(path)
    with _damage_explained(file):
        kind = _kind_on_disk(file)
        match kind:
            case "folder" | "png":
                width, height, num_frames, fps, codec = _describe_pngs(_frame_files(file) if kind == "folder" else [file])
            case "gif":
                layout = parse_gif(file.read_bytes())
                width, height, num_frames, fps, codec = layout.width, layout.height, len(layout.delays), layout.fps, "gif"
            case _:
                width, height, num_frames, fps, codec = _describe_video(file)
        parts = [file] if kind != "folder" else [*_frame_files(file), sidecar_of(file, kind)]
        return {
            "kind": kind,
            "path": str(file),
            "width": width,
            "height": height,
            "num_frames": num_frames,
            "fps": fps,
            "duration": num_frames / fps,
            "codec": codec,
            "bytes": sum(part.stat().st_size for part in parts if part.exists()),
            "record": _record(file, kind),
        }


@contextlib.contextmanager
def _damage_explained(file: Path) -> Iterator[None]:
    import av
    from PIL import Image

    try:
        yield
    except FileNotFoundError:
        raise UserError(f"There is no {file}.", remedy="check the path") from None
    except PermissionError as error:
        raise UserError(f"{file} cannot be read.", cause="permission denied", remedy="change its rights") from error
    except (av.FFmpegError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow reports a broken PNG chunk as a SyntaxError.
        cause = (error.strerror if isinstance(error, OSError | av.FFmpegError) else None) or str(error)
        raise UserError(f"{file} cannot be read as a clip.", cause=cause, remedy=_READABLE) from error


def _kind_on_disk(file: Path) -> Kind:
    if file.is_dir():
        return "folder"
    with open(file, "rb") as opened:
        head = opened.read(12)
    if head.startswith(b"GIF8"):
        return "gif"
    if head.startswith(b"\x89PNG"):
        return "png"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "webm"
    if head[4:8] == b"ftyp":
        return "mp4"
    raise ValueError("it is empty" if not head else "it does not start as an MP4, a WebM, a GIF or a PNG does")


def _record(file: Path, kind: Kind) -> dict[str, Any] | None:
    for text in _metadata_texts(file, kind):
        with contextlib.suppress(ValueError):
            found = json.loads(text)
            if isinstance(found, dict):
                return found
    sidecar = sidecar_of(file, kind)
    if not sidecar.is_file():
        return None
    try:
        found = json.loads(sidecar.read_bytes())
    except ValueError as error:
        raise UserError(f"{sidecar} is no record.", cause=f"not JSON: {error}", remedy="delete it, or render again") from error
    return found if isinstance(found, dict) else None


def _metadata_texts(file: Path, kind: Kind) -> list[str]:
    from PIL import Image

    match kind:
        case "folder":
            return []
        case "gif":
            return list(parse_gif(file.read_bytes()).comments)
        case "png":
            with Image.open(file, formats=["PNG"]) as image:
                return [str(value) for key, value in image.info.items() if key == PNG_RECORD_KEY]
        case _:
            with _opened(file) as (container, _):
                # Matroska shouts its keys.
                return [value for key, value in container.metadata.items() if key.lower() == "comment"]


def _frame_files(folder: Path) -> list[Path]:
    numbered = [(int(match[1]), path) for path in folder.iterdir() if (match := FRAME_NAME.fullmatch(path.name))]
    if not numbered:
        raise ValueError("no frame_0000.png is in the folder")
    numbered.sort()
    for expected, (number, path) in enumerate(numbered):
        if number != expected:
            raise ValueError(f"a frame is missing before {path.name}")
    return [path for _, path in numbered]


def _read_pngs(files: list[Path]) -> tuple[NDArray[np.uint8], float]:
    from PIL import Image

    fps = _FALLBACK_FPS

    def pictures() -> Iterator[NDArray[np.uint8]]:
        nonlocal fps
        shape = None
        for file in files:
            with Image.open(file, formats=["PNG"]) as image:
                fps = float(image.info.get(PNG_FPS_KEY, fps))
                pixels = np.asarray(image.convert("RGB"))
            if pixels.shape != (shape := shape or pixels.shape):
                raise ValueError(f"{file.name} has another size than {files[0].name}")
            yield pixels

    return gathered(pictures()), fps


def _describe_pngs(files: list[Path]) -> tuple[int, int, int, float, str]:
    from PIL import Image

    with Image.open(files[0], formats=["PNG"]) as image:
        return image.width, image.height, len(files), float(image.info.get(PNG_FPS_KEY, _FALLBACK_FPS)), "png"


def _read_gif(file: Path, most: int | None) -> tuple[NDArray[np.uint8], float]:
    from PIL import Image, ImageSequence

    layout = parse_gif(file.read_bytes())
    with Image.open(file, formats=["GIF"]) as image:
        frames = gathered(np.asarray(frame.convert("RGB")) for frame in itertools.islice(ImageSequence.Iterator(image), most))
    if len(frames) != len(layout.delays[:most]):
        raise ValueError(f"{len(frames)} of its {len(layout.delays)} frames can be decoded")
    return frames, layout.fps


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    import av

    with av.open(str(file), metadata_errors="replace") as container:
        if not container.streams.video:
            raise ValueError("it holds no pictures")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise ValueError("its pictures are in a format that this PyAV cannot decode")
        yield container, stream


def _fps_of(stream: VideoStream) -> float:
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else _FALLBACK_FPS


def _read_video(file: Path, most: int | None) -> tuple[NDArray[np.uint8], float]:
    end = -math.inf
    with _opened(file) as (container, stream):
        fps = _fps_of(stream)
        stream.thread_type = "AUTO"

        def pictures() -> Iterator[NDArray[np.uint8]]:
            nonlocal end
            for frame in itertools.islice(filtered(container.decode(stream), to_rgb), most):
                end = (frame.time or 0.0) + 1 / fps
                yield np.asarray(frame.to_ndarray(), dtype=np.uint8)
            if end == -math.inf:
                raise ValueError("none of its frames can be decoded")

        frames = gathered(pictures())
        if len(frames) != most and (promised := _promised_where_short(container, stream, len(frames), end, fps)):
            raise ValueError(f"it ends early: {len(frames)} of {promised} frames can be decoded")
    return frames, fps


def _promised_where_short(container: InputContainer, stream: VideoStream, num_frames: int, end: float, fps: float) -> int | None:
    """How many frames the file promises, where these, up to `end` in seconds, are fewer. To be asked once all has been read."""
    if "mp4" in container.format.name:
        # libav's index knows what was cut off without being encoded again, as phones cut, of which the file still counts the frames.
        shown = [entry for entry in stream.index_entries if not entry.is_discard]
        is_short = num_frames < stream.frames == len(shown)
        return len(shown) if is_short or any(entry.pos + entry.size > container.size for entry in shown) else None
    promised_end = _promised_end(stream)
    return round(promised_end * fps) if end < promised_end - 0.5 / fps else None


def _promised_end(stream: VideoStream) -> float:
    # Matroska counts no frames, but a finished file says how long each stream is; the container's own time includes sound.
    text = next((value for key, value in stream.metadata.items() if key.upper() == "DURATION"), "0")
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def _describe_video(file: Path) -> tuple[int, int, int, float, str]:
    with _opened(file) as (container, stream):
        fps = _fps_of(stream)
        num_frames, end = 0, 0.0
        for packet in container.demux(stream):
            if packet.size and not packet.is_corrupt and not packet.is_discard:
                num_frames += 1
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if promised := _promised_where_short(container, stream, num_frames, end, fps):
            warnings.warn(f"{file} ends early: {num_frames} of {promised} frames are there", UserNote, stacklevel=2)
        return stream.width, stream.height, num_frames, fps, stream.codec_context.name
