"""What the picture world holds: subjects in several drawing styles, things worn and held, places, and how people name them."""

from __future__ import annotations

from dataclasses import dataclass

Icon = tuple[str, str]
"""An icon family and an icon's name in it."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A class of subject and its drawings.

    Anchors are in units of the trimmed drawing's height from its centre, y pointing down: where sunglasses sit (`eyes`), where a
    hat's brim rests (`top`), and how wide the head is (`head_width`). `personal` drawings are never shown in training: they are
    the subjects that a user brings.
    """

    name: str
    drawings: tuple[Icon, ...]
    personal: tuple[Icon, ...] = ()
    eyes: float = -0.05
    top: float = -0.34
    head_width: float = 0.95


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject(
            name="bear",
            drawings=(("noto", "bear"), ("noto-v1", "bear"), ("twemoji", "bear"), ("fxemoji", "bear")),
            personal=(("fluent-emoji", "bear"), ("fluent-emoji-flat", "bear")),
        ),
        Subject(
            name="dog",
            drawings=(("noto", "dog-face"), ("noto-v1", "dog-face"), ("twemoji", "dog-face"), ("emojione", "dog-face")),
            personal=(("fluent-emoji", "dog-face"), ("fluent-emoji-flat", "dog-face")),
            head_width=0.85,
        ),
        Subject(
            name="cat",
            drawings=(("noto", "cat-face"), ("noto-v1", "cat-face"), ("twemoji", "cat-face")),
            personal=(("fluent-emoji", "cat-face"), ("fluent-emoji-flat", "cat-face")),
            eyes=0.05,
            top=-0.26,
        ),
        Subject(
            name="panda",
            drawings=(("noto", "panda"), ("noto-v1", "panda-face"), ("twemoji", "panda"), ("fluent-emoji-flat", "panda")),
        ),
        Subject(
            name="fox",
            drawings=(("noto", "fox"), ("noto-v1", "fox-face"), ("twemoji", "fox"), ("fluent-emoji-flat", "fox")),
            eyes=0.08,
            top=-0.18,
            head_width=0.8,
        ),
        Subject(
            name="rabbit",
            drawings=(
                ("noto", "rabbit-face"),
                ("noto-v1", "rabbit-face"),
                ("twemoji", "rabbit-face"),
                ("fluent-emoji-flat", "rabbit-face"),
            ),
            eyes=0.16,
            top=-0.02,
            head_width=0.55,
        ),
        Subject(
            name="lion",
            drawings=(("noto", "lion"), ("noto-v1", "lion-face"), ("twemoji", "lion"), ("fluent-emoji-flat", "lion")),
        ),
        Subject(
            name="tiger",
            drawings=(
                ("noto", "tiger-face"),
                ("noto-v1", "tiger-face"),
                ("twemoji", "tiger-face"),
                ("fluent-emoji-flat", "tiger-face"),
            ),
        ),
        Subject(
            name="frog",
            drawings=(("noto", "frog"), ("noto-v1", "frog-face"), ("twemoji", "frog"), ("fluent-emoji-flat", "frog")),
            eyes=-0.28,
            top=-0.42,
            head_width=0.85,
        ),
        Subject(
            name="monkey",
            drawings=(("noto", "monkey-face"), ("noto-v1", "monkey-face"), ("twemoji", "monkey-face")),
            head_width=0.8,
        ),
        Subject(
            name="pig",
            drawings=(("noto", "pig-face"), ("noto-v1", "pig-face"), ("twemoji", "pig-face"), ("fluent-emoji-flat", "pig-face")),
            eyes=-0.12,
        ),
        Subject(
            name="penguin",
            drawings=(("twemoji", "penguin"), ("emojione", "penguin"), ("fluent-emoji-flat", "penguin")),
            eyes=-0.3,
            top=-0.42,
            head_width=0.45,
        ),
    )
}

WORN = {
    "headphones": ("headphones",),
    "sunglasses": ("sunglasses",),
    "crown": ("a crown", "a golden crown"),
    "hat": ("a hat", "a top hat"),
}
"""Things worn, and what follows "wearing" in a caption."""

WORN_DRAWINGS: dict[str, tuple[Icon, ...]] = {
    "crown": (("noto", "crown"), ("twemoji", "crown"), ("noto-v1", "crown")),
    "hat": (("noto", "top-hat"), ("twemoji", "top-hat")),
}
DRAWN_COLOURS = {
    "headphones": ("#d93025", "#1a73e8", "#f0f0f0", "#188038"),
    "sunglasses": ("#101014", "#24242e"),
}

HELD = {
    "book": ("reading a book", "holding a book", "with a book", "reading", "holding a published book"),
    "laptop": ("using a laptop", "writing a book on a laptop", "with a laptop", "using a laptop to write a book"),
    "trophy": ("holding a trophy", "winning a prize", "with a golden trophy", "winning the Nobel Prize", "with a trophy"),
}
"""Things held or used, and the captions' words for it."""

HELD_DRAWINGS: dict[str, tuple[Icon, ...]] = {
    "book": (("noto", "open-book"), ("twemoji", "open-book")),
    "laptop": (("fluent-emoji-flat", "laptop"), ("noto", "laptop")),
    "trophy": (("noto", "trophy"), ("twemoji", "trophy")),
}

COLOURS = {
    "red": ((219, 50, 54), (190, 30, 38)),
    "blue": ((54, 110, 225), (30, 80, 195)),
    "green": ((66, 176, 84), (40, 145, 62)),
    "yellow": ((250, 210, 66), (240, 186, 40)),
    "pink": ((250, 170, 196), (242, 140, 176)),
    "purple": ((146, 92, 190), (112, 66, 160)),
    "white": ((252, 252, 252), (232, 236, 240)),
}
"""Plain backgrounds: RGB at the top and at the bottom."""

PLACES = {
    "beach": ("on the beach", "at the beach"),
    "snow": ("in the snow",),
    "grass": ("on the grass", "in a meadow"),
    "night": ("at night", "under the stars"),
    "stage": ("on a stage", "on the stage"),
}

MOTIONS = {
    "left": ("walking to the left", "walking left"),
    "right": ("walking to the right", "walking right"),
    "jump": ("jumping", "jumping up and down"),
    "nod": ("nodding", "shaking its head"),
    "approach": ("coming closer", "walking towards the camera"),
}

SIZES = {
    "small": ("small", "very small", "tiny", "far away"),
    "normal": (),
    "large": ("big", "close up", "zoomed in", "large"),
}

ADJECTIVES = (
    "cute", "happy", "lovely", "sweet", "funny", "friendly", "nice", "little", "young", "old", "beautiful", "brave", "clever",
    "calm", "shiny", "soft", "fluffy", "famous", "quiet", "good", "kind", "proud", "playful", "sleepy", "curious", "smart",
)  # fmt: skip
"""Words without a picture of their own, so that the text encoder learns to keep a class when an adjective joins it."""

BAD_QUALITY = ("bad quality", "bad quality, worse quality", "worse quality", "blurry, bad quality")
"""How a blurred picture is described, so that AnimateDiff's usual negative prompt means something here too."""
