"""Where scenes take place: plain colours, and painted places whose waves, snow, lights and clouds move."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from cdvideo.pocket.world.canvas import Canvas, Sprite
from cdvideo.pocket.world.subjects import Icon

COLOURS = {
    "red": ((219, 50, 54), (190, 30, 38)),
    "blue": ((54, 110, 225), (30, 80, 195)),
    "green": ((66, 176, 84), (40, 145, 62)),
    "yellow": ((250, 210, 66), (240, 186, 40)),
    "pink": ((250, 170, 196), (242, 140, 176)),
    "purple": ((146, 92, 190), (112, 66, 160)),
    "orange": ((246, 150, 60), (236, 124, 30)),
    "white": ((252, 252, 252), (232, 236, 240)),
}
"""Plain backgrounds: RGB at the top and at the bottom."""

PLACES = {
    "beach": ("on the beach", "at the beach", "by the sea", "on the beach, waves rolling in"),
    "snow": ("in the snow", "in the falling snow", "in winter, snow falling"),
    "forest": ("in the forest", "in the woods", "in a forest"),
    "grass": ("on the grass", "in a meadow", "in the garden"),
    "night": ("at night", "under the stars", "at night under twinkling stars"),
    "street": ("on the street", "in the city", "on a city street"),
    "pool": ("in a swimming pool", "at the swimming pool", "by the pool"),
    "stage": ("on a stage", "on the stage", "on stage under moving lights"),
    "desert": ("in the desert", "among the dunes"),
    "room": ("in a room", "at home", "in the library"),
}
"""Painted places, and how captions name them."""


@dataclass(frozen=True)
class Setting:
    """What a place's painter works with: the canvas, the icons, a generator that is the same at every moment, the moment and a phase."""

    canvas: Canvas
    icon: Callable[[Icon], Sprite]
    rng: Generator
    moment: float
    phase: float

    def wave(self, times: int = 1, shift: float = 0.0) -> float:
        """A sine that comes round `times` in a clip."""
        return math.sin(2 * math.pi * (times * self.moment + self.phase + shift))

    def draw(self, family: str, name: str, x: float, y: float, height: float) -> None:
        self.canvas.sprite(self.icon((family, name)), x, y, height)


def paint(place: str, canvas: Canvas, icon: Callable[[Icon], Sprite], decor_seed: int, moment: float, phase: float) -> None:
    """Paints a place; `decor_seed` decides its details, `moment` and `phase` where its moving parts are."""
    if place in COLOURS:
        top, bottom = COLOURS[place]
        canvas.gradient((0.0, top), (1.0, bottom))
        return
    _PAINTERS[place](Setting(canvas, icon, np.random.default_rng(decor_seed), moment, phase))


def _beach(at: Setting) -> None:
    canvas, side, shift = at.canvas, _side(at.rng), float(at.rng.normal(0, 0.015))
    horizon, shore = 0.46 + shift, 0.68 + shift
    canvas.gradient((0, (120, 200, 240)), (horizon, (215, 240, 250)), (horizon + 0.001, (40, 130, 205)), (1, (70, 170, 220)))
    for line, strength in ((0.51, 120), (0.56, 150), (0.61, 180)):
        drift = 0.5 * (at.moment + line * 7 + at.phase) % 0.5
        for start in np.arange(-0.75, 1.5, 0.5):
            canvas.rectangle(start + drift, line + shift, start + drift + 0.22, line + shift + 0.008, (255, 255, 255, strength))
    wash = 0.02 * at.wave()
    canvas.rectangle(-1, shore + wash, 2, 2, (248, 248, 244))
    canvas.rectangle(-1, shore + wash + 0.022, 2, 2, (236, 205, 140))
    at.draw("noto", "sun", side(0.84), 0.14, 0.2)
    at.draw("twemoji", "palm-tree", side(0.1), 0.42, 0.56)


def _snow(at: Setting) -> None:
    canvas, side, shift = at.canvas, _side(at.rng), float(at.rng.normal(0, 0.015))
    horizon = 0.6 + shift
    canvas.gradient((0, (150, 185, 222)), (horizon, (205, 222, 238)), (horizon + 0.001, (248, 250, 253)), (1, (228, 236, 246)))
    at.draw("twemoji", "evergreen-tree", side(0.1), 0.44 + shift, 0.44)
    at.draw("twemoji", "evergreen-tree", side(0.92), 0.5 + shift, 0.32)
    for _ in range(26):
        x, y, radius = at.rng.uniform(-0.25, 1.25), at.rng.random(), 0.013 + 0.008 * at.rng.random()
        canvas.dot(x + 0.02 * at.wave(1, y), (y + at.moment) % 1 * 1.5 - 0.25, radius, (255, 255, 255))


