"""The block structure of a GIF89a file: what it says without decoding a pixel, and where a comment goes.

libav's GIF muxer writes no comments, so the record is put into its output here. Source: CompuServe, GIF89a specification, 1990.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_COMMENT, _GRAPHIC_CONTROL, _APPLICATION = 0xFE, 0xF9, 0xFF
_MAX_SUB_BLOCK = 255


@dataclass(frozen=True, kw_only=True)
class GifLayout:
    """`width` and `height` in pixels; `delays` in hundredths of a second, one per frame; `comments` in file order."""

    width: int
    height: int
    delays: tuple[int, ...]
    comments: tuple[str, ...]

    @property
    def fps(self) -> float:
        """Mean frames per second; a GIF without any delay runs at 10, as browsers show it."""
        total = sum(self.delays)
        return 100 * len(self.delays) / total if total else 10.0


def parse_gif(data: bytes) -> GifLayout:
    """The layout of a whole GIF file. Raises ValueError where the bytes are no GIF, or end before its trailer."""
    try:
        return _parse(data)
    except IndexError:
        raise ValueError(f"the file ends in the middle, after {len(data)} bytes") from None


def _parse(data: bytes) -> GifLayout:
    if data[:6] not in (b"GIF87a", b"GIF89a"):
        raise ValueError("the file does not start as a GIF does")
    width, height = _number(data, 6), _number(data, 8)
    position = 13 + _colour_table_bytes(data[10])
    delays: list[int] = []
    comments: list[str] = []
    delay = 0
    while (block := data[position]) != _TRAILER:
        if block == _IMAGE:
            delays.append(delay)
            delay = 0
            position += 10 + _colour_table_bytes(data[position + 9]) + 1
            _, position = _sub_blocks(data, position)
        elif block == _EXTENSION:
            label = data[position + 1]
            payload, position = _sub_blocks(data, position + 2)
            if label == _GRAPHIC_CONTROL:
                delay = _number(payload, 1)
            elif label == _COMMENT:
                comments.append(payload.decode("utf-8", errors="replace"))
        else:
            raise ValueError(f"byte {position} starts no block that a GIF knows")
    if not delays:
        raise ValueError("there is no picture in it")
    return GifLayout(width=width, height=height, delays=tuple(delays), comments=tuple(comments))


class CommentWriter:
    """A file for a GIF encoder: what is written goes on to `file`, with one more comment block; 7-bit ASCII, as the specification asks."""

    def __init__(self, file: BinaryIO, comment: str) -> None:
        self._file = file
        self._block = _comment_block(comment)
        self._head: bytes | None = b""

    def write(self, data: bytes) -> int:
        if self._head is None:
            return self._file.write(data)
        self._head += data
        if (offset := _head_length(self._head)) is not None:
            self._file.write(self._head[:offset] + self._block + self._head[offset:])
            self._head = None
        return len(data)


def _comment_block(comment: str) -> bytes:
    text = comment.encode("ascii")
    block = bytearray([_EXTENSION, _COMMENT])
    for start in range(0, len(text), _MAX_SUB_BLOCK):
        part = text[start : start + _MAX_SUB_BLOCK]
        block += bytes([len(part)]) + part
    block.append(0)
    return bytes(block)


def _head_length(data: bytes) -> int | None:
    """The bytes up to behind the loop block, which some players look for only as the first one; None where `data` ends before that."""
    try:
        position = 13 + _colour_table_bytes(data[10])
        while data[position] == _EXTENSION and data[position + 1] == _APPLICATION:
            _, position = _sub_blocks(data, position + 2)
        return position
    except IndexError:
        return None


def _number(data: bytes, position: int) -> int:
    return data[position] | data[position + 1] << 8


def _colour_table_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _sub_blocks(data: bytes, position: int) -> tuple[bytes, int]:
    payload = bytearray()
    while size := data[position]:
        payload += data[position + 1 : position + 1 + size]
        position += 1 + size
    return bytes(payload), position + 1
