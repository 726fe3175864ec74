"""Words in pictures: title and end cards, and captions burnt into frames.

The sizes follow the frame's height, but never fall below what can be read, so that a card looks alike at 128 and at 512 pixels.
"""

from __future__ import annotations

import bisect
import functools
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cdvideo.errors import UserError, UserNote
from cdvideo.video import Cue

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

PAPER, INK = (22, 22, 20), (244, 240, 230)
# What systems have that Pillow finds by name, widest coverage first.
_SYSTEM_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "Arial.ttf", "NotoSansCJK-Regular.ttc")
# A code point that is never assigned: every font draws its box for it.
_NO_CHARACTER = "\U000fffff"
_PROBE_SIZE = 40

# Parts of the frame that television keeps free, so that nothing is cut off.
_CAPTION_MARGIN, _CARD_MARGIN = 0.05, 0.1
# How much of its room a card's title takes at most above a subtitle, and a caption of the frame's height.
_TITLE_SHARE, _CAPTION_SHARE = 0.65, 0.5
# How far the small text's colour lies from the page's towards the large text's.
_SOFTNESS = 0.65
_MIN_SIZE = 9
_CUT_OFF = "..."
# Letters are drawn up to this many times larger and scaled down, up to about this size: at few pixels, hinting leaves no room
# between words.
_MAX_DETAIL, _DETAILED_SIZE = 4, 96

Colour = tuple[int, int, int]
WidthOf = Callable[[str], float]


@dataclass(frozen=True)
class Typeface:
    """A font in any size: the one that Pillow brings along where `file` is None, else one from a file."""

    file: str | None = None

    def at(self, size: int) -> FreeTypeFont:
        return _font(self.file, size)

    def width(self, text: str, size: int) -> float:
        """In pixels, of one line in this size."""
        return self.at(size * _detail(size)).getlength(text) / _detail(size)

    def missing(self, text: str) -> str:
        """The characters of a text that it has no glyph for, each once, in order."""
        return "".join(character for character in dict.fromkeys(_plain(text)) if character != "\n" and not self._has(character))

    def _has(self, character: str) -> bool:
        font = self.at(_PROBE_SIZE)
        return character.isspace() or bytes(font.getmask(character)) != bytes(font.getmask(_NO_CHARACTER))


def typeface_for(texts: Iterable[str], font: Path | None = None) -> Typeface:
    """The typeface that has a glyph for every character of these texts: `font`, else Pillow's own, else one of this system.

    Pillow's own holds little more than ASCII, and gives the same film on every machine; where it does not do, a UserNote says which
    font is taken instead. Raises UserError where `font` is no font, and where a character would be drawn as an empty box.
    """
    text = "".join(texts)
    if font is not None:
        return _given(font, text)
    own = Typeface()
    missing = own.missing(text)
    if not missing:
        return own
    for name in _SYSTEM_FONTS:
        try:
            other = Typeface(name)
            if other.missing(text):
                continue
        except OSError:
            continue
        family = " ".join(part for part in other.at(_PROBE_SIZE).getname() if part)
        warnings.warn(
            UserNote(f"The built-in font has no {_named(missing)}; titles and captions are drawn in this system's {family}."), stacklevel=2
        )
        return other
    raise UserError(
        f"The titles and captions cannot be drawn: no font at hand has {_named(missing)}.",
        cause="the built-in font and those of this system were tried",
        remedy="name a font file that has it (font: FILE.ttf), or leave it out",
    )


def _given(font: Path, text: str) -> Typeface:
    given = Typeface(str(font))
    try:
        given.at(_PROBE_SIZE)
        missing = given.missing(text)
    except OSError as error:
        cause = "there is no such file" if not font.exists() else f"it is no font that FreeType reads ({error})"
        raise UserError(f"{font} cannot be used as a font.", cause=cause, remedy="name a .ttf or .otf file") from error
    if missing:
        cause, remedy = f"it has no {_named(missing)}", "name a font that has it, or leave it out"
        raise UserError(f"{font} cannot draw the titles and captions.", cause=cause, remedy=remedy)
    return given