def _forest(at: Setting) -> None:
    canvas, shift = at.canvas, float(at.rng.normal(0, 0.015))
    floor = 0.66 + shift
    canvas.gradient((0, (150, 200, 150)), (floor, (94, 152, 92)), (floor + 0.001, (72, 112, 52)), (1, (52, 84, 40)))
    for x in (-0.12, 0.12, 0.36, 0.64, 0.88, 1.12):
        name = "evergreen-tree" if at.rng.random() < 0.5 else "deciduous-tree"
        near = 1.0 if abs(x - 0.5) > 0.3 else 0.72
        height = (0.58 + 0.1 * at.rng.random()) * near
        at.draw("twemoji", name, x + 0.02 * at.rng.normal() + 0.006 * at.wave(), floor + 0.03 - height / 2, height)


def _grass(at: Setting) -> None:
    canvas, side, shift = at.canvas, _side(at.rng), float(at.rng.normal(0, 0.015))
    horizon = 0.62 + shift
    canvas.gradient((0, (110, 185, 245)), (horizon, (205, 232, 250)), (horizon + 0.001, (104, 190, 80)), (1, (70, 158, 60)))
    drift = 0.12 * (at.moment - 0.5)
    at.draw("noto", "cloud", side(0.2) + drift, 0.16, 0.16)
    at.draw("noto", "cloud", side(0.8) + drift, 0.24, 0.12)
    for x, y, height in ((0.1, 0.82, 0.17), (0.92, 0.77, 0.14), (0.3, 0.93, 0.13)):
        at.draw("noto", "tulip", side(x), y, height)


def _night(at: Setting) -> None:
    canvas, side, shift = at.canvas, _side(at.rng), float(at.rng.normal(0, 0.015))
    ground = 0.75 + shift
    canvas.gradient((0, (14, 16, 54)), (ground, (44, 48, 110)), (ground + 0.001, (26, 34, 52)), (1, (16, 22, 36)))
    at.draw("noto", "full-moon", side(0.84), 0.16, 0.2)
    for index in range(-2, 9):
        x, y = (index + 0.2 + 0.6 * at.rng.random()) / 7, 0.04 + 0.42 * at.rng.random()
        at.draw("twemoji", "star", x, y, 0.055 * (0.8 + 0.25 * at.wave(1, at.rng.random())))


def _street(at: Setting) -> None:
    canvas, shift = at.canvas, float(at.rng.normal(0, 0.012))
    kerb = 0.7 + shift
    canvas.gradient((0, (150, 190, 226)), (kerb, (212, 222, 232)), (kerb + 0.001, (92, 94, 102)), (1, (70, 72, 80)))
    palette = ((196, 120, 92), (150, 128, 172), (214, 176, 110), (116, 144, 164), (188, 98, 98), (120, 156, 132))
    edges, left = at.rng.permutation(len(palette)), -0.3
    for index in range(8):
        width, top = 0.18 + 0.06 * at.rng.random(), 0.14 + 0.26 * at.rng.random()
        canvas.rectangle(left, top, left + width, kerb, palette[edges[index % len(palette)]])
        lit = at.wave(1, at.rng.random()) > 0
        for row in np.arange(top + 0.05, kerb - 0.08, 0.11):
            for column in (0.22, 0.62):
                shade = (255, 236, 150) if lit == (column < 0.5) else (72, 88, 112)
                canvas.rectangle(left + column * width, row, left + (column + 0.18) * width, row + 0.055, shade)
        left += width
    canvas.rectangle(-1, kerb, 2, kerb + 0.03, (184, 184, 188))
    for start in np.arange(-0.45, 1.4, 0.3):
        canvas.rectangle(start, 0.87, start + 0.16, 0.89, (240, 240, 236))


def _pool(at: Setting) -> None:
    canvas, side, shift = at.canvas, _side(at.rng), float(at.rng.normal(0, 0.012))
    edge = 0.4 + shift
    canvas.gradient((0, (170, 216, 244)), (edge - 0.1, (226, 240, 250)), (edge - 0.1 + 0.001, (226, 214, 196)), (1, (226, 214, 196)))
    canvas.rectangle(-1, edge, 2, 2, (44, 182, 214))
    canvas.rectangle(-1, edge, 2, edge + 0.03, (246, 250, 252))
    for row, line in enumerate(np.arange(edge + 0.1, 1.3, 0.11)):
        drift = 0.06 * at.wave(1, 0.3 * row)
        for start in np.arange(-0.6 + 0.17 * (row % 2), 1.5, 0.34):
            canvas.rectangle(start + drift, line, start + drift + 0.16, line + 0.014, (150, 226, 240))
    at.draw("twemoji", "umbrella-on-ground", side(0.12), edge - 0.1, 0.26)
    at.draw("noto", "sun", side(0.88), 0.12, 0.16)


