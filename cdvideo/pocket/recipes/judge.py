"""The judge: trained on the picture world's scenes, softened as an autoencoder softens them, and on places without a subject."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from cdvideo.pocket.judge import CONFIG, FILE, SIDE, Judge, Labels, Network, to_input
from cdvideo.pocket.recipes.alone import train_alone
from cdvideo.pocket.recipes.device import mixed_precision, training_device
from cdvideo.pocket.recipes.pictures import grid
from cdvideo.pocket.recipes.run import Average, Run
from cdvideo.pocket.world import places
from cdvideo.pocket.world.canvas import Canvas
from cdvideo.pocket.world.moves import Pose
from cdvideo.pocket.world.painter import Painter
from cdvideo.pocket.world.places import COLOURS
from cdvideo.pocket.world.scene import LABELS, Scene, sample_scene

READ: Labels = {name: LABELS[name] for name in ("subject", "worn", "held", "place", "colour")}
"""The labels that one picture shows."""
EMPTY = 0.04
"""The share of training pictures that show a place and nothing else."""
TINTED, TURNED, TILTED = 0.15, 0.12, 0.35
"""The shares of training scenes that are tinted, turned about their upright axis, or tilted, besides those that are so already.

All three take many to learn: where hardly a picture is tilted, a nodding subject is said to stand upright.
"""
DECAY = 0.998
HELD_OUT_SEED = 10**9 + 2
POSE_SCALES = (0.05, 0.05, 0.1, 0.1, 0.2)
"""Errors of x, y, logarithm of the height, sine and cosine of the angle that weigh alike."""


def build() -> Network:
    return Network({name: len(options) for name, options in READ.items()})


def sharp_scenes(rng: Generator) -> Iterator[Scene]:
    """Scenes in focus, every other one of the kind that clips show, in which more moves."""
    moving = False
    while True:
        scene = sample_scene(rng, moving=moving)
        if not scene.blurred:
            yield scene
            moving = not moving


def varied(scene: Scene, rng: Generator) -> Scene:
    """The scene, now and then with its subject tinted, turned or tilted."""
    if rng.random() < TINTED:
        scene = replace(scene, colour=str(rng.choice(list(COLOURS))))
    turn = rng.random()
    if turn < TURNED + TILTED:
        return replace(scene, motion="spin" if turn < TURNED else "nod")
    return scene


def empty_place(painter: Painter, scene: Scene, moment: float) -> Image.Image:
    """The scene's place without anybody in it."""
    canvas = Canvas(SIDE)
    places.paint(scene.place, canvas, painter.icon, scene.decor_seed, moment, scene.phase)
    return canvas.picture()


