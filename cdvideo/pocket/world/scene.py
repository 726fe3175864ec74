"""Scenes: a subject that wears or holds a thing at a place, drawn at any size and any moment of a short clip.

A scene is a value (`Scene`), sampled from a seed; `Painter` turns it into pictures. Same seed, same scene; same scene and moment,
same picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter

from cdvideo.pocket.world.catalogue import (
    ADJECTIVES,
    BAD_QUALITY,
    COLOURS,
    DRAWN_COLOURS,
    HELD,
    HELD_DRAWINGS,
    MOTIONS,
    PLACES,
    SIZES,
    SUBJECTS,
    WORN,
    WORN_DRAWINGS,
    Icon,
)
from cdvideo.pocket.world.icons import Icons, drawn_sprite


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that decides the pixels of a clip. Lengths are fractions of the picture's side."""

    subject: str
    drawing: Icon
    worn: str | None = None
    held: str | None = None
    variant: int = 0
    place: str = "white"
    decor_seed: int = 0
    motion: str | None = None
    amplitude: float = 1.0
    x: float = 0.5
    y: float = 0.56
    height: float = 0.6
    size: str = "normal"
    side: str | None = None
    phase: float = 0.0
    blurred: bool = False

    def __post_init__(self) -> None:
        if self.place not in PLACES and self.place not in COLOURS:
            raise ValueError(f"no place {self.place!r}; one of {sorted([*PLACES, *COLOURS])}")


def sample_scene(rng: Generator, subject: str | None = None, drawing: Icon | None = None) -> Scene:
    name = subject or str(rng.choice(sorted(SUBJECTS)))
    size = str(rng.choice(["small", "normal", "large"], p=[0.12, 0.78, 0.10]))
    low, high = {"small": (0.28, 0.4), "normal": (0.5, 0.68), "large": (0.8, 0.98)}[size]
    height = float(rng.uniform(low, high))
    side = None if size == "large" or rng.random() < 0.8 else str(rng.choice(["left", "right"]))
    centre = {"left": 0.28, "right": 0.72, None: 0.5}[side]
    drawings = SUBJECTS[name].drawings
    worn = str(rng.choice(list(WORN))) if rng.random() < 0.5 else None
    # A thing worn on top of the head needs room above it.
    above = 0.07 if worn in ("crown", "hat") else 0.0
    return Scene(
        subject=name,
        drawing=drawing or drawings[int(rng.integers(len(drawings)))],
        worn=worn,
        held=str(rng.choice(list(HELD))) if rng.random() < 0.45 else None,
        variant=int(rng.integers(1 << 16)),
        place=str(rng.choice(list(PLACES))) if rng.random() < 0.6 else str(rng.choice(list(COLOURS))),
        decor_seed=int(rng.integers(1 << 31)),
        motion=str(rng.choice(list(MOTIONS))) if rng.random() < 0.35 else None,
        amplitude=float(rng.uniform(0.8, 1.2)),
        x=centre + float(rng.normal(0, 0.03)),
        y=0.55 + above + float(rng.normal(0, 0.02)),
        height=height,
        size=size,
        side=side,
        phase=float(rng.random()),
        blurred=bool(rng.random() < 0.04),
    )


