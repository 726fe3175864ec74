"""What a subject wears or holds: drawings, where they sit, and how captions say it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cdvideo.pocket.world.subjects import Icon, Subject, icons

Placement = tuple[float, float, float]
"""Offset from the subject's centre to the thing's centre, right and down, and the thing's height, in units of the subject's height."""


@dataclass(frozen=True, kw_only=True)
class Worn:
    """A thing worn. It is drawn from icons, or, where `colours` are given, by the program in one of these colours.

    `place(subject, ratio)` says where it sits for a thing `ratio` times as high as wide.
    """

    name: str
    words: tuple[str, ...]
    place: Callable[[Subject, float], Placement]
    drawings: tuple[Icon, ...] = ()
    colours: dict[str, str] = field(default_factory=dict)
    room_above: float = 0.0


def _across_the_eyes(subject: Subject, ratio: float) -> Placement:
    return 0.0, subject.eyes + 0.02, 0.9 * subject.head_width * ratio


def _over_the_ears(subject: Subject, ratio: float) -> Placement:
    height = 1.14 * subject.head_width * ratio
    return 0.0, subject.top - 0.1 + height / 2, height


def _on_top(size: float) -> Callable[[Subject, float], Placement]:
    def place(subject: Subject, ratio: float) -> Placement:
        height = size * max(subject.head_width, 0.65) * min(ratio, 1.0)
        return 0.0, subject.top + 0.06 - height / 2, height

    return place


def _round_the_neck(subject: Subject, ratio: float) -> Placement:
    height = 0.95 * subject.head_width * ratio
    return 0.0, subject.chin + 0.3 * height, height


def _beside_the_ear(subject: Subject, ratio: float) -> Placement:
    height = 0.42 * max(subject.head_width, 0.6) * ratio
    return 0.3 * subject.head_width, subject.top + 0.02, height


PAINTS = {"red": "#d93025", "blue": "#1a66e0", "purple": "#7a3fb0", "green": "#188038", "pink": "#f06ba8", "yellow": "#f7c325"}

WORN = {
    worn.name: worn
    for worn in (
        Worn(name="headphones", words=("headphones",), place=_over_the_ears, colours=PAINTS),
        Worn(
            name="sunglasses",
            words=("sunglasses", "dark sunglasses"),
            place=_across_the_eyes,
            drawings=icons(noto="sunglasses", noto_v1="sunglasses", twemoji="sunglasses"),
            colours={"black": "#101014", "red": "#c3201c", "blue": "#2148b8", "purple": "#5b2a86"},
        ),
        Worn(
            name="crown",
            words=("a crown", "a golden crown"),
            place=_on_top(0.5),
            drawings=icons(noto="crown", twemoji="crown", noto_v1="crown", emojione="crown"),
            room_above=0.08,
        ),
        Worn(
            name="hat",
            words=("a hat", "a top hat", "a black hat"),
            place=_on_top(0.62),
            drawings=icons(noto="top-hat", twemoji="top-hat", emojione="top-hat"),
            room_above=0.1,
        ),
        Worn(
            name="cap",
            words=("a cap", "a blue cap", "a baseball cap"),
            place=_on_top(0.62),
            drawings=icons(noto="billed-cap", twemoji="billed-cap", fluent_emoji_flat="billed-cap"),
            room_above=0.06,
        ),
        Worn(name="scarf", words=("a scarf",), place=_round_the_neck, colours=PAINTS),
        Worn(
            name="bow",
            words=("a bow", "a ribbon", "a big bow"),
            place=_beside_the_ear,
            drawings=icons(noto="ribbon", twemoji="ribbon", emojione="ribbon", fluent_emoji_flat="ribbon"),
            room_above=0.03,
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Held:
    """A thing held or used. Each pose has its drawings, its placement and its own words."""

    name: str
    poses: tuple[tuple[tuple[Icon, ...], Placement, tuple[str, ...]], ...]


HELD = {
    held.name: held
    for held in (
        Held(
            name="book",
            poses=(
                (
                    icons(noto="open-book", twemoji="open-book", emojione="open-book", fluent_emoji_flat="open-book"),
                    (0.0, 0.42, 0.5),
                    ("reading a book", "reading", "with an open book", "reading a good book", "with a book"),
                ),
                (
                    icons(noto="closed-book", twemoji="closed-book", fluent_emoji_flat="closed-book"),
                    (0.34, 0.3, 0.5),
                    ("holding a book", "holding a published book", "with a new book", "holding its own book", "publishing a book"),
                ),
            ),
        ),
        Held(
            name="laptop",
            poses=(
                (
                    icons(noto="laptop", twemoji="laptop", emojione="laptop", fluent_emoji_flat="laptop"),
                    (0.0, 0.4, 0.56),
                    (
                        "using a laptop",
                        "writing a book on a laptop",
                        "with a laptop",
                        "using a laptop to write a book",
                        "writing on a laptop",
                    ),
                ),
            ),
        ),
        Held(
            name="trophy",
            poses=(
                (
                    icons(noto="trophy", twemoji="trophy", fxemoji="trophy", fluent_emoji_flat="trophy"),
                    (0.46, 0.26, 0.6),
                    ("holding a trophy", "winning a prize", "with a golden trophy", "winning the Nobel Prize", "with a trophy"),
                ),
            ),
        ),
        Held(
            name="medal",
            poses=(
                (
                    icons(noto="sports-medal", twemoji="sports-medal", noto_v1="sports-medal", fluent_emoji_flat="sports-medal"),
                    (-0.4, 0.26, 0.6),
                    ("with a medal", "with a gold medal", "winning a medal", "holding a medal"),
                ),
            ),
        ),
        Held(
            name="umbrella",
            poses=(
                (
                    icons(noto="umbrella", twemoji="umbrella", emojione="umbrella", noto_v1="umbrella"),
                    (0.46, -0.1, 0.95),
                    ("holding an umbrella", "with an umbrella", "under an umbrella"),
                ),
            ),
        ),
        Held(
            name="balloon",
            poses=(
                (
                    icons(noto="balloon", twemoji="balloon", fxemoji="balloon", fluent_emoji_flat="balloon"),
                    (0.52, -0.16, 0.7),
                    ("holding a balloon", "with a red balloon", "with a balloon"),
                ),
            ),
        ),
        Held(
            name="cup",
            poses=(
                (
                    icons(noto="hot-beverage", twemoji="hot-beverage", emojione="hot-beverage", noto_v1="hot-beverage"),
                    (-0.36, 0.32, 0.46),
                    ("drinking coffee", "holding a cup", "with a cup of coffee", "with a cup of tea", "drinking a cup of tea"),
                ),
            ),
        ),
    )
}


def drawn_colour(worn: str, variant: int) -> str | None:
    """The colour in which the program draws the thing worn; None where it is an icon."""
    thing = WORN[worn]
    index = variant % (len(thing.drawings) + len(thing.colours))
    return None if index < len(thing.drawings) else list(thing.colours)[index - len(thing.drawings)]


def held_pose(held: str, variant: int) -> tuple[tuple[Icon, ...], Placement, tuple[str, ...]]:
    """Drawings, placement and words of the way in which the thing is held."""
    poses = HELD[held].poses
    return poses[(variant >> 4) % len(poses)]
