"""Captions: the words in which people would describe a scene."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.random import Generator

from cdvideo.pocket.world.moves import CAMERAS, MOTIONS
from cdvideo.pocket.world.places import PLACES
from cdvideo.pocket.world.scene import Scene
from cdvideo.pocket.world.things import WORN, drawn_colour, held_pose

SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "very small", "tiny", "little"),
    "normal": (),
    "large": ("big", "large", "huge"),
}
SIZE_LEADS: dict[str, tuple[str, ...]] = {
    "small": ("far away photo of ", "a far away photo of "),
    "normal": (),
    "large": ("close up photo of ", "a close up photo of ", "zoomed in photo of ", "a close-up of "),
}
LEADS = ("", "", "", "a photo of ", "photo of ", "a picture of ", "an image of ")

ADJECTIVES = (
    "cute", "happy", "lovely", "sweet", "funny", "friendly", "nice", "young", "old", "beautiful", "brave", "clever",
    "calm", "shiny", "soft", "fluffy", "famous", "quiet", "good", "kind", "proud", "playful", "sleepy", "curious", "smart",
)  # fmt: skip
"""Words without a picture of their own, so that the text encoder learns to keep a class when an adjective joins it."""

BAD_QUALITY = ("bad quality", "bad quality, worse quality", "worse quality", "blurry, bad quality")
"""How a blurred picture is described, so that AnimateDiff's usual negative prompt means something here too."""


def caption(scene: Scene, rng: Generator, *, complete: bool = False) -> str:
    """One way to say what the scene shows, its wording drawn from `rng`.

    People leave things unsaid: one caption in five names no place. With `complete`, subject, things and place are all named, so that a
    picture made from the caption can be judged by it.
    """

    def pick(options: Sequence[str]) -> str:
        return str(options[int(rng.integers(len(options)))])

    def chance(probability: float) -> bool:
        return bool(rng.random() < probability)

    lead, adjectives = pick(LEADS), []
    if scene.blurred and chance(0.5) and not complete:
        return pick(BAD_QUALITY)
    if scene.size != "normal":
        if chance(0.35):
            lead = pick(SIZE_LEADS[scene.size])
        else:
            adjectives.append(pick(SIZE_WORDS[scene.size]))
    if scene.blurred:
        lead = f"{pick(BAD_QUALITY)}, {lead}"
    if chance(0.2):
        adjectives.append(pick(ADJECTIVES))
    if scene.colour:
        adjectives.append(scene.colour)
    noun = _with_article(" ".join([*adjectives, scene.subject]))
    clauses = []
    if scene.companion:
        clauses.append(f"{pick(('and', 'next to', 'with', 'beside'))} {_with_article(scene.companion)}")
    if scene.worn:
        clauses.append(f"wearing {_worn_words(scene, rng)}")
    if scene.held:
        clauses.insert(int(rng.integers(len(clauses) + 1)), pick(held_pose(scene.held, scene.variant)[2]))
    if len(clauses) == 2 and chance(0.4):
        clauses[1] = f"and {clauses[1]}"
    if scene.motion:
        clauses.append(pick(MOTIONS[scene.motion]))
    if complete or chance(0.8):
        clauses.append(pick(PLACES[scene.place]) if scene.place in PLACES else f"on {_with_article(scene.place)} background")
    if scene.side and chance(0.8):
        clauses.append(f"on the {scene.side}")
    text = lead + " ".join([noun, *clauses])
    return f"{text}, {pick(CAMERAS[scene.camera])}" if scene.camera else text


def _worn_words(scene: Scene, rng: Generator) -> str:
    assert scene.worn
    words = WORN[scene.worn].words
    said = str(words[int(rng.integers(len(words)))])
    colour = drawn_colour(scene.worn, scene.variant)
    if colour is None or rng.random() < 0.5:
        return said
    article, _, noun = said.rpartition("a ")
    noun = noun.removeprefix("dark ")
    return f"{article}a {colour} {noun}" if said.startswith("a ") else f"{colour} {noun}"


def _with_article(noun: str) -> str:
    if noun.split()[-1] == "sunglasses":
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
