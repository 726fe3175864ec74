"""Frames as the bytes of a file, the record inside. They are encoded as they come, and what is written goes straight into the file."""

from __future__ import annotations

import contextlib
import heapq
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from html import escape
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cdvideo.video.destination import PNG_FPS_KEY, PNG_RECORD_KEY
from cdvideo.video.gif_bytes import CommentWriter
from cdvideo.video.libav import BT709, LIMITED_RANGE, filtered, find_palette, reduced, rgb_to_bt709
from cdvideo.video.sound import SAMPLE_RATE, Sound, sound_frames
from cdvideo.video.subtitles import Cue

if TYPE_CHECKING:
    from av import AudioFrame, Packet, VideoFrame
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.video.stream import VideoStream

# Visually lossless at the sizes that SD1.5 renders; the two scales differ, the qualities match.
_H264_CRF, _VP9_CRF = 16, 22
# Half the time of x264's usual preset (`python -m tests.bench.animate --part files`); it asks for a CRF one lower to look the same.
_X264_PRESET = "veryfast"
# Without it, x264 0.165 encodes frames whose width is no multiple of 128 otherwise at every call, and on every kind of processor.
_X264_REPEATABLE = "cpu-independent=1"
# Several frames at a time rather than parts of one, as PyAV has it. A fixed number, or files depended on a machine's cores.
_X264_THREADS = {"threads": "16", "thread_type": "frame"}
_SECONDS_BETWEEN_KEY_FRAMES = 2
# libav's time goes with the number of distinct colours, of which photos have a million and more. Fewer make a GIF several times faster (see
# `python -m tests.bench.animate --part files`), and hardly worse: 256 colours are coarser than either step. Few colours stay finer.
_GIF_BITS, _GIF_BITS_OF_MANY_COLOURS = 6, 5
_MANY_COLOURS = 16_384
_SOUND = {"mp4": ("aac", 160_000), "webm": ("libopus", 128_000)}
_CAPTIONS = {"mp4": "mov_text", "webm": "webvtt"}
# 24000/1001 is the finest rate in common use.
_MAX_RATE_DENOMINATOR = 1001


def record_to_text(record: dict[str, Any]) -> str:
    """The record as JSON in one line of 7-bit ASCII, which every container carries unchanged."""
    return json.dumps(record, ensure_ascii=True, separators=(",", ":"))


@dataclass(frozen=True, kw_only=True)
class Footage:
    """What an encoder turns into a file: frames that may be made while they are encoded, each (H, W, 3) uint8 RGB, of one size.

    `frames` gives them from the first on whenever it is called. `fps` in frames per second; `cues` and `sound` only where the
    format holds them.
    """

    frames: Callable[[], Iterable[NDArray[np.uint8]]]
    num_frames: int
    fps: float
    record: dict[str, Any]
    sound: Sound | None = None
    cues: Sequence[Cue] = ()

    @property
    def rate(self) -> Fraction:
        return Fraction(self.fps).limit_denominator(_MAX_RATE_DENOMINATOR)

    def video_frames(self, bits: int = 8) -> Iterator[VideoFrame]:
        """The frames, their values in steps of 2^(8 - `bits`).

        Raises ValueError where there are more or fewer than promised: sound and captions were laid out for their number.
        """
        from av import VideoFrame

        count = 0
        for pixels in self.frames():
            frame = VideoFrame.from_ndarray(_in_steps(pixels, bits), format="rgb24")
            frame.pts, frame.time_base = count, 1 / self.rate
            count += 1
            yield frame
        if count != self.num_frames:
            raise ValueError(f"{count} frames came where {self.num_frames} were promised")


def encode_mp4(footage: Footage, file: BinaryIO) -> None:
    """Writes an MP4 file: H.264, yuv420p, BT.709, AAC, captions as mov_text, the index in front, the record as the `comment` tag.

    Where width or height is odd, the last column or row is doubled, because H.264 has no odd sizes in 4:2:0.
    """
    options = {"preset": _X264_PRESET, "crf": str(_H264_CRF), "x264-params": _X264_REPEATABLE, **_X264_THREADS}
    evened = replace(footage, frames=lambda: map(_evened, footage.frames()))
    _encode_video(evened, file, "mp4", "libx264", options, {"movflags": "+faststart"})


def encode_webm(footage: Footage, file: BinaryIO) -> None:
    """Writes a WebM file: VP9, yuv420p, BT.709, Opus, captions as WebVTT, the record as the `comment` tag.

    Odd sizes stay as they are. `bitexact` keeps the muxer from drawing a new random number for every file.
    """
    options = {"crf": str(_VP9_CRF), "b": "0", "deadline": "good", "cpu-used": "2", "row-mt": "1"}
    _encode_video(footage, file, "webm", "libvpx-vp9", options, {"fflags": "+bitexact"})


