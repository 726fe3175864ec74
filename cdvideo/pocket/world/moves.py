"""What moves in a clip: the subject along its named motion, and the camera along its named move.

Both depend only on a moment in [0, 1]. Lengths are fractions of the picture's side, angles are radians, clockwise on the screen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MOTIONS = {
    "left": ("walking to the left", "walking left", "moving to the left"),
    "right": ("walking to the right", "walking right", "moving to the right"),
    "jump": ("jumping", "jumping up and down"),
    "nod": ("nodding", "shaking its head", "swaying from side to side"),
    "spin": ("spinning", "spinning around", "turning around"),
    "float": ("floating up", "floating into the air", "flying up"),
    "approach": ("coming closer", "walking towards the camera", "coming towards us"),
}
"""A subject's motions, and how captions name them."""

CAMERAS = {
    "zoom-in": ("zoom in", "the camera zooms in"),
    "zoom-out": ("zoom out", "the camera zooms out"),
    "pan-left": ("pan left", "the camera pans left"),
    "pan-right": ("pan right", "the camera pans right"),
    "tilt-up": ("tilt up", "the camera tilts up"),
    "tilt-down": ("tilt down", "the camera tilts down"),
    "roll-clockwise": ("roll clockwise", "the camera rolls clockwise"),
    "roll-anticlockwise": ("roll anticlockwise", "the camera rolls anticlockwise"),
}
"""The camera's moves, and how captions name them. The picture moves the other way: a pan to the left shifts everything to the right."""

MARGIN = 0.25
"""How far beyond the picture's edges a scene is painted, so that a moving camera finds something there."""


@dataclass(frozen=True)
class Pose:
    """Where a subject is: its centre, its height, how far it leans, how wide it looks (1: from the front; negative: from behind)."""

    x: float
    y: float
    height: float
    angle: float = 0.0
    width: float = 1.0


EDGE = 0.2
"""How wide a drawing turned sideways looks still."""


def moved(rest: Pose, motion: str | None, moment: float, amplitude: float = 1.0, phase: float = 0.0) -> Pose:
    """The pose at a moment of a motion (None: a gentle sway) that starts from `rest`.

    Nods begin upright and turn about the subject's base; spins begin facing us and turn once about the upright axis: a motion module learns
    what it can tell from a frame's number long before what sixteen frames have to agree on.
    """
    x, y, height, angle, width = rest.x, rest.y, rest.height, rest.angle, rest.width
    if motion in ("left", "right"):
        sign = 1 if motion == "right" else -1
        x += sign * 0.44 * amplitude * (moment - 0.5)
        y -= 0.02 * abs(math.sin(4 * math.pi * moment))
    elif motion == "jump":
        y -= 0.2 * amplitude * abs(math.sin(2 * math.pi * moment + phase))
    elif motion == "nod":
        angle += 0.3 * amplitude * math.sin(4 * math.pi * moment)
        x += height / 2 * math.sin(angle)
        y += height / 2 * (1 - math.cos(angle))
    elif motion == "spin":
        facing = math.cos(2 * math.pi * moment)
        width *= math.copysign(max(abs(facing), EDGE), facing)
    elif motion == "float":
        y += 0.12 - 0.36 * amplitude * moment
        angle += 0.08 * math.sin(2 * math.pi * (moment + phase))
    elif motion == "approach":
        height *= 0.7 + 0.6 * amplitude * moment
    else:
        angle += 0.05 * math.sin(2 * math.pi * (moment + phase))
        y += 0.01 * math.sin(4 * math.pi * (moment + phase))
    return Pose(x, y, height, angle, width)


@dataclass(frozen=True)
class View:
    """What the camera sees: a square of side `side` around (x, y), turned by `angle`. At rest: the picture itself."""

    x: float = 0.5
    y: float = 0.5
    side: float = 1.0
    angle: float = 0.0

    def seen(self, pose: Pose) -> Pose:
        """A pose in the picture that this view makes."""
        cos, sin = math.cos(-self.angle), math.sin(-self.angle)
        dx, dy = pose.x - self.x, pose.y - self.y
        return Pose(
            0.5 + (dx * cos - dy * sin) / self.side,
            0.5 + (dx * sin + dy * cos) / self.side,
            pose.height / self.side,
            pose.angle - self.angle,
            pose.width,
        )


def view(camera: str | None, moment: float, amplitude: float = 1.0) -> View:
    """The camera's view at a moment of its move."""
    way = amplitude * (moment - 0.5)
    match camera:
        case None:
            return View()
        case "zoom-in":
            return View(side=1.0 - 0.42 * way)
        case "zoom-out":
            return View(side=1.0 + 0.42 * way)
        case "pan-left":
            return View(x=0.5 - 0.38 * way)
        case "pan-right":
            return View(x=0.5 + 0.38 * way)
        case "tilt-up":
            return View(y=0.5 - 0.38 * way)
        case "tilt-down":
            return View(y=0.5 + 0.38 * way)
        case "roll-clockwise":
            return View(angle=0.7 * way)
        case "roll-anticlockwise":
            return View(angle=-0.7 * way)
    raise ValueError(f"no camera move {camera!r}; one of {', '.join(CAMERAS)}")