def caption(scene: Scene, rng: Generator) -> str:
    """One way to say what the scene shows; wording drawn from `rng`."""

    def pick(options: tuple[str, ...]) -> str:
        return str(options[int(rng.integers(len(options)))])

    lead = pick(("", "", "a photo of ", "photo of ", "a picture of "))
    if scene.blurred:
        if rng.random() < 0.5:
            return pick(BAD_QUALITY)
        lead = f"{pick(BAD_QUALITY)}, {lead}"
    adjectives = []
    if scene.size != "normal":
        word = pick(SIZES[scene.size])
        if word in ("far away", "close up", "zoomed in"):
            lead = f"{pick(('', 'a '))}{word} photo of "
        elif lead == "photo of " and rng.random() < 0.5:
            lead = f"{word} photo of "
        else:
            adjectives.append(word)
    if rng.random() < 0.2:
        adjectives.append(pick(ADJECTIVES))
    noun = " ".join([*adjectives, scene.subject])
    noun = f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
    clauses = []
    if scene.worn:
        clauses.append(f"wearing {pick(WORN[scene.worn])}")
    if scene.held:
        clauses.insert(int(rng.integers(len(clauses) + 1)), pick(HELD[scene.held]))
    if len(clauses) == 2 and rng.random() < 0.4:
        clauses[1] = f"and {clauses[1]}"
    if scene.motion:
        clauses.append(pick(MOTIONS[scene.motion]))
    if scene.place in PLACES:
        clauses.append(pick(PLACES[scene.place]))
    elif rng.random() < 0.9:
        clauses.append(f"on a {scene.place} background")
    if scene.side and rng.random() < 0.8:
        clauses.append(f"on the {scene.side}")
    return lead + " ".join([noun, *clauses])


