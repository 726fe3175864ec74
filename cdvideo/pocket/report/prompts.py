"""Prompts that no training has seen, each with what a judge should find in its picture. They need words and scenes, but no icons."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from numpy.random import Generator, default_rng

from cdvideo.pocket.world.moves import MOTIONS
from cdvideo.pocket.world.scene import LABELS, Scene, sample_scene
from cdvideo.pocket.world.wording import caption

HELD_OUT = 770_000_000
"""The first word of every seed here; trainings seed by (part, step), with small numbers for their part."""

THINGS = ("worn", "held", "worn", "held", "worn", "held", "both", "worn", "held", "none")
"""What ten prompts in turn name: five a thing worn, five a thing held (one of them both), one neither."""

CAMERA_PROMPTS = (
    "a bear on the beach",
    "a dog in the snow",
    "a cat on the grass",
    "a fox in the forest",
    "a panda at night",
    "a rabbit on a stage",
)


@dataclass(frozen=True)
class Prompt:
    """A prompt, the labels of the scene that it describes in full, and the seed of its picture's noise."""

    text: str
    expected: dict[str, str | None]
    seed: int

    @property
    def named(self) -> list[str]:
        """The parts that a judge of the whole checks: subject and place, and what is worn or held where the prompt says so."""
        return ["subject", "place", *(name for name in ("worn", "held") if self.expected[name])]


def still_prompts(count: int) -> list[Prompt]:
    return _distinct(count, "stills", lambda index, scene: scene.motion is None and _things(scene) == THINGS[index % len(THINGS)])


def motion_prompts(count: int) -> list[Prompt]:
    """Every motion in turn; what is worn or held is as it falls."""
    motions = list(MOTIONS)
    return _distinct(count, "clips", lambda index, scene: scene.motion == motions[index % len(motions)], moving=True)


def personal_prompts(class_word: str, token: str, count: int) -> list[Prompt]:
    """Compositions of one class at a place, in its own colour, size and position, with the token before the class word."""
    things = ("worn", "held", "both", "worn", "held")

    def wanted(index: int, scene: Scene) -> bool:
        plain = scene.motion is None and scene.colour is None and scene.size == "normal" and scene.side is None
        return plain and _things(scene) == things[index % len(things)]

    prompts = _distinct(count, f"personal {class_word}", wanted, subject=class_word)
    return [Prompt(with_token(prompt.text, class_word, token), prompt.expected, prompt.seed) for prompt in prompts]


def with_token(text: str, class_word: str, token: str) -> str:
    """The text with the token before its first class word, and the article that then fits."""
    marked = re.sub(rf"\b{re.escape(class_word)}\b", f"{token} {class_word}", text, count=1)
    return re.sub(rf"\ban {re.escape(token)}", f"a {token}", marked)


def _distinct(
    count: int, stream: str, wanted: Callable[[int, Scene], bool], *, subject: str | None = None, moving: bool = False
) -> list[Prompt]:
    """The first `count` prompts of a stream: a longer list starts with the shorter one."""
    prompts: dict[str, Prompt] = {}
    for index in range(count):
        rng = default_rng((HELD_OUT, *stream.encode(), index))
        for scene in _scenes(rng, subject, moving):
            if wanted(index, scene) and (text := caption(scene, rng, complete=True)) not in prompts:
                prompts[text] = Prompt(text, {name: getattr(scene, name) for name in LABELS}, HELD_OUT + index)
                break
    return list(prompts.values())


def moving_scenes(rng: Generator) -> Iterator[Scene]:
    """Scenes of the kind that `motion_prompts` describe, every motion in turn."""
    scenes = _scenes(rng, None, moving=True)
    while True:
        for motion in MOTIONS:
            yield next(scene for scene in scenes if scene.motion == motion)


def _scenes(rng: Generator, subject: str | None, moving: bool) -> Iterator[Scene]:
    """Sharp scenes of one subject before a camera at rest."""
    while True:
        scene = sample_scene(rng, subject, moving=moving)
        if not (scene.blurred or scene.camera or scene.companion):
            yield scene


def _things(scene: Scene) -> str:
    return {(True, True): "both", (True, False): "worn", (False, True): "held", (False, False): "none"}[bool(scene.worn), bool(scene.held)]
