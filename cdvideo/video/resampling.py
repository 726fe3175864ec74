"""More frames a second and more pixels, by libav's classical filters: no neural network, and no detail that was not there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cdvideo.errors import UserError
from cdvideo.video.clip import Clip
from cdvideo.video.gather import gathered
from cdvideo.video.libav import filtered

if TYPE_CHECKING:
    from av import VideoFrame
    from av.filter import FilterContext, Graph

MAX_FPS = 120
MAX_UPSCALE = 4
# What the filter looks ahead for, and does not give out again.
_LOOKAHEAD = 3
_EXACT = "accurate_rnd+full_chroma_int+full_chroma_inp"
# Motion is estimated from blocks of 8 pixels and both neighbours, and blocks blend into each other.
_INTERPOLATION = "mi_mode=mci:mc_mode=aobmc:me_mode=bidir:vsbmc=1:mb_size=8"


def check_resampling(*, fps: float, interpolate: float | None, upscale: int) -> None:
    """Nothing, where a clip of `fps` frames a second can become one of `interpolate` and `upscale` times the size. Raises UserError."""
    if interpolate is not None and not fps < interpolate <= MAX_FPS:
        raise UserError(
            f"cannot interpolate from {fps:g} to {interpolate:g} frames a second",
            remedy=f"choose --interpolate above {fps:g}, which --fps is, and up to {MAX_FPS}; 24 is usual",
        )
    if not 1 <= upscale <= MAX_UPSCALE:
        raise UserError(f"cannot enlarge {upscale} times", remedy=f"choose --upscale from 1 to {MAX_UPSCALE}")


def resampled(clip: Clip, *, interpolate: float | None = None, upscale: int = 1) -> Clip:
    """The clip with `interpolate` frames a second, of `upscale` times its width and height; its record says so, under `resampled`.

    Frames in between are made by motion-compensated interpolation (libav's minterpolate); those that there were stay, where the new rate
    has a frame at their time. A loop's last frames lead to its first one. Pixels are enlarged by Lanczos. Raises UserError as
    `check_resampling` does.
    """
    check_resampling(fps=clip.fps, interpolate=interpolate, upscale=upscale)
    frames, fps = clip.frames, clip.fps
    if interpolate is not None:
        frames, fps = _interpolated(clip, interpolate), interpolate
    if upscale > 1:
        frames = _upscaled(frames, upscale)
    if frames is clip.frames:
        return clip
    return Clip(frames=frames, fps=fps, record={**clip.record, "resampled": {"interpolate": interpolate, "upscale": upscale}})


def _interpolated(clip: Clip, fps: float) -> NDArray[np.uint8]:
    after = clip.frames[np.arange(_LOOKAHEAD) % clip.num_frames] if clip.record.get("loop") else [clip.frames[-1]] * _LOOKAHEAD
    wanted = max(1, round(clip.num_frames * fps / clip.fps))
    rate = Fraction(fps).limit_denominator(1001)

    def wire(graph: Graph, source: FilterContext, sink: FilterContext) -> None:
        graph.link_nodes(
            source,
            graph.add("scale", f"out_color_matrix=bt709:out_range=pc:flags={_EXACT}"),
            graph.add("format", "pix_fmts=yuv444p"),
            graph.add("minterpolate", f"fps={rate}:{_INTERPOLATION}"),
            graph.add("scale", f"in_color_matrix=bt709:in_range=pc:out_range=pc:flags={_EXACT}"),
            graph.add("format", "pix_fmts=rgb24"),
            sink,
        )

    source = _video_frames(chain(clip.frames, after), Fraction(clip.fps).limit_denominator(1001))
    return gathered(_held(_pixels(filtered(source, lambda _: wire)), wanted))


def _upscaled(frames: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    def wire(graph: Graph, source: FilterContext, sink: FilterContext) -> None:
        scale = graph.add("scale", f"w=iw*{factor}:h=ih*{factor}:flags=lanczos+{_EXACT}")
        graph.link_nodes(source, scale, graph.add("format", "pix_fmts=rgb24"), sink)

    return gathered(_pixels(filtered(_video_frames(frames, Fraction(1)), lambda _: wire)))


def _held(frames: Iterable[NDArray[np.uint8]], wanted: int) -> Iterator[NDArray[np.uint8]]:
    """The first `wanted` of the frames; the last one again and again where there are fewer."""
    last, num_missing = None, wanted
    for last in islice(frames, wanted):
        yield last
        num_missing -= 1
    if last is not None:
        yield from repeat(last, num_missing)


def _pixels(frames: Iterable[VideoFrame]) -> Iterator[NDArray[np.uint8]]:
    return (np.asarray(frame.to_ndarray(), dtype=np.uint8) for frame in frames)


def _video_frames(frames: Iterable[NDArray[np.uint8]], rate: Fraction) -> Iterator[VideoFrame]:
    from av import VideoFrame

    for index, pixels in enumerate(frames):
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame.pts, frame.time_base = index, 1 / rate
        yield frame
