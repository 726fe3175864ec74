"""What reading and writing share of libav: frames through a filter graph, and exact conversion between RGB and Y'CbCr."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av import VideoFrame
    from av.filter import FilterContext, Graph

    Wiring = Callable[[Graph, FilterContext, FilterContext], None]

# The numbers that H.264 and VP9 write for a colour space, its primaries, its transfer curve and its range.
BT709, BT2020, BT2020_CONSTANT = 1, 9, 10
LIMITED_RANGE, FULL_RANGE = 1, 2

# libswscale's fast paths come back to RGB 1 to 2 levels too dark; with these flags the mean error stays below 0.1.
_EXACT = "accurate_rnd+full_chroma_int+full_chroma_inp+bicubic"


def rgb_to_bt709() -> Wiring:
    """The wiring that turns full-range RGB into limited-range BT.709 with 4:2:0 chroma, which every player takes."""
    return _convert(f"in_range=pc:out_color_matrix=bt709:out_range=tv:flags={_EXACT}", "yuv420p")


def to_rgb(frame: VideoFrame) -> Wiring:
    """The wiring that turns frames tagged as this one is into full-range RGB; libav guesses what has no tag."""
    matrix = {BT709: "bt709", BT2020: "bt2020", BT2020_CONSTANT: "bt2020"}.get(int(frame.colorspace), "auto")
    value_range = {LIMITED_RANGE: "tv", FULL_RANGE: "pc"}.get(int(frame.color_range), "auto")
    return _convert(f"in_color_matrix={matrix}:in_range={value_range}:out_range=pc:flags={_EXACT}", "rgb24")


def two_pass_palette() -> Wiring:
    """The wiring that maps RGB to one palette for the whole clip, found from all its frames.

    Ordered dithering: its pattern stands still where the picture does. Error diffusion looks finer in a single frame, but its
    noise crawls between frames, and the file doubles.
    """

    def wire(graph: Graph, source: FilterContext, sink: FilterContext) -> None:
        split = graph.add("split")
        palette = graph.add("palettegen", "stats_mode=full")
        use = graph.add("paletteuse", "dither=bayer:bayer_scale=3")
        source.link_to(split)
        split.link_to(palette, 0)
        split.link_to(use, 1, 0)
        palette.link_to(use, 0, 1)
        use.link_to(sink)

    return wire


def _convert(scale: str, pixel_format: str) -> Wiring:
    def wire(graph: Graph, source: FilterContext, sink: FilterContext) -> None:
        graph.link_nodes(source, graph.add("scale", scale), graph.add("format", f"pix_fmts={pixel_format}"), sink)

    return wire


def filtered(frames: Iterable[VideoFrame], wiring_for: Callable[[VideoFrame], Wiring]) -> Iterator[VideoFrame]:
    """As many frames as went in, after the graph that `wiring_for` the first of them gives.

    All frames share one size and pixel format. A graph that must see every frame first holds them until the last.
    """
    from av.error import BlockingIOError, EOFError
    from av.filter import Graph

    def waiting() -> Iterator[VideoFrame]:
        while True:
            try:
                yield graph.vpull()
            except (BlockingIOError, EOFError):
                return

    graph = Graph()
    for frame in frames:
        if not graph.configured:
            time_base = frame.time_base
            source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=time_base)
            wiring_for(frame)(graph, source, graph.add("buffersink"))
            graph.configure()
        graph.vpush(frame)
        yield from waiting()
    graph.vpush(None)
    yield from waiting()