class Painter:
    """Draws scenes. Keeps its sprites at several sizes, so that a picture costs a few milliseconds."""

    def __init__(self, icons: Icons) -> None:
        self.icons = icons
        self._levels: dict[object, list[Image.Image]] = {}

    def frame(self, scene: Scene, moment: float = 0.0, side: int = 128) -> Image.Image:
        """The scene at a moment in [0, 1] of its clip, an RGB picture of `side` pixels a side."""
        canvas = _paint_place(scene, moment, side, self)
        pose = _pose(scene, moment)
        for sprite, dx, dy, height in self._layers(scene):
            cos, sin = math.cos(pose.angle), math.sin(pose.angle)
            x = pose.x + pose.height * (dx * cos - dy * sin)
            y = pose.y + pose.height * (dx * sin + dy * cos)
            paste(canvas, sprite, x * side, y * side, height * pose.height * side, pose.angle)
        return canvas.filter(ImageFilter.GaussianBlur(0.03 * side)) if scene.blurred else canvas

    def clip(self, scene: Scene, num_frames: int = 16, side: int = 128) -> list[Image.Image]:
        return [self.frame(scene, index / num_frames, side) for index in range(num_frames)]

    def _layers(self, scene: Scene) -> list[tuple[list[Image.Image], float, float, float]]:
        """Sprites with their offset and height, in units of the subject's height."""
        subject = SUBJECTS[scene.subject]
        layers = [(self.icon(scene.drawing), 0.0, 0.0, 1.0)]
        width = subject.head_width
        if scene.worn in DRAWN_COLOURS:
            colours = DRAWN_COLOURS[scene.worn]
            levels = self._pyramid((scene.worn, colour := colours[scene.variant % len(colours)]), drawn_sprite(scene.worn, colour))
            ratio = levels[0].height / levels[0].width
            if scene.worn == "sunglasses":
                layers.append((levels, 0.0, subject.eyes + 0.02, width * 0.86 * ratio))
            else:
                height = width * 1.12 * ratio
                layers.append((levels, 0.0, subject.top - 0.1 + height / 2, height))
        elif scene.worn:
            drawings = WORN_DRAWINGS[scene.worn]
            levels = self.icon(drawings[scene.variant % len(drawings)])
            height = 0.46 * max(width, 0.7)
            layers.append((levels, 0.0, subject.top + 0.04 - height / 2, height))
        if scene.held:
            drawings = HELD_DRAWINGS[scene.held]
            levels = self.icon(drawings[(scene.variant >> 4) % len(drawings)])
            dx, dy, height = {"book": (0.0, 0.44, 0.5), "laptop": (0.0, 0.42, 0.6), "trophy": (0.48, 0.28, 0.62)}[scene.held]
            layers.append((levels, dx, dy, height))
        return layers

    def icon(self, icon: Icon) -> list[Image.Image]:
        return self._pyramid(icon, None)

    def _pyramid(self, key: object, sprite: Image.Image | None) -> list[Image.Image]:
        if key not in self._levels:
            image = sprite if sprite is not None else self.icons.sprite(*key)  # type: ignore[misc]
            levels = [image]
            while levels[-1].height > 24:
                levels.append(levels[-1].resize((max(1, levels[-1].width * 7 // 10), levels[-1].height * 7 // 10), Image.Resampling.BOX))
            self._levels[key] = levels
        return self._levels[key]


@dataclass(frozen=True)
class _Pose:
    x: float
    y: float
    height: float
    angle: float


def _pose(scene: Scene, moment: float) -> _Pose:
    """Where the subject is at a moment: its named motion, or a gentle sway where none is named."""
    turn = 2 * math.pi * (moment + scene.phase)
    x, y, height, angle = scene.x, scene.y, scene.height, 0.0
    if scene.motion in ("left", "right"):
        sign = 1 if scene.motion == "right" else -1
        x += sign * 0.42 * scene.amplitude * (moment - 0.5)
        y -= 0.02 * abs(math.sin(4 * math.pi * moment))
    elif scene.motion == "jump":
        y -= 0.2 * scene.amplitude * abs(math.sin(2 * math.pi * moment + scene.phase))
    elif scene.motion == "nod":
        angle = 0.3 * scene.amplitude * math.sin(2 * turn)
    elif scene.motion == "approach":
        height *= 0.75 + 0.55 * moment * scene.amplitude
    else:
        angle = 0.06 * math.sin(turn)
        y += 0.015 * math.sin(2 * turn)
    return _Pose(x, y, height, angle)


def paste(canvas: Image.Image, levels: list[Image.Image], x: float, y: float, height: float, angle: float = 0.0) -> None:
    """Draws a sprite centred on (x, y), `height` pixels tall, turned by `angle` radians, with sub-pixel placement."""
    if height < 1:
        return
    sprite = next((level for level in reversed(levels) if level.height >= height), levels[0])
    scale = sprite.height / height
    reach = math.hypot(sprite.width, sprite.height) / scale / 2 + 1
    left, top = math.floor(x - reach), math.floor(y - reach)
    right, bottom = math.ceil(x + reach), math.ceil(y + reach)
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, canvas.width), min(bottom, canvas.height)
    if right <= left or bottom <= top:
        return
    cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
    px, py = left - x, top - y
    matrix = (cos, sin, cos * px + sin * py + sprite.width / 2, -sin, cos, -sin * px + cos * py + sprite.height / 2)
    patch = sprite.transform((right - left, bottom - top), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    canvas.paste(patch, (left, top), patch)


def _gradient(side: int, *stops: tuple[float, tuple[int, int, int]]) -> Image.Image:
    rows = np.linspace(0, 1, side)
    column = np.stack([np.interp(rows, [at for at, _ in stops], [colour[channel] for _, colour in stops]) for channel in range(3)], -1)
    return Image.fromarray(np.repeat(column[:, None].round().astype(np.uint8), side, 1))


def _paint_place(scene: Scene, moment: float, side: int, painter: Painter) -> Image.Image:
    rng = np.random.default_rng(scene.decor_seed)
    if scene.place in COLOURS:
        top, bottom = COLOURS[scene.place]
        return _gradient(side, (0.0, top), (1.0, bottom))
    jitter = float(rng.normal(0, 0.015))
    flip = bool(rng.random() < 0.5)

    def across(x: float) -> float:
        return (1 - x if flip else x) * side

    if scene.place == "beach":
        horizon, shore = 0.46 + jitter, 0.66 + jitter
        canvas = _gradient(side, (0, (120, 200, 240)), (horizon, (215, 240, 250)), (horizon + 0.001, (40, 130, 205)), (1, (70, 170, 220)))
        draw = ImageDraw.Draw(canvas)
        swell = 0.012 * math.sin(2 * math.pi * (moment + scene.phase))
        draw.rectangle((0, (shore + swell) * side, side, side), fill=(245, 245, 240))
        draw.rectangle((0, (shore + swell + 0.02) * side, side, side), fill=(236, 205, 140))
        paste(canvas, painter.icon(("noto", "sun")), across(0.84), 0.14 * side, 0.2 * side)
        paste(canvas, painter.icon(("twemoji", "palm-tree")), across(0.1), 0.42 * side, 0.56 * side)
    elif scene.place == "snow":
        horizon = 0.6 + jitter
        canvas = _gradient(side, (0, (170, 200, 230)), (horizon, (215, 228, 240)), (horizon + 0.001, (246, 249, 252)), (1, (228, 236, 246)))
        paste(canvas, painter.icon(("twemoji", "evergreen-tree")), across(0.12), 0.44 * side, 0.44 * side)
        paste(canvas, painter.icon(("twemoji", "evergreen-tree")), across(0.9), 0.5 * side, 0.32 * side)
        draw = ImageDraw.Draw(canvas)
        for _ in range(12):
            x, y, radius = rng.random(), (rng.random() + 0.5 * moment) % 1, 0.012 + 0.008 * rng.random()
            draw.ellipse([side * value for value in (x - radius, y - radius, x + radius, y + radius)], fill=(255, 255, 255))
    elif scene.place == "grass":
        horizon = 0.62 + jitter
        canvas = _gradient(side, (0, (110, 185, 245)), (horizon, (205, 232, 250)), (horizon + 0.001, (104, 190, 80)), (1, (70, 158, 60)))
        drift = 0.08 * (moment - 0.5)
        paste(canvas, painter.icon(("noto", "cloud")), across(0.2) + drift * side, 0.16 * side, 0.14 * side)
        paste(canvas, painter.icon(("noto", "cloud")), across(0.8) + drift * side, 0.24 * side, 0.1 * side)
        paste(canvas, painter.icon(("noto", "tulip")), across(0.1), 0.82 * side, 0.16 * side)
        paste(canvas, painter.icon(("noto", "tulip")), across(0.92), 0.76 * side, 0.13 * side)
    elif scene.place == "night":
        canvas = _gradient(side, (0, (14, 16, 54)), (0.75 + jitter, (44, 48, 110)), (0.751 + jitter, (26, 34, 52)), (1, (16, 22, 36)))
        paste(canvas, painter.icon(("noto", "full-moon")), across(0.84), 0.16 * side, 0.19 * side)
        for index in range(7):
            x, y = (index + 0.2 + 0.6 * rng.random()) / 7, 0.04 + 0.4 * rng.random()
            glow = 0.8 + 0.2 * math.sin(2 * math.pi * (moment + rng.random()))
            paste(canvas, painter.icon(("twemoji", "star")), x * side, y * side, 0.055 * glow * side)
    else:
        floor = 0.76 + jitter
        canvas = _gradient(side, (0, (58, 34, 64)), (floor, (96, 60, 92)), (floor + 0.001, (176, 118, 66)), (1, (138, 88, 46)))
        draw = ImageDraw.Draw(canvas, "RGBA")
        lean = 0.06 * math.sin(2 * math.pi * (moment + scene.phase))
        draw.polygon(
            [(side * x, side * y) for x, y in ((0.46, 0), (0.54, 0), (0.84 + lean, 0.95), (0.16 + lean, 0.95))], fill=(255, 240, 190, 70)
        )
        for edge in (0.0, 1.0):
            for fold in range(3):
                near, far = abs(edge - fold * 0.06), abs(edge - (fold + 1) * 0.06)
                shade = (196, 30, 44) if fold % 2 == 0 else (158, 18, 34)
                draw.rectangle((min(near, far) * side, 0, max(near, far) * side, floor * side), fill=shade)
    return canvas
