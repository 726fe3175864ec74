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


def find_palette() -> Wiring:
    """The wiring whose only frame, after the last that went in, is the one palette that suits them all. It holds no frames."""

    def wire(graph: Graph, source: FilterContext, sink: FilterContext) -> None:
        graph.link_nodes(source, graph.add("palettegen", "stats_mode=full"), sink)

    return wire


def _convert(scale: str, pixel_format: str) -> Wiring:
    def wire(graph: Graph, source: FilterContext, sink: FilterContext) -> None:
        graph.link_nodes(source, graph.add("scale", scale), graph.add("format", f"pix_fmts={pixel_format}"), sink)

    return wire


def filtered(frames: Iterable[VideoFrame], wiring_for: Callable[[VideoFrame], Wiring]) -> Iterator[VideoFrame]:
    """What comes out of the graph that `wiring_for` the first frame gives. All frames share one size and pixel format."""
    from av.filter import Graph

    graph = Graph()
    for frame in frames:
        if not graph.configured:
            wiring_for(frame)(graph, _source(graph, frame), graph.add("buffersink"))
            graph.configure()
        graph.vpush(frame)
        yield from _waiting(graph)
    graph.vpush(None)
    yield from _waiting(graph)


def reduced(frames: Iterable[VideoFrame], palette: VideoFrame) -> Iterator[VideoFrame]:
    """The frames in the 256 colours of a palette that `find_palette` made.

    Ordered dithering: its pattern stands still where the picture does. Error diffusion looks finer in a single frame, but its
    noise crawls between frames, and the file doubles.
    """
    from av.filter import Graph

    graph = Graph()
    for frame in frames:
        if not graph.configured:
            source, colours = _source(graph, frame), _source(graph, palette)
            use = graph.add("paletteuse", "dither=bayer:bayer_scale=3")
            source.link_to(use, 0, 0)
            colours.link_to(use, 0, 1)
            use.link_to(graph.add("buffersink"))
            graph.configure()
            colours.push(palette)
            colours.push(None)
        source.push(frame)
        yield from _waiting(graph)
    source.push(None)
    yield from _waiting(graph)


def _source(graph: Graph, frame: VideoFrame) -> FilterContext:
    return graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)


def _waiting(graph: Graph) -> Iterator[VideoFrame]:
    from av.error import BlockingIOError, EOFError

    while True:
        try:
            yield graph.vpull()
        except (BlockingIOError, EOFError):
            return