def encode_gif(footage: Footage, file: BinaryIO) -> None:
    """Writes a GIF file that loops for ever: one palette for all frames, ordered dithering, the record as its comment.

    The frames are made twice, for the palette and for the file, so that they need not be held. A GIF counts hundredths of a
    second; delays alternate so that the mean rate stays `fps`, and the last frame stays for what is left of the whole duration.
    """
    # As libav rounds the other delays: halves upwards.
    ends = [math.floor(100 * count / footage.fps + 0.5) for count in (footage.num_frames - 1, footage.num_frames)]
    muxer_options = {"loop": "0", "final_delay": str(ends[1] - ends[0])}
    made = iter(footage.frames())
    start = next(made)
    bits = _gif_bits(start)
    (palette,) = filtered(replace(footage, frames=lambda: chain([start], made)).video_frames(bits), lambda _: find_palette())
    frames = reduced(footage.video_frames(bits), palette)
    first = next(frames)

    with _container(CommentWriter(file, record_to_text(footage.record)), "gif", muxer_options) as container:
        stream = _video_stream(container, "gif", first, footage.rate, "pal8", {})
        for packet in _encoded(stream, chain([first], frames)):
            container.mux(packet)


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
    footage: Footage, file: BinaryIO, format_name: str, codec: str, options: dict[str, str], muxer_options: dict[str, str]
) -> None:
    frames = filtered(footage.video_frames(), lambda _: rgb_to_bt709())
    first = next(frames)
    with _container(file, format_name, muxer_options) as container:
        container.metadata["comment"] = record_to_text(footage.record)
        stream = _video_stream(container, codec, first, footage.rate, "yuv420p", options)
        context = stream.codec_context
        context.gop_size = max(1, round(_SECONDS_BETWEEN_KEY_FRAMES * footage.fps))
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE
        tracks = [_encoded(stream, chain([first], frames))]
        if footage.sound:
            tracks.append(_sound_track(container, format_name, footage.sound, footage.num_frames / footage.fps))
        if footage.cues:
            tracks.append(_caption_track(container, format_name, footage.cues, 1 / footage.rate))
        # By time, so that no track runs ahead and the muxer has next to nothing to hold.
        for packet in heapq.merge(*tracks, key=_time_of):
            container.mux(packet)


def _sound_track(container: OutputContainer, format_name: str, sound: Sound, duration: float) -> Iterator[Packet]:
    from av.audio.stream import AudioStream

    codec, bit_rate = _SOUND[format_name]
    stream = container.add_stream(codec, rate=SAMPLE_RATE)
    assert isinstance(stream, AudioStream)
    stream.codec_context.layout = "stereo"
    stream.codec_context.bit_rate = bit_rate
    return _encoded(stream, sound_frames(sound, duration))


def _caption_track(container: OutputContainer, format_name: str, cues: Sequence[Cue], frame_time: Fraction) -> Iterator[Packet]:
    from av import Packet
    from av.subtitles.stream import SubtitleStream

    stream = container.add_stream(_CAPTIONS[format_name])
    assert isinstance(stream, SubtitleStream)
    # Its encoder, which nothing goes through, does not open without one.
    stream.codec_context.subtitle_header = b"[Script Info]\n"

    def packets() -> Iterator[Packet]:
        for cue in cues:
            text = cue.text.encode("utf-8", errors="replace")
            # 3GPP TS 26.245, section 5.17: a text sample is the length of its text, then the text.
            packet = Packet(len(text).to_bytes(2, "big") + text if format_name == "mp4" else escape(cue.text, quote=False).encode())
            packet.stream, packet.time_base = stream, frame_time
            packet.pts = packet.dts = cue.start
            packet.duration = cue.end - cue.start
            yield packet

    return packets()


def _gif_bits(first: NDArray[np.uint8]) -> int:
    """How finely a GIF's frames tell values apart before they are reduced to 256 colours, as their first one has few colours or many."""
    red, green, blue = (first[..., channel].astype(np.uint32) >> (8 - _GIF_BITS) for channel in range(3))
    distinct = np.unique(red << (2 * _GIF_BITS) | green << _GIF_BITS | blue).size
    return _GIF_BITS if distinct <= _MANY_COLOURS else _GIF_BITS_OF_MANY_COLOURS


def _in_steps(pixels: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Each value in the middle of its step."""
    if bits == 8:
        return pixels
    return pixels & np.uint8(256 - (1 << (8 - bits))) | np.uint8(1 << (7 - bits))


@contextlib.contextmanager
def _container(file: BinaryIO | CommentWriter, format_name: str, options: dict[str, str]) -> Iterator[OutputContainer]:
    import av

    def open_again(_url: str, _flags: int, _options: dict[str, str]) -> BinaryIO:
        # To move the index to the front, the muxer reads back what it has written.
        assert not isinstance(file, CommentWriter)
        file.flush()
        return open(file.name, "rb")

    container = av.open(file, "w", format=format_name, options=options, io_open=open_again)
    try:
        yield container
    except BaseException:
        # Closing writes what is left, and its own complaint about a full disk would hide the first.
        with contextlib.suppress(av.FFmpegError, OSError):
            container.close()
        raise
    container.close()


def _video_stream(
    container: OutputContainer, codec: str, like: VideoFrame, rate: Fraction, pix_fmt: str, options: dict[str, str]
) -> VideoStream:
    from av.video.stream import VideoStream

    stream = container.add_stream(codec, rate=rate, options=options)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height, stream.pix_fmt = like.width, like.height, pix_fmt
    return stream


def _encoded(stream: VideoStream | AudioStream, frames: Iterable[VideoFrame] | Iterable[AudioFrame]) -> Iterator[Packet]:
    for frame in frames:
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _time_of(packet: Packet) -> Fraction:
    return packet.dts * packet.time_base


def _evened(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    odd_rows, odd_columns = frame.shape[0] % 2, frame.shape[1] % 2
    if not odd_rows and not odd_columns:
        return frame
    return np.pad(frame, ((0, odd_rows), (0, odd_columns), (0, 0)), mode="edge")