def softened(picture: Image.Image, rng: Generator) -> NDArray[np.uint8]:
    """The picture with some of its detail lost, its brightness and contrast changed a little, and some noise."""
    if rng.random() < 0.6:
        side = int(rng.integers(SIDE * 7 // 16, SIDE))
        picture = picture.resize((side, side), Image.Resampling.BOX).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    values = np.asarray(picture, np.float32) * rng.uniform(0.9, 1.1) + rng.uniform(-12, 12)
    if rng.random() < 0.5:
        values += rng.standard_normal(values.shape, np.float32) * np.float32(rng.uniform(0, 10))
    return values.clip(0, 255).astype(np.uint8)


def training_batch(painter: Painter, rng: Generator, size: int) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Pictures (N, 3, SIDE, SIDE); what they show, as `targets`; poses (N, 5) as the network says them, nan for nobody."""
    scenes = sharp_scenes(rng)
    chosen = [(varied(next(scenes), rng), float(rng.random())) for _ in range(size)]
    empty = rng.random(size) < EMPTY
    pictures = [
        softened(empty_place(painter, scene, moment) if nobody else painter.frame(scene, moment, SIDE), rng)
        for (scene, moment), nobody in zip(chosen, empty, strict=True)
    ]
    labels = targets([scene for scene, _ in chosen])
    poses = torch.stack([spelled(painter.pose(scene, moment)) for scene, moment in chosen])
    empty_rows = torch.from_numpy(empty)
    labels["subject"][empty_rows] = 0
    for name in ("worn", "held", "colour"):
        labels[name][empty_rows] = READ[name].index(None)
    poses[empty_rows] = torch.nan
    return to_input(np.stack(pictures)), labels, poses


def targets(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """For each label the index (N,) of the option shown; for the subject which of all are there, (N, S)."""
    found = {name: torch.tensor([options.index(getattr(scene, name)) for scene in scenes]) for name, options in READ.items()}
    present = F.one_hot(found["subject"], len(READ["subject"])).float()
    for row, scene in enumerate(scenes):
        if scene.companion:
            present[row, READ["subject"].index(scene.companion)] = 1
    return {**found, "subject": present}


def spelled(pose: Pose) -> Tensor:
    """A pose as the network says it, (5,)."""
    return torch.tensor([pose.x, pose.y, math.log(pose.height), math.sin(pose.angle), math.cos(pose.angle)])


def loss_of(logits: dict[str, Tensor], said: Tensor, labels: dict[str, Tensor], poses: Tensor) -> Tensor:
    """The sum of the labels' losses and the pose's; the subjects' is a sum over yes-or-no questions, one for each."""
    subjects = F.binary_cross_entropy_with_logits(logits["subject"], labels["subject"], reduction="none").sum(-1).mean()
    others = [F.cross_entropy(values, labels[name]) for name, values in logits.items() if name != "subject"]
    known = ~poses.isnan().any(-1)
    scales = torch.tensor(POSE_SCALES, device=poses.device)
    pose = F.smooth_l1_loss(said[known] / scales, poses[known] / scales, reduction="sum") / poses.numel()
    return subjects + torch.stack(others).sum() + pose


def train(painter: Painter, folder: Path, seconds: float, batch_size: int = 16) -> None:
    """Trains for `seconds` in all."""
    device = training_device()
    network = build().to(device)

    def loss_at(step: int) -> Tensor:
        pictures, labels, poses = training_batch(painter, np.random.default_rng((13, step)), batch_size)
        with mixed_precision(device):
            logits, said = network(pictures.to(device))
        labels = {name: values.to(device) for name, values in labels.items()}
        return loss_of(logits, said, labels, poses.to(device))

    def evaluate(finally_: bool) -> dict[str, float]:
        judge = Judge(network, READ)
        if finally_:
            return held_out_accuracy(judge, painter, 400, HELD_OUT_SEED)
        return picture_accuracy(judge, painter, 128, HELD_OUT_SEED)

    train_alone(network, folder, seconds, loss_at, evaluate, average_decay=DECAY, log_every=200, largest_gradient=5.0)


def finished(folder: Path) -> Judge:
    """The judge with the averaged weights."""
    network = build()
    average = Average(network, DECAY)
    Run.open(folder, average=average)
    average.put()
    return Judge(network, READ)


def save(judge: Judge, folder: Path) -> None:
    """Writes the judge, in fp16, and its labels where `Judge.load` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().half().contiguous() for name, value in judge.network.state_dict().items()}, folder / FILE)
    (folder / CONFIG).write_text(json.dumps({"side": SIDE, "labels": judge.options}, indent=2) + "\n")


def held_out_accuracy(judge: Judge, painter: Painter, count: int, seed: int) -> dict[str, float]:
    """The share of right answers by label on `count` scenes that no training drew, and on a quarter as many clips for the motion."""
    return {**picture_accuracy(judge, painter, count, seed), "motion": motion_accuracy(judge, painter, max(1, count // 4), seed)}


def picture_accuracy(judge: Judge, painter: Painter, count: int, seed: int) -> dict[str, float]:
    """The share of right answers by label. `companion`: that both of two subjects are found, and no third.

    The other labels are counted on pictures of one subject. `colour_named` is the accuracy where the subject is tinted at all.
    """
    rng = np.random.default_rng(seed)
    scenes = [scene for _, scene in zip(range(count), sharp_scenes(rng), strict=False)]
    seen = judge.look(np.stack([np.asarray(painter.frame(scene, float(rng.random()), SIDE)) for scene in scenes]))
    alone = [index for index, scene in enumerate(scenes) if not scene.companion]
    right = {name: [seen.labels[name][index] == getattr(scenes[index], name) for index in alone] for name in READ}
    for name in ("worn", "held", "colour"):
        right[f"{name}_named"] = [answer for answer, index in zip(right[name], alone, strict=True) if getattr(scenes[index], name)]
    right["companion"] = [
        set(found) == {scene.subject, scene.companion} for found, scene in zip(seen.subjects, scenes, strict=True) if scene.companion
    ]
    return {name: float(np.mean(answers)) for name, answers in right.items() if answers}


def motion_accuracy(judge: Judge, painter: Painter, count: int, seed: int) -> float:
    """The share of clips of one subject before a camera at rest, each motion as often as none, whose motion is named right."""
    rng = np.random.default_rng(seed + 1)
    right: list[bool] = []
    while len(right) < count:
        scene = sample_scene(rng, moving=True)
        wanted = LABELS["motion"][len(right) % len(LABELS["motion"])]
        if scene.motion == wanted and not (scene.blurred or scene.companion or scene.camera):
            right.append(judge.motion(np.stack([np.asarray(frame) for frame in painter.clip(scene, 16, SIDE)])) == wanted)
    return float(np.mean(right))


def show(judge: Judge, painter: Painter, count: int = 24) -> Image.Image:
    """Held-out scenes and what the judge sees in each."""
    scenes = sharp_scenes(np.random.default_rng(HELD_OUT_SEED + 3))
    pictures = [painter.frame(next(scenes), 0.3, SIDE) for _ in range(count)]
    seen = judge.look(np.stack([np.asarray(picture) for picture in pictures]))
    named = [[*subjects, *(seen.labels[name][index] for name in READ if name != "subject")] for index, subjects in enumerate(seen.subjects)]
    return grid(pictures, 8, [", ".join(word for word in words if word) for words in named])
