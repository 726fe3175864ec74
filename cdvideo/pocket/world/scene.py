"""Scenes: what a clip of the picture world shows, as values. Same seed, same scene; `painter` turns scenes into pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from numpy.random import Generator
from torch import Tensor

from cdvideo.pocket.world.moves import CAMERAS, MOTIONS
from cdvideo.pocket.world.places import COLOURS, PLACES
from cdvideo.pocket.world.subjects import SUBJECTS, Icon
from cdvideo.pocket.world.things import HELD, WORN

SIZES = ("small", "normal", "large")
CLIP_MOTIONS = (*MOTIONS, "left", "right", "nod", "spin", "approach")
"""How often clips show each motion: some take more examples than others."""
HEIGHTS = {"small": (0.28, 0.38), "normal": (0.5, 0.66), "large": (0.8, 0.96)}
"""How tall a subject is, as a fraction of the picture."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that decides the pixels of a clip. Lengths are fractions of the picture's side.

    `companion` is a second subject, on the right of the first. `colour` tints the subject; `gains` multiply its red, green and blue a
    little, which captions do not say. `variant` chooses among the drawings of what is worn or held.
    """

    subject: str
    drawing: Icon
    companion: str | None = None
    companion_drawing: Icon | None = None
    worn: str | None = None
    held: str | None = None
    variant: int = 0
    colour: str | None = None
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    mirrored: bool = False
    place: str = "white"
    decor_seed: int = 0
    motion: str | None = None
    camera: str | None = None
    amplitude: float = 1.0
    x: float = 0.5
    y: float = 0.56
    height: float = 0.6
    size: str = "normal"
    side: str | None = None
    phase: float = 0.0
    blurred: bool = False

    def __post_init__(self) -> None:
        for name, options in LABELS.items():
            if getattr(self, name) not in options:
                raise ValueError(f"no {name} {getattr(self, name)!r}; one of {[option for option in options if option]}")


LABELS: dict[str, list[str | None]] = {
    "subject": list(SUBJECTS),
    "worn": [None, *WORN],
    "held": [None, *HELD],
    "place": [*PLACES, *COLOURS],
    "colour": [None, *COLOURS],
    "size": list(SIZES),
    "side": [None, "left", "right"],
    "motion": [None, *MOTIONS],
    "camera": [None, *CAMERAS],
}
"""What a scene can be asked, and the possible answers."""


def labels_of(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Each label's option for each scene, as indices (N,)."""
    return {name: torch.tensor([options.index(getattr(scene, name)) for scene in scenes]) for name, options in LABELS.items()}


def sample_scene(rng: Generator, subject: str | None = None, *, moving: bool = False) -> Scene:
    """A scene as the parts of pocket are trained on: faces more often than things, since people bring those and dress them.

    Most scenes have no named motion; with `moving`, as for clips, most have one, of the subject or of the camera.
    """

    def chance(probability: float) -> bool:
        return bool(rng.random() < probability)

    def pick(options: Sequence[str]) -> str:
        return str(options[int(rng.integers(len(options)))])

    face = chance(0.6)
    name = subject or pick([other.name for other in SUBJECTS.values() if other.face == face])
    dressed = SUBJECTS[name].face
    size = str(rng.choice(SIZES, p=[0.12, 0.78, 0.10]))
    side = None if size == "large" or chance(0.82) else pick(("left", "right"))
    worn = pick(list(WORN)) if chance(0.55 if dressed else 0.2) else None
    companion = pick(list(SUBJECTS)) if size == "normal" and side is None and worn is None and chance(0.18) else None
    alone = companion is None
    held = pick(list(HELD)) if alone and chance(0.45 if dressed else 0.15) else None
    height = float(rng.uniform(*HEIGHTS[size])) * (1.0 if alone else 0.72)
    centre = {"left": 0.28, "right": 0.72, None: 0.5 if alone else 0.28}[side]
    # A thing worn on top of the head needs room above it.
    above = WORN[worn].room_above if worn else 0.0
    return Scene(
        subject=name,
        drawing=_any(rng, SUBJECTS[name].drawings),
        companion=companion,
        companion_drawing=_any(rng, SUBJECTS[companion].drawings) if companion else None,
        worn=worn,
        held=held,
        variant=int(rng.integers(1 << 16)),
        colour=pick(list(COLOURS)) if chance(0.12) else None,
        gains=tuple(float(gain) for gain in rng.uniform(0.88, 1.12, 3)),  # type: ignore[arg-type]
        mirrored=chance(0.5),
        place=pick(list(PLACES)) if chance(0.68) else pick(list(COLOURS)),
        decor_seed=int(rng.integers(1 << 31)),
        motion=pick(CLIP_MOTIONS if moving else list(MOTIONS)) if chance(0.8 if moving else 0.25) else None,
        camera=pick(list(CAMERAS)) if chance(0.12 if moving else 0.08) else None,
        amplitude=float(rng.uniform(0.85, 1.15)),
        x=centre + float(rng.normal(0, 0.03)),
        y=0.55 + above + float(rng.normal(0, 0.02)),
        height=height,
        size=size,
        side=side,
        phase=float(rng.random()),
        blurred=chance(0.03),
    )


def _any(rng: Generator, drawings: tuple[Icon, ...]) -> Icon:
    return drawings[int(rng.integers(len(drawings)))]
