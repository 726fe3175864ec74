"""Pictures and clips for the report, rendered as `cdvideo image` and `cdvideo animate` do, each in its own file."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cdvideo import base, motion
from cdvideo.animate import Studio
from cdvideo.base import Base
from cdvideo.concept import Concept
from cdvideo.pocket.report.shelf import Record

STEPS = 25
NUM_FRAMES = 16
FPS = 8
BASE = "pocket"


@dataclass(frozen=True, kw_only=True)
class Order:
    """One picture to be rendered to `path` (PNG), or one clip (an animated WebP without loss). `camera` names a MotionLoRA."""

    prompt: str
    seed: int
    path: Path
    guidance: float
    num_frames: int = 1
    concept: Path | None = None
    camera: str | None = None
    steps: int = STEPS


def load_base(device: str = "auto") -> Base:
    return base.load(BASE, device=device, offline=True)


def open_studio(loaded: Base, *, moving: bool, concept: Path | None = None) -> Studio:
    concepts = [Concept.load(concept)] if concept else []
    if not moving:
        return Studio(loaded, concepts)
    return Studio(loaded, concepts, motion.motion_for(loaded, offline=True))


class Renderer:
    """Renders orders one after the other, and keeps its studio while they are of one kind."""

    def __init__(self, device: str) -> None:
        self.base = load_base(device)
        self._studio: Studio | None = None
        self._kind: tuple[Any, ...] = ()

    def __call__(self, order: Order) -> Record:
        kind = (order.num_frames > 1, order.concept)
        if self._studio is None or kind != self._kind:
            if self._studio:
                self._studio.close()
            self._studio = open_studio(self.base, moving=order.num_frames > 1, concept=order.concept)
            self._kind = kind
        started = time.monotonic()
        settings: dict[str, Any] = {"seed": order.seed, "num_inference_steps": order.steps, "guidance_scale": order.guidance}
        if order.num_frames > 1:
            cameras = self._studio.camera_moves([order.camera] if order.camera else [], offline=True)
            clip = self._studio.clip(order.prompt, num_frames=order.num_frames, fps=FPS, cameras=cameras, **settings)
        else:
            clip = self._studio.still(order.prompt, **settings)
        seconds = round(time.monotonic() - started, 2)
        save_frames(order.path, clip.frames)
        return {"seconds": seconds}


def renderer(device: str) -> Callable[[], Renderer]:
    return partial(Renderer, device)


def save_frames(path: Path, frames: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = [Image.fromarray(frame) for frame in frames]
    if others:
        first.save(path, lossless=True, quality=60, method=3, save_all=True, append_images=others, duration=1000 // FPS, loop=0)
    else:
        first.save(path, optimize=True)


def read_frames(path: Path) -> NDArray[np.uint8]:
    """Frames (F, H, W, 3) of a picture or clip that `save_frames` wrote."""
    with Image.open(path) as opened:
        frames = []
        for index in range(getattr(opened, "n_frames", 1)):
            opened.seek(index)
            frames.append(np.asarray(opened.convert("RGB")))
        return np.stack(frames)


def median_seconds(num_frames: int, *, threads: int, repeats: int = 5, guidance: float = 7.5) -> list[float]:
    """Seconds of each of `repeats` renderings on the CPU, after one that is not counted, with the studio already open."""
    torch.set_num_threads(threads)
    with open_studio(load_base("cpu"), moving=num_frames > 1) as studio:
        seconds = []
        for seed in range(repeats + 1):
            started = time.monotonic()
            if num_frames > 1:
                studio.clip(
                    "a bear walking to the right on the beach", num_frames=num_frames, num_inference_steps=STEPS, guidance_scale=guidance
                )
            else:
                studio.still("a bear on the beach", seed=seed, num_inference_steps=STEPS, guidance_scale=guidance)
            seconds.append(time.monotonic() - started)
    return seconds[1:]
