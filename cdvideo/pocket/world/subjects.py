"""The subjects of the picture world: classes, each in several drawing styles, and where a drawing wears things.

Anchors are in units of the trimmed drawing's height from its centre, y pointing down.
"""

from __future__ import annotations

from dataclasses import dataclass

Icon = tuple[str, str]
"""An icon family and an icon's name in it."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A class of subject and its drawings.

    `eyes` is where glasses sit, `top` where a hat's brim rests, `chin` where a scarf goes round, `head_width` how wide the head is and
    `head_x` how far it is from the middle of a drawing that looks to the left. `personal` drawings are never shown in training: they are
    the subjects that a user brings.
    """

    name: str
    drawings: tuple[Icon, ...]
    personal: tuple[Icon, ...] = ()
    face: bool = False
    eyes: float = -0.05
    top: float = -0.36
    chin: float = 0.36
    head_width: float = 0.95


def icons(**names: str) -> tuple[Icon, ...]:
    """Icons by family; a family's underscores stand for its hyphens, a comma separates several icons."""
    return tuple((family.replace("_", "-"), name) for family, listed in names.items() for name in listed.split(","))


def fluent(name: str) -> tuple[Icon, ...]:
    return icons(**_fluently(name))


def _fluently(name: str) -> dict[str, str]:
    return {"fluent_emoji": name, "fluent_emoji_flat": name}


def _everywhere(name: str, *, old: str | None = None) -> dict[str, str]:
    """An icon that noto, noto-v1 and twemoji name alike, or that the older family calls `old`."""
    return {"noto": name, "noto_v1": old or name, "twemoji": name}


