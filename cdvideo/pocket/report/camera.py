"""How the whole picture moves in a clip: parametric optical flow (Lucas and Kanade 1981; Bergen et al. 1992) of a similarity.

A subject that moves by itself is an outlier to most of the picture, and robust weights take it out. Axes are the screen's: x to the right,
y down, angles clockwise. Everything is the content's motion; the camera's own is the opposite.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Array = NDArray[np.float64]

_BLURS = (4.0, 1.5)
_ITERATIONS = 8


@dataclass(frozen=True)
class Drift:
    """The content's motion over a clip, each part as the mean way of a picture's points in fractions of its side.

    `x` and `y` are shifts to the right and down, `zoom` is growth and `roll` a turn clockwise.
    """

    x: float
    y: float
    zoom: float
    roll: float


EXPECTED: dict[str, tuple[str, int]] = {
    "zoom-in": ("zoom", 1),
    "zoom-out": ("zoom", -1),
    "pan-left": ("x", 1),
    "pan-right": ("x", -1),
    "tilt-up": ("y", 1),
    "tilt-down": ("y", -1),
    "roll-clockwise": ("roll", -1),
    "roll-anticlockwise": ("roll", 1),
}
"""Which part of the drift each camera move shows in, and its sign. A camera that pans left sees everything move to the right."""

MEAN_RADIUS = 0.3826
"""Mean distance of a unit square's points from its centre: what one radian, or a doubling's logarithm, moves them on average."""


def obeys(camera: str, with_camera: Drift, without: Drift) -> bool:
    """Whether a clip moves as its camera's name says: that part is its largest, of the right sign, and beyond the same clip's without."""
    part, sign = EXPECTED[camera]
    way = sign * getattr(with_camera, part)
    others = [abs(value) for name, value in vars(with_camera).items() if name != part]
    return way > max(others) and way > sign * getattr(without, part)


def drift(frames: NDArray[np.uint8]) -> Drift:
    """The motion over frames (F, S, S, 3), summed over pairs of neighbours."""
    levels = [[_blurred(frame, blur * frames.shape[1] / 128) for frame in frames] for blur in _BLURS]
    total = np.zeros(4)
    step = np.zeros(4)
    for index in range(len(frames) - 1):
        for level in levels:
            step = _align(level[index], level[index + 1], step)
        total += step
    x, y, zoom, roll = (float(value) for value in total)
    return Drift(x=x / frames.shape[2], y=y / frames.shape[1], zoom=MEAN_RADIUS * zoom, roll=MEAN_RADIUS * roll)


def _blurred(frame: NDArray[np.uint8], radius: float) -> Array:
    return np.asarray(Image.fromarray(frame).convert("L").filter(ImageFilter.GaussianBlur(radius)), np.float64)


def _align(first: Array, second: Array, start: Array) -> Array:
    """Shift x, y in pixels, growth and angle that take `first` to `second`, found from `start` by Gauss-Newton with Cauchy weights."""
    height, width = first.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    x, y = columns - (width - 1) / 2, rows - (height - 1) / 2
    parameters = start.copy()
    for _ in range(_ITERATIONS):
        shift_x, shift_y, growth, angle = parameters
        to_column = columns + shift_x + growth * x - angle * y
        to_row = rows + shift_y + growth * y + angle * x
        warped, inside = _sampled(second, to_column, to_row)
        down, across = np.gradient((warped + first) / 2)
        error = warped - first
        basis = np.stack([across, down, across * x + down * y, down * x - across * y])[:, inside]
        error = error[inside]
        spread = 1.4826 * np.median(np.abs(error)) + 0.5
        weights = 1 / (1 + (error / (2 * spread)) ** 2)
        hessian = (basis * weights) @ basis.T
        # A nearly flat picture says nothing about some motions; those stay where they are.
        hessian += np.diag(1e-6 * np.diag(hessian) + 1e-3)
        parameters -= np.linalg.solve(hessian, (basis * weights) @ error)
    return parameters


def _sampled(picture: Array, columns: Array, rows: Array) -> tuple[Array, NDArray[np.bool_]]:
    """The picture read at fractional places, and which of them lie inside it."""
    height, width = picture.shape
    inside = (columns >= 1) & (columns <= width - 2) & (rows >= 1) & (rows <= height - 2)
    columns, rows = np.clip(columns, 0, width - 1.001), np.clip(rows, 0, height - 1.001)
    left, top = columns.astype(int), rows.astype(int)
    right, low = columns - left, rows - top
    upper = picture[top, left] * (1 - right) + picture[top, left + 1] * right
    lower = picture[top + 1, left] * (1 - right) + picture[top + 1, left + 1] * right
    return upper * (1 - low) + lower * low, inside
