"""A picture under construction, in coordinates where the picture is the unit square, y pointing down, with a margin around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageOps

Colour = tuple[int, ...]
"""Red, green, blue and perhaps opacity, 0 to 255."""


class Sprite:
    """A drawing at several sizes, so that pasting it small costs little."""

    def __init__(self, image: Image.Image) -> None:
        self.levels = [image]
        while (last := self.levels[-1]).height > 24:
            self.levels.append(last.resize((max(1, last.width * 7 // 10), last.height * 7 // 10), Image.Resampling.BOX))

    @property
    def ratio(self) -> float:
        """Height over width."""
        return self.levels[0].height / self.levels[0].width

    def at(self, height: float) -> Image.Image:
        """The smallest level that is at least `height` pixels tall, or the largest there is."""
        return next((level for level in reversed(self.levels) if level.height >= height), self.levels[0])


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a sprite is changed when it is pasted: mirrored, tinted with a colour, its red, green and blue multiplied by gains."""

    mirrored: bool = False
    tint: Colour | None = None
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def recoloured(self, patch: Image.Image) -> Image.Image:
        """An RGBA patch with the tint and the gains applied; its opacity stays."""
        if self.tint is None and self.gains == (1.0, 1.0, 1.0):
            return patch
        colours, opacity = patch.convert("RGB"), patch.getchannel("A")
        if self.tint is not None:
            dark = tuple(value // 6 for value in self.tint)
            light = tuple(255 - (255 - value) // 3 for value in self.tint)
            tinted = ImageOps.colorize(ImageOps.grayscale(colours), dark, light, self.tint, midpoint=150)
            colours = Image.blend(colours, tinted, 0.85)
        if self.gains != (1.0, 1.0, 1.0):
            colours = colours.point([min(255, round(value * gain)) for gain in self.gains for value in range(256)])
        colours.putalpha(opacity)
        return colours


PLAIN = Look()


class Canvas:
    """An RGB picture of `side` pixels a side; with a `margin`, more is painted on every side, for a camera to move over."""

    def __init__(self, side: int, margin: float = 0.0) -> None:
        self.side, self.margin = side, margin
        pixels = math.ceil(side * (1 + 2 * margin))
        self.offset = (pixels - side) / 2
        self.image = Image.new("RGB", (pixels, pixels))

    def gradient(self, *stops: tuple[float, Colour]) -> None:
        """Fills everything, from top to bottom, with colours that change linearly between heights."""
        rows = (np.arange(self.image.height) + 0.5 - self.offset) / self.side
        heights = [at for at, _ in stops]
        column = np.stack([np.interp(rows, heights, [colour[channel] for _, colour in stops]) for channel in range(3)], -1)
        self.image = Image.fromarray(np.repeat(column[:, None].round().astype(np.uint8), self.image.width, 1))

    def rectangle(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        (x0, y0), (x1, y1) = self._pixels(left, top), self._pixels(right, bottom)
        ImageDraw.Draw(self.image, "RGBA").rectangle((x0, y0, x1, y1), fill=colour)

    def polygon(self, points: Sequence[tuple[float, float]], colour: Colour) -> None:
        ImageDraw.Draw(self.image, "RGBA").polygon([self._pixels(x, y) for x, y in points], fill=colour)

    def dot(self, x: float, y: float, radius: float, colour: Colour) -> None:
        (cx, cy), reach = self._pixels(x, y), radius * self.side
        ImageDraw.Draw(self.image, "RGBA").ellipse((cx - reach, cy - reach, cx + reach, cy + reach), fill=colour)

    def sprite(self, sprite: Sprite, x: float, y: float, height: float, angle: float = 0.0, look: Look = PLAIN, width: float = 1.0) -> None:
        """Draws a sprite centred on (x, y), `height` tall, turned by `angle` radians clockwise, with sub-pixel placement.

        `width` multiplies its usual width; negative ones mirror it.
        """
        (cx, cy), tall = self._pixels(x, y), height * self.side
        if tall < 1:
            return
        # One that is drawn narrower loses detail in both directions, halfway between what either could show.
        level = sprite.at(tall * min(1.0, abs(width)) ** 0.5)
        scale = level.height / tall
        cos, sin = math.cos(angle), math.sin(angle)
        wide = abs(width) * level.width
        half_width = (abs(cos) * wide + abs(sin) * level.height) / scale / 2 + 1
        half_height = (abs(sin) * wide + abs(cos) * level.height) / scale / 2 + 1
        left, top = max(math.floor(cx - half_width), 0), max(math.floor(cy - half_height), 0)
        right, bottom = min(math.ceil(cx + half_width), self.image.width), min(math.ceil(cy + half_height), self.image.height)
        if right <= left or bottom <= top:
            return
        # From a pixel of the patch back to a pixel of the sprite: turn, scale, and mirror.
        across = (-scale if look.mirrored else scale) / width
        ax, bx = across * cos, across * sin
        ay, by = -sin * scale, cos * scale
        dx, dy = left - cx, top - cy
        matrix = (ax, bx, ax * dx + bx * dy + level.width / 2, ay, by, ay * dx + by * dy + level.height / 2)
        patch = level.transform((right - left, bottom - top), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        self.image.paste(look.recoloured(patch), (left, top), patch.getchannel("A"))

    def seen(self, x: float, y: float, side: float, angle: float) -> Image.Image:
        """The square of side `side` around (x, y), turned by `angle`, as a picture of the canvas's own side."""
        (cx, cy), cos, sin = self._pixels(x, y), side * math.cos(angle), side * math.sin(angle)
        half = self.side / 2
        matrix = (cos, -sin, cx - cos * half + sin * half, sin, cos, cy - sin * half - cos * half)
        return self.image.transform((self.side, self.side), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)

    def picture(self) -> Image.Image:
        """The picture without its margin."""
        edge = round(self.offset)
        return self.image.crop((edge, edge, edge + self.side, edge + self.side)) if edge else self.image

    def _pixels(self, x: float, y: float) -> tuple[float, float]:
        return x * self.side + self.offset, y * self.side + self.offset