def title_card(
    title: str,
    *,
    width: int,
    height: int,
    subtitle: str = "",
    typeface: Typeface | None = None,
    ink: Colour = INK,
    paper: Colour = PAPER,
) -> NDArray[np.uint8]:
    """One frame, (H, W, 3) uint8 RGB: the title in large in the middle of a page, the subtitle small and softer below it.

    An end card is the same with other words. Text is wrapped, and made smaller where it is long. Raises UserError where it
    cannot be readable at this size, and where the typeface lacks a glyph.
    """
    from PIL import Image

    face = typeface or Typeface()
    room_width, room_height = (round(side * (1 - 2 * _CARD_MARGIN)) for side in (width, height))
    side = min(width, height)
    share = _TITLE_SHARE if subtitle else 1
    blocks = [(_laid_out(title, face, (room_width, round(share * room_height)), size=max(13, round(side / 8.5)), what="The title"), ink)]
    gap = 0
    if subtitle:
        large = blocks[0][0]
        gap = round(0.45 * large.size)
        room = (room_width, room_height - large.height - gap)
        small = _laid_out(subtitle, face, room, size=min(max(10, round(side / 19)), large.size), what="The subtitle")
        blocks.append((small, _between(ink, paper)))
    picture = Image.new("RGB", (width, height), paper)
    top = (height - sum(block.height for block, _ in blocks) - gap) / 2
    for block, colour in blocks:
        layer = block.drawn(width, height, round(top), colour)
        picture.paste(layer, mask=layer)
        top += block.height + gap
    return np.asarray(picture)


def _between(ink: Colour, paper: Colour) -> Colour:
    red, green, blue = (round(paper_part + _SOFTNESS * (ink_part - paper_part)) for ink_part, paper_part in zip(ink, paper, strict=True))
    return red, green, blue


def still(frame: NDArray[np.uint8], num_frames: int) -> NDArray[np.uint8]:
    """The frame as a shot of (F, H, W, 3) that stands still; it takes the memory of one frame."""
    return np.broadcast_to(frame, (num_frames, *frame.shape))


def captioned(frames: Iterable[NDArray[np.uint8]], cues: Sequence[Cue], *, typeface: Typeface | None = None) -> Iterator[NDArray[np.uint8]]:
    """The film's frames one by one, each (H, W, 3) uint8 RGB, with the caption burnt in that its cue puts there.

    Draw captions on the finished film, not on its shots: a crossfade would lay two of them on top of each other. Raises UserError
    where a caption cannot be readable at the frames' size.
    """
    waiting = sorted(cues, key=lambda cue: cue.start, reverse=True)
    overlay: CaptionOverlay | None = None
    end = 0
    for index, frame in enumerate(frames):
        if waiting and waiting[-1].start <= index:
            cue = waiting.pop()
            overlay, end = caption_overlay(cue.text, width=frame.shape[1], height=frame.shape[0], typeface=typeface), cue.end
        yield overlay.on(frame) if overlay and index < end else frame