def _stage(at: Setting) -> None:
    canvas, shift = at.canvas, float(at.rng.normal(0, 0.015))
    floor = 0.76 + shift
    canvas.gradient((0, (58, 34, 64)), (floor, (96, 60, 92)), (floor + 0.001, (176, 118, 66)), (1, (138, 88, 46)))
    lean = 0.12 * at.wave()
    canvas.polygon([(0.46, -0.3), (0.54, -0.3), (0.82 + lean, 0.95), (0.18 + lean, 0.95)], (255, 240, 190, 80))
    for fold in range(-5, 3):
        shade = (196, 30, 44) if fold % 2 == 0 else (158, 18, 34)
        canvas.rectangle(fold * 0.06, -1, (fold + 1) * 0.06, floor, shade)
        canvas.rectangle(1 - (fold + 1) * 0.06, -1, 1 - fold * 0.06, floor, shade)


def _desert(at: Setting) -> None:
    canvas, side, shift = at.canvas, _side(at.rng), float(at.rng.normal(0, 0.015))
    horizon = 0.56 + shift
    canvas.gradient((0, (250, 190, 110)), (horizon, (254, 226, 170)), (horizon + 0.001, (226, 160, 84)), (1, (202, 130, 62)))
    drift = 0.03 * at.wave()
    points = [
        (-0.6, 2.0),
        *((x, horizon + 0.1 - 0.07 * math.cos(5 * side(x) + 40 * shift)) for x in np.arange(-0.6, 1.7, 0.05)),
        (1.6, 2.0),
    ]
    canvas.polygon(points, (236, 178, 100))
    at.draw("noto", "sun", side(0.8) + drift, 0.15, 0.2)
    at.draw("twemoji", "cactus", side(0.1), 0.54 + shift, 0.34)
    at.draw("twemoji", "rock", side(0.93), 0.82, 0.14)


def _room(at: Setting) -> None:
    canvas, side, shift = at.canvas, _side(at.rng), float(at.rng.normal(0, 0.012))
    floor = 0.74 + shift
    walls = ((238, 216, 178), (206, 222, 214), (222, 208, 226))
    wall = walls[int(at.rng.integers(len(walls)))]
    canvas.gradient((0, wall), (floor, wall), (floor + 0.001, (150, 100, 62)), (1, (124, 80, 48)))
    left, right = sorted((side(0.62), side(0.96)))
    canvas.rectangle(left - 0.02, 0.1, right + 0.02, floor, (112, 70, 40))
    for shelf in range(4):
        top = 0.13 + shelf * (floor - 0.12) / 4
        bottom = 0.1 + (shelf + 1) * (floor - 0.12) / 4
        canvas.rectangle(left, top, right, bottom, (72, 44, 26))
        for start in np.arange(left + 0.01, right - 0.03, 0.042):
            spine = [(200, 60, 54), (60, 110, 190), (232, 190, 80), (80, 150, 96), (150, 90, 160)][int(at.rng.integers(5))]
            canvas.rectangle(start, top + 0.02 + 0.03 * at.rng.random(), start + 0.03, bottom, spine)
    canvas.rectangle(side(0.2) - 0.15, 0.14, side(0.2) + 0.15, 0.44, (250, 250, 246))
    glow = round(20 * at.wave())
    canvas.rectangle(side(0.2) - 0.13, 0.16, side(0.2) + 0.13, 0.42, (160 + glow, 210, 240))
    canvas.rectangle(side(0.2) - 0.01, 0.14, side(0.2) + 0.01, 0.44, (250, 250, 246))


def _side(rng: Generator) -> Callable[[float], float]:
    """Keeps or mirrors positions across, by chance."""
    return (lambda x: 1 - x) if rng.random() < 0.5 else (lambda x: x)


_PAINTERS: dict[str, Callable[[Setting], None]] = {
    "beach": _beach,
    "snow": _snow,
    "forest": _forest,
    "grass": _grass,
    "night": _night,
    "street": _street,
    "pool": _pool,
    "stage": _stage,
    "desert": _desert,
    "room": _room,
}