FACES = (
    Subject(name="bear", drawings=icons(**_everywhere("bear"), fxemoji="bear", emojione="bear"), personal=fluent("bear"), face=True),
    Subject(
        name="dog",
        drawings=icons(**_everywhere("dog-face"), fxemoji="dog", emojione="dog-face", streamline_emojis="dog-face"),
        personal=fluent("dog-face"),
        face=True,
        head_width=0.85,
    ),
    Subject(
        name="cat",
        drawings=icons(**_everywhere("cat-face"), emojione="cat-face", streamline_emojis="cat-face"),
        personal=fluent("cat-face"),
        face=True,
        eyes=0.05,
        top=-0.26,
    ),
    Subject(
        name="panda",
        drawings=icons(**_everywhere("panda", old="panda-face"), streamline_emojis="panda-face", **_fluently("panda")),
        face=True,
    ),
    Subject(
        name="fox",
        drawings=icons(**_everywhere("fox", old="fox-face"), emojione="fox-face", **_fluently("fox")),
        face=True,
        eyes=0.08,
        top=-0.18,
        head_width=0.8,
    ),
    Subject(
        name="rabbit",
        drawings=icons(**_everywhere("rabbit-face"), emojione="rabbit-face", streamline_emojis="rabbit-face"),
        personal=fluent("rabbit-face"),
        face=True,
        eyes=0.16,
        top=-0.02,
        chin=0.42,
        head_width=0.55,
    ),
    Subject(
        name="lion",
        drawings=icons(
            **_everywhere("lion", old="lion-face"), emojione="lion-face", streamline_emojis="lion-face", fluent_emoji_flat="lion"
        ),
        face=True,
    ),
    Subject(
        name="tiger",
        drawings=icons(**_everywhere("tiger-face"), streamline_emojis="tiger-face", **_fluently("tiger-face")),
        face=True,
    ),
    Subject(
        name="frog",
        drawings=icons(
            **_everywhere("frog", old="frog-face"),
            fxemoji="frog",
            emojione="frog-face",
            streamline_emojis="frog-face",
            **_fluently("frog"),
        ),
        face=True,
        eyes=-0.28,
        top=-0.42,
        head_width=0.85,
    ),
    Subject(
        name="monkey",
        drawings=icons(
            **_everywhere("monkey-face"),
            emojione="monkey-face",
            streamline_emojis="monkey-face",
            **_fluently("monkey-face"),
        ),
        face=True,
        head_width=0.85,
    ),
    Subject(
        name="pig",
        drawings=icons(
            **_everywhere("pig-face"),
            emojione="pig-face",
            streamline_emojis="pig-face",
            **_fluently("pig-face"),
        ),
        face=True,
        eyes=-0.12,
    ),
    Subject(
        name="cow",
        drawings=icons(
            **_everywhere("cow-face"),
            emojione="cow-face",
            streamline_emojis="cow-face",
            **_fluently("cow-face"),
        ),
        face=True,
        eyes=-0.14,
        top=-0.32,
        head_width=0.8,
    ),
    Subject(
        name="wolf",
        drawings=icons(**_everywhere("wolf", old="wolf-face"), emojione="wolf-face", **_fluently("wolf")),
        face=True,
        eyes=0.0,
        top=-0.24,
        head_width=0.75,
    ),
    Subject(
        name="mouse",
        drawings=icons(
            **_everywhere("mouse-face"),
            emojione="mouse-face",
            streamline_emojis="mouse-face",
            **_fluently("mouse-face"),
        ),
        face=True,
        eyes=0.02,
        top=-0.2,
        head_width=0.8,
    ),
    Subject(
        name="koala",
        drawings=icons(noto="koala", fxemoji="koala", twemoji="koala", streamline_emojis="koala", **_fluently("koala")),
        face=True,
        head_width=0.85,
    ),
    Subject(
        name="robot",
        drawings=icons(**_everywhere("robot", old="robot-face"), emojione="robot-face"),
        personal=fluent("robot"),
        face=True,
        eyes=0.0,
        top=-0.28,
        head_width=0.75,
    ),
    Subject(
        name="owl",
        drawings=icons(**_everywhere("owl"), emojione="owl"),
        personal=fluent("owl"),
        face=True,
        eyes=-0.22,
        top=-0.38,
        chin=0.1,
        head_width=0.6,
    ),
    Subject(
        name="penguin",
        drawings=icons(noto_v1="penguin", fxemoji="penguin", twemoji="penguin", emojione="penguin"),
        personal=fluent("penguin"),
        face=True,
        eyes=-0.3,
        top=-0.42,
        chin=-0.08,
        head_width=0.45,
    ),
    Subject(
        name="ghost",
        drawings=icons(
            **_everywhere("ghost"),
            fxemoji="ghost",
            emojione="ghost",
            streamline_emojis="ghost",
            **_fluently("ghost"),
        ),
        face=True,
        eyes=-0.18,
        top=-0.4,
        chin=0.2,
        head_width=0.62,
    ),
    Subject(
        name="alien",
        drawings=icons(
            noto="alien",
            fxemoji="alien",
            noto_v1="alien",
            twemoji="alien",
            emojione="alien",
            streamline_emojis="alien",
            **_fluently("alien"),
        ),
        face=True,
        eyes=0.0,
        top=-0.4,
        chin=0.44,
        head_width=0.75,
    ),
)

CREATURES = (
    Subject(
        name="elephant",
        drawings=icons(**_everywhere("elephant"), fxemoji="elephant", emojione="elephant", streamline_emojis="elephant"),
        personal=fluent("elephant"),
    ),
    Subject(
        name="turtle",
        drawings=icons(**_everywhere("turtle"), fxemoji="turtle", streamline_emojis="turtle", **_fluently("turtle")),
    ),
    Subject(name="duck", drawings=icons(**_everywhere("duck")), personal=fluent("duck")),
    Subject(
        name="octopus",
        drawings=icons(**_everywhere("octopus"), fxemoji="octopus", emojione="octopus", **_fluently("octopus")),
    ),
    Subject(
        name="whale",
        drawings=icons(**_everywhere("whale"), fxemoji="whale", emojione="whale", **_fluently("whale")),
    ),
    Subject(
        name="fish",
        drawings=icons(
            noto="tropical-fish",
            noto_v1="tropical-fish",
            fxemoji="fish",
            twemoji="tropical-fish,fish",
            emojione="tropical-fish",
            streamline_emojis="tropical-fish",
            fluent_emoji_flat="tropical-fish,fish",
        ),
    ),
    Subject(
        name="butterfly",
        drawings=icons(**_everywhere("butterfly"), emojione="butterfly", **_fluently("butterfly")),
    ),
    Subject(
        name="dinosaur",
        drawings=icons(noto="t-rex,sauropod", twemoji="t-rex,sauropod", **_fluently("t-rex,sauropod")),
    ),
)

