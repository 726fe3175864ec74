"""Clips on one sheet: a row of evenly picked frames each, to look at many at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cdvideo.video.clip import Clip

if TYPE_CHECKING:
    from PIL import ImageFont
    from PIL.Image import Image

    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_BACKGROUND, _INK = (255, 255, 255), (30, 30, 30)
_MIN_CELL_WIDTH = 128
_MIN_FONT_SIZE = 13


def contact_sheet(
    clips_or_frames: Sequence[Clip | NDArray[np.uint8]],
    columns: int,
    labels: Sequence[str] | None = None,
    *,
    cell_width: int | None = None,
) -> Image:
    """An RGB picture with one row per clip: `columns` frames from its first to its last, evenly picked, under its label.

    A row is a Clip or frames of shape (F, H, W, 3), uint8; a clip with fewer frames than columns leaves cells empty. Every frame
    is scaled to `cell_width` pixels (default: the widest clip's width, at least 128) and keeps its proportions. A label too long
    for the sheet is wrapped. Raises ValueError for no clip, no column, or another number of labels than clips.
    """
    from PIL import Image, ImageDraw

    rows = [item.frames if isinstance(item, Clip) else item for item in clips_or_frames]
    if not rows or columns < 1:
        raise ValueError(f"a contact sheet has at least one clip and one column, not {len(rows)} and {columns}")
    if labels is not None and len(labels) != len(rows):
        raise ValueError(f"{len(labels)} labels for {len(rows)} clips")
    width = cell_width or max(_MIN_CELL_WIDTH, *(frames.shape[2] for frames in rows))
    gap = max(4, width // 24)
    sheet_width = gap + columns * (width + gap)
    font = _font(max(_MIN_FONT_SIZE, width // 11))
    line_height = round(1.35 * font.getbbox("Ag")[3])
    texts = [_wrapped(label, font, sheet_width - 2 * gap) for label in labels] if labels else [[] for _ in rows]
    heights = [max(1, round(frames.shape[1] * width / frames.shape[2])) for frames in rows]
    blocks = [len(text) * line_height + height + gap for text, height in zip(texts, heights, strict=True)]

    sheet = Image.new("RGB", (sheet_width, gap + sum(blocks)), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    top = gap
    for frames, text, height, block in zip(rows, texts, heights, blocks, strict=True):
        for number, line in enumerate(text):
            draw.text((gap, top + number * line_height), line, fill=_INK, font=font)
        for column, index in enumerate(evenly_picked(frames.shape[0], columns)):
            picture = Image.fromarray(frames[index]).resize((width, height), Image.Resampling.LANCZOS)
            sheet.paste(picture, (gap + column * (width + gap), top + len(text) * line_height))
        top += block
    return sheet


def evenly_picked(num_frames: int, columns: int) -> list[int]:
    """Ascending frame numbers, at most `columns` of them, the first and the last frame among them; one column takes the middle."""
    if columns == 1:
        return [num_frames // 2]
    return [round(index) for index in np.linspace(0, num_frames - 1, min(columns, num_frames))]


def _font(size: int) -> Font:
    from PIL import ImageFont

    return ImageFont.load_default(size=size)


def _wrapped(label: str, font: Font, max_width: int) -> list[str]:
    lines: list[str] = []
    for word in label.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= max_width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
