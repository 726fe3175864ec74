"""A clip as the bytes of a file, the record inside. Everything happens in memory, so a failing disk cannot spoil half a file."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cdvideo.video.clip import Clip
from cdvideo.video.gif_bytes import with_comment
from cdvideo.video.libav import BT709, LIMITED_RANGE, filtered, rgb_to_bt709, two_pass_palette

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import OutputContainer
    from av.video.stream import VideoStream

    from cdvideo.video.libav import Wiring

PNG_RECORD_KEY, PNG_FPS_KEY = "cdvideo", "cdvideo-fps"

# Visually lossless at the sizes that SD1.5 renders; the two scales differ, the qualities match.
_H264_CRF, _VP9_CRF = 17, 22
_SECONDS_BETWEEN_KEY_FRAMES = 2
# 24000/1001 is the finest rate in common use.
_MAX_RATE_DENOMINATOR = 1001


def record_to_text(record: dict[str, Any]) -> str:
    """The record as JSON in one line of 7-bit ASCII, which every container carries unchanged."""
    return json.dumps(record, ensure_ascii=True, separators=(",", ":"))


def encode_mp4(clip: Clip) -> bytes:
    """An MP4 file: H.264, yuv420p, BT.709, the index in front of the pictures, the record as the `comment` tag.

    Where width or height is odd, the last column or row is doubled, because H.264 has no odd sizes in 4:2:0.
    """
    options = {"crf": str(_H264_CRF), "preset": "slow"}
    return _encode_video(clip, "mp4", "libx264", options, {"movflags": "+faststart"}, _evened(clip.frames))


def encode_webm(clip: Clip) -> bytes:
    """A WebM file: VP9, yuv420p, BT.709, the record as the `comment` tag. Odd sizes stay as they are."""
    options = {"crf": str(_VP9_CRF), "b": "0", "deadline": "good", "cpu-used": "2", "row-mt": "1"}
    return _encode_video(clip, "webm", "libvpx-vp9", options, {}, clip.frames)


def encode_gif(clip: Clip) -> bytes:
    """A GIF file that loops for ever: one palette for the whole clip, ordered dithering, the record as its comment.

    A GIF counts hundredths of a second; delays alternate so that the mean rate stays `clip.fps`, and the last frame stays for
    what is left of the whole duration.
    """
    # As libav rounds the other delays: halves upwards.
    ends = [math.floor(100 * count / clip.fps + 0.5) for count in (clip.num_frames - 1, clip.num_frames)]
    muxer_options = {"loop": "0", "final_delay": str(ends[1] - ends[0])}
    buffer = io.BytesIO()

    with _container(buffer, "gif", muxer_options) as container:
        stream = _video_stream(container, "gif", clip.frames, _rate(clip), "pal8", {})
        _encode_frames(container, stream, clip.frames, _rate(clip), two_pass_palette())
    return with_comment(buffer.getvalue(), record_to_text(clip.record))


def encode_png(frame: NDArray[np.uint8], fps: float, record: dict[str, Any] | None = None) -> bytes:
    """A PNG file of one (H, W, 3) frame; its text chunks hold the rate (`cdvideo-fps`) and, if given, the record (`cdvideo`)."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text(PNG_FPS_KEY, repr(fps))
    if record is not None:
        text.add_text(PNG_RECORD_KEY, record_to_text(record))
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="png", pnginfo=text)
    return buffer.getvalue()


def _encode_video(
    clip: Clip, format_name: str, codec: str, options: dict[str, str], muxer_options: dict[str, str], frames: NDArray[np.uint8]
) -> bytes:
    buffer = io.BytesIO()
    with _container(buffer, format_name, muxer_options) as container:
        container.metadata["comment"] = record_to_text(clip.record)
        stream = _video_stream(container, codec, frames, _rate(clip), "yuv420p", options)
        context = stream.codec_context
        context.gop_size = max(1, round(_SECONDS_BETWEEN_KEY_FRAMES * clip.fps))
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE
        _encode_frames(container, stream, frames, _rate(clip), rgb_to_bt709())
    return buffer.getvalue()


def _container(buffer: io.BytesIO, format_name: str, options: dict[str, str]) -> OutputContainer:
    import av

    def open_again(_url: str, _flags: int, _options: dict[str, str]) -> io.BytesIO:
        # To move the index to the front, the muxer reads back what it has written.
        return io.BytesIO(buffer.getvalue())

    return av.open(buffer, "w", format=format_name, options=options, io_open=open_again)


def _video_stream(
    container: OutputContainer, codec: str, frames: NDArray[np.uint8], rate: Fraction, pix_fmt: str, options: dict[str, str]
) -> VideoStream:
    from av.video.stream import VideoStream

    stream = container.add_stream(codec, rate=rate, options=options)
    assert isinstance(stream, VideoStream)
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = pix_fmt
    return stream


def _encode_frames(container: OutputContainer, stream: VideoStream, frames: NDArray[np.uint8], rate: Fraction, wiring: Wiring) -> None:
    for frame in filtered(_video_frames(frames, rate), lambda _: wiring):
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _rate(clip: Clip) -> Fraction:
    return Fraction(clip.fps).limit_denominator(_MAX_RATE_DENOMINATOR)


def _video_frames(frames: Iterable[NDArray[np.uint8]], rate: Fraction) -> Iterator[VideoFrame]:
    from av import VideoFrame

    for index, pixels in enumerate(frames):
        frame = VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = index, 1 / rate
        yield frame


def _evened(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    odd_rows, odd_columns = frames.shape[1] % 2, frames.shape[2] % 2
    if not odd_rows and not odd_columns:
        return frames
    return np.pad(frames, ((0, 0), (0, odd_rows), (0, odd_columns), (0, 0)), mode="edge")
