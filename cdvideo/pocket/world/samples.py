"""The sample subjects: pictures of a drawing that the pocket base has never seen, as a user's photos of one subject would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cdvideo.pocket.world.catalogue import SUBJECTS
from cdvideo.pocket.world.scene import Painter, Scene

SIDE = 512
SHOTS: tuple[dict[str, Any], ...] = (
    {"place": "grass", "height": 0.62, "x": 0.5},
    {"place": "white", "height": 0.72, "x": 0.48},
    {"place": "beach", "height": 0.5, "x": 0.55},
    {"place": "blue", "height": 0.66, "x": 0.52, "phase": 0.2},
    {"place": "snow", "height": 0.56, "x": 0.46, "phase": 0.6},
)


def paint_samples(painter: Painter, folder: Path, subject: str = "bear") -> list[Path]:
    """Writes one subject's pictures, `SIDE` pixels a side, as PNG files named by number."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, shot in enumerate(SHOTS, 1):
        scene = Scene(subject=subject, drawing=SUBJECTS[subject].personal[0], decor_seed=number, **shot)
        path = folder / f"{subject}-{number}.png"
        painter.frame(scene, side=SIDE).save(path, optimize=True)
        paths.append(path)
    return paths