@dataclass(frozen=True, eq=False)
class CaptionOverlay:
    """A drawn caption: `colour` (H, W, 3) and `alpha` (H, W, 1), uint8, to be laid on frames of that size."""

    colour: NDArray[np.uint8]
    alpha: NDArray[np.uint8]

    def on(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A new frame, (H, W, 3) uint8."""
        alpha = self.alpha.astype(np.int32)
        mixed: NDArray[np.uint8] = ((frame * (255 - alpha) + self.colour * alpha + 127) // 255).astype(np.uint8)
        return mixed


def caption_overlay(text: str, *, width: int, height: int, typeface: Typeface | None = None) -> CaptionOverlay:
    """The caption in white, outlined in black, at the bottom of frames of this size. Raises UserError as `title_card` does."""
    room = (round(width * (1 - 2 * _CAPTION_MARGIN)), round(height * _CAPTION_SHARE))
    size = max(11, round(min(width, height) / 18))
    block = _laid_out(text, typeface or Typeface(), room, size=size, what="The caption", outlined=True)
    pixels = np.asarray(block.drawn(width, height, round(height * (1 - _CAPTION_MARGIN)) - block.height, (255, 255, 255)))
    return CaptionOverlay(pixels[..., :3], pixels[..., 3:])


@dataclass(frozen=True)
class _Block:
    """Centred lines of text in one size; `height` in pixels, the outline included."""

    lines: tuple[str, ...]
    typeface: Typeface
    size: int
    outline: int

    @property
    def line_height(self) -> float:
        return 1.2 * self.size

    @property
    def height(self) -> int:
        return round(self.line_height * len(self.lines)) + 2 * self.outline

    def drawn(self, width: int, height: int, top: int, ink: Colour) -> Image:
        """An RGBA picture of these sides with nothing else in it; the lines stand in its middle, the first `top` pixels below its edge."""
        from PIL import Image, ImageDraw

        detail = _detail(self.size)
        strip = Image.new("RGBA", (width * detail, self.height * detail), (0, 0, 0, 0))
        draw, font = ImageDraw.Draw(strip), self.typeface.at(self.size * detail)
        outline = self.outline * detail
        for number, line in enumerate(self.lines):
            middle = outline + (number + 0.5) * self.line_height * detail
            place = (strip.width / 2, middle)
            draw.text(place, line, fill=ink, font=font, anchor="mm", stroke_width=outline, stroke_fill=(0, 0, 0))
        picture = Image.new("RGBA", (width, height), (0, 0, 0, 0))
        picture.paste(strip.resize((width, self.height), Image.Resampling.BOX), (0, top))
        return picture


def _detail(size: int) -> int:
    return min(_MAX_DETAIL, max(1, round(_DETAILED_SIZE / size)))


def _laid_out(text: str, typeface: Typeface, room: tuple[int, int], *, size: int, what: str, outlined: bool = False) -> _Block:
    """The text wrapped into `room` (width and height in pixels), in `size` or the largest below it that fits.

    A word that is wider than the room is broken only where no readable size spares it that.
    """
    if missing := typeface.missing(text):
        cause = f"the font has no {_named(missing)}"
        raise UserError(f"{what} {text!r} cannot be drawn.", cause=cause, remedy="name a font file that has it, or leave it out")
    plain = _plain(text)

    def block(said: str, smaller: int, may_break: bool) -> _Block | None:
        outline = max(1, round(smaller / 10)) if outlined else 0
        lines = _wrapped(said, functools.partial(typeface.width, size=smaller), room[0] - 2 * outline, may_break)
        found = _Block(tuple(lines), typeface, smaller, outline) if lines else None
        return found if found and found.height <= room[1] else None

    for may_break in (False, True):
        for smaller in range(size, _MIN_SIZE - 1, -1):
            if found := block(plain, smaller, may_break):
                return found
    # By now a film's shots are rendered: it is better with half of a caption than not there at all.
    lengths = range(len(plain))
    longest = bisect.bisect_left(lengths, True, key=lambda length: block(_shortened(plain, length), _MIN_SIZE, True) is None) - 1
    shortened = block(_shortened(plain, longest), _MIN_SIZE, True) if longest > 0 else None
    remedy = "shorten it, render larger, or put it into the subtitle track" if outlined else "shorten it, or render larger"
    room_text = f"{len(text)} characters in {room[0]}x{room[1]} pixels"
    if shortened is None:
        raise UserError(f"{what} is too long to be read: {text!r}", cause=room_text, remedy=remedy)
    warnings.warn(f"{what} is cut off, since it is too long to be read: {text!r} ({room_text}); {remedy}", UserNote, stacklevel=2)
    return shortened


def _shortened(text: str, length: int) -> str:
    return f"{text[:length].rstrip()}{_CUT_OFF}"


def _wrapped(text: str, width_of: WidthOf, width: float, may_break: bool) -> list[str]:
    """Lines of nearly one length, none wider than `width`; none at all where a word is and may not be broken."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        words = [piece for word in paragraph.split() for piece in _pieces(word, width_of, width, may_break)]
        if any(width_of(word) > width for word in words):
            return []
        fewest = len(_filled(words, width_of, width))
        # The narrowest column that needs no more lines.
        too_narrow, wide_enough = 0.0, float(width)
        while wide_enough - too_narrow > 1:
            middle = (too_narrow + wide_enough) / 2
            if len(_filled(words, width_of, middle)) > fewest:
                too_narrow = middle
            else:
                wide_enough = middle
        lines += _filled(words, width_of, wide_enough)
    return lines


def _pieces(word: str, width_of: WidthOf, width: float, may_break: bool) -> list[str]:
    if not may_break or width_of(word) <= width:
        return [word]
    pieces = [""]
    for character in word:
        if pieces[-1] and width_of(pieces[-1] + character) > width:
            pieces.append("")
        pieces[-1] += character
    return pieces


def _filled(words: Sequence[str], width_of: WidthOf, width: float) -> list[str]:
    """Lines that take as many words as they hold; a word that is wider than `width` has a line of its own."""
    lines: list[str] = []
    for word in words:
        if lines and width_of(longer := f"{lines[-1]} {word}") <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _plain(text: str) -> str:
    """Composed characters, one kind of space: what fonts have glyphs for."""
    composed = unicodedata.normalize("NFC", text)
    return "".join(" " if character.isspace() and character != "\n" else character for character in composed)


def _named(characters: str) -> str:
    shown = ", ".join(f"{character} (U+{ord(character):04X})" for character in characters[:5])
    return f"{shown} and {len(characters) - 5} more" if len(characters) > 5 else shown


@functools.lru_cache(maxsize=64)
def _font(file: str | None, size: int) -> FreeTypeFont:
    from PIL import ImageFont

    font = ImageFont.load_default(size) if file is None else ImageFont.truetype(file, size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow's wheels come with FreeType"
    return font
