from __future__ import annotations

import io

import pytest

from cdvideo.video.gif_bytes import CommentWriter, parse_gif

# One white pixel, twice, written out by hand from the specification.
HEADER = b"GIF89a" + bytes([1, 0, 1, 0, 0x80, 0, 0]) + bytes([255, 255, 255, 0, 0, 0])
LOOP = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"
CONTROL = b"\x21\xf9\x04\x00\x07\x00\x00\x00"
IMAGE = b"\x2c" + bytes([0, 0, 0, 0, 1, 0, 1, 0, 0]) + b"\x02\x02\x44\x01\x00"
GIF = HEADER + LOOP + CONTROL + IMAGE + CONTROL + IMAGE + b"\x3b"


def test_layout_of_a_gif_written_by_hand() -> None:
    layout = parse_gif(GIF)
    assert (layout.width, layout.height, layout.delays, layout.comments) == (1, 1, (7, 7), ())
    assert layout.fps == pytest.approx(100 / 7)


@pytest.mark.parametrize("length", [0, 1, 255, 256, 510, 70000])
@pytest.mark.parametrize("piece", [1, 7, 40, 1000])
def test_a_comment_of_any_length_goes_behind_the_loop_block(length: int, piece: int) -> None:
    comment = "ab" * (length // 2) + "c" * (length % 2)
    file = io.BytesIO()
    writer = CommentWriter(file, comment)
    assert sum(writer.write(GIF[start : start + piece]) for start in range(0, len(GIF), piece)) == len(GIF)
    data = file.getvalue()
    assert data.startswith(HEADER + LOOP + b"\x21\xfe") and data.endswith(CONTROL + IMAGE + b"\x3b")
    assert parse_gif(data).comments == (comment,)


def test_every_shorter_file_is_refused() -> None:
    for end in range(len(GIF)):
        with pytest.raises(ValueError, match=r"ends in the middle|does not start"):
            parse_gif(GIF[:end])
