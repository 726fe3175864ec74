"""Turns scenes into pictures."""

from __future__ import annotations

import math

from PIL import Image, ImageFilter

from cdvideo.pocket.world import places
from cdvideo.pocket.world.canvas import PLAIN, Canvas, Look, Sprite
from cdvideo.pocket.world.icons import Icons, drawn_sprite
from cdvideo.pocket.world.moves import MARGIN, Pose, moved, view
from cdvideo.pocket.world.places import COLOURS
from cdvideo.pocket.world.scene import Scene
from cdvideo.pocket.world.subjects import SUBJECTS, Icon
from cdvideo.pocket.world.things import WORN, drawn_colour, held_pose

BLUR = 0.03
"""How far a blurred picture is blurred, as a fraction of its side."""


class Painter:
    """Draws scenes. Keeps its sprites at several sizes, so that a picture costs a few milliseconds. Same scene and moment, same picture."""

    def __init__(self, icons: Icons) -> None:
        self.icons = icons
        self._sprites: dict[object, Sprite] = {}

    def frame(self, scene: Scene, moment: float = 0.0, side: int = 128) -> Image.Image:
        """The scene at a moment in [0, 1] of its clip, an RGB picture of `side` pixels a side."""
        canvas = Canvas(side, MARGIN if scene.camera else 0.0)
        places.paint(scene.place, canvas, self.icon, scene.decor_seed, moment, scene.phase)
        if scene.companion_drawing:
            beside = moved(Pose(1 - scene.x, scene.y, scene.height), None, moment, phase=1 - scene.phase)
            sprite = self.icon(scene.companion_drawing)
            canvas.sprite(sprite, beside.x, beside.y, beside.height * _height(sprite), beside.angle)
        pose = _in_place(scene, moment)
        cos, sin = math.cos(pose.angle), math.sin(pose.angle)
        for sprite, dx, dy, height, look in self._layers(scene):
            dx *= pose.width
            x, y = pose.x + pose.height * (dx * cos - dy * sin), pose.y + pose.height * (dx * sin + dy * cos)
            canvas.sprite(sprite, x, y, height * pose.height, pose.angle, look, pose.width)
        seen = view(scene.camera, moment, scene.amplitude)
        picture = canvas.seen(seen.x, seen.y, seen.side, seen.angle) if scene.camera else canvas.picture()
        return picture.filter(ImageFilter.GaussianBlur(BLUR * side)) if scene.blurred else picture

    def clip(self, scene: Scene, num_frames: int = 16, side: int = 128) -> list[Image.Image]:
        return [self.frame(scene, index / num_frames, side) for index in range(num_frames)]

    def pose(self, scene: Scene, moment: float = 0.0) -> Pose:
        """Where the picture shows the subject at a moment, the camera's move included."""
        return view(scene.camera, moment, scene.amplitude).seen(_in_place(scene, moment))

    def _layers(self, scene: Scene) -> list[tuple[Sprite, float, float, float, Look]]:
        """Sprites with their offset and height, in units of the subject's height, and how they are changed."""
        subject = SUBJECTS[scene.subject]
        tint = COLOURS[scene.colour][0] if scene.colour else None
        drawing = self.icon(scene.drawing)
        tall = _height(drawing)
        layers = [(drawing, 0.0, 0.0, tall, Look(mirrored=scene.mirrored, tint=tint, gains=scene.gains))]
        if scene.worn:
            sprite = self._worn(scene.worn, scene.variant)
            dx, dy, height = WORN[scene.worn].place(subject, sprite.ratio)
            layers.append((sprite, tall * dx, tall * dy, tall * height, PLAIN))
        if scene.held:
            drawings, placement, _ = held_pose(scene.held, scene.variant)
            layers.append((self.icon(drawings[(scene.variant >> 8) % len(drawings)]), *placement, PLAIN))
        return layers

    def _worn(self, worn: str, variant: int) -> Sprite:
        thing, colour = WORN[worn], drawn_colour(worn, variant)
        if colour is None:
            return self.icon(thing.drawings[variant % (len(thing.drawings) + len(thing.colours))])
        if (worn, colour) not in self._sprites:
            self._sprites[worn, colour] = Sprite(drawn_sprite(worn, thing.colours[colour]))
        return self._sprites[worn, colour]

    def icon(self, icon: Icon) -> Sprite:
        if icon not in self._sprites:
            self._sprites[icon] = Sprite(self.icons.sprite(*icon))
        return self._sprites[icon]


def _in_place(scene: Scene, moment: float) -> Pose:
    return moved(Pose(scene.x, scene.y, scene.height), scene.motion, moment, scene.amplitude, scene.phase)


def _height(sprite: Sprite) -> float:
    """A drawing much wider than high (a car, sunglasses) is drawn less high, so that it fits as well as a face does."""
    return min(1.0, 1.25 * sprite.ratio)