THINGS = (
    Subject(
        name="car",
        drawings=icons(
            noto="automobile,sport-utility-vehicle",
            noto_v1="automobile,sport-utility-vehicle",
            fxemoji="automobile",
            twemoji="automobile,sport-utility-vehicle",
            emojione="automobile,sport-utility-vehicle",
            streamline_emojis="automobile",
        ),
        personal=fluent("automobile"),
    ),
    Subject(
        name="bus",
        drawings=icons(**_everywhere("bus"), fxemoji="bus", emojione="bus", streamline_emojis="bus", **_fluently("bus")),
    ),
    Subject(
        name="airplane",
        drawings=icons(
            **_everywhere("airplane"),
            fxemoji="airplane",
            emojione="airplane",
            streamline_emojis="airplane",
            **_fluently("airplane"),
        ),
    ),
    Subject(
        name="rocket",
        drawings=icons(**_everywhere("rocket"), fxemoji="rocket", emojione="rocket", **_fluently("rocket")),
    ),
    Subject(
        name="boat",
        drawings=icons(noto="sailboat", noto_v1="sailboat", streamline_emojis="sailboat", **_fluently("sailboat")),
    ),
    Subject(
        name="bicycle",
        drawings=icons(
            **_everywhere("bicycle"),
            fxemoji="bicycle",
            emojione="bicycle",
            streamline_emojis="bicycle",
            **_fluently("bicycle"),
        ),
    ),
    Subject(
        name="apple",
        drawings=icons(
            **_everywhere("red-apple"),
            emojione="red-apple",
            streamline_emojis="red-apple",
            **_fluently("red-apple"),
        ),
    ),
    Subject(
        name="banana",
        drawings=icons(**_everywhere("banana"), fxemoji="banana", emojione="banana", **_fluently("banana")),
    ),
    Subject(
        name="strawberry",
        drawings=icons(
            **_everywhere("strawberry"),
            fxemoji="strawberry",
            emojione="strawberry",
            **_fluently("strawberry"),
        ),
    ),
    Subject(
        name="pineapple",
        drawings=icons(**_everywhere("pineapple"), fxemoji="pineapple", emojione="pineapple", **_fluently("pineapple")),
    ),
    Subject(
        name="donut",
        drawings=icons(**_everywhere("doughnut"), fxemoji="doughnut", emojione="doughnut", **_fluently("doughnut")),
    ),
    Subject(
        name="cake",
        drawings=icons(**_everywhere("birthday-cake"), emojione="birthday-cake", **_fluently("birthday-cake")),
    ),
    Subject(
        name="mushroom",
        drawings=icons(
            **_everywhere("mushroom"),
            fxemoji="mushroom",
            emojione="mushroom",
            streamline_emojis="mushroom",
            **_fluently("mushroom"),
        ),
    ),
    Subject(
        name="cactus",
        drawings=icons(**_everywhere("cactus"), fxemoji="cactus", emojione="cactus", **_fluently("cactus")),
    ),
    Subject(
        name="guitar",
        drawings=icons(**_everywhere("guitar"), fxemoji="guitar", emojione="guitar"),
        personal=fluent("guitar"),
    ),
    Subject(
        name="house",
        drawings=icons(**_everywhere("house"), emojione="house", **_fluently("house")),
    ),
    Subject(
        name="clock",
        drawings=icons(**_everywhere("alarm-clock"), emojione="alarm-clock", **_fluently("alarm-clock")),
    ),
    Subject(
        name="sunglasses",
        drawings=icons(noto="sunglasses", noto_v1="sunglasses", twemoji="sunglasses", emojione="sunglasses"),
        personal=fluent("sunglasses"),
    ),
)

SUBJECTS = {subject.name: subject for subject in (*FACES, *CREATURES, *THINGS)}
PERSONAL = tuple(name for name, subject in SUBJECTS.items() if subject.personal)
