"""The sample subjects: pictures of drawings that the pocket base has never seen, as users' photos of one subject each would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cdvideo.pocket.world.painter import Painter
from cdvideo.pocket.world.scene import Scene
from cdvideo.pocket.world.subjects import PERSONAL, SUBJECTS

SIDE = 512
SHOTS: tuple[dict[str, Any], ...] = (
    {"place": "grass", "height": 0.62, "x": 0.5},
    {"place": "white", "height": 0.72, "x": 0.48},
    {"place": "beach", "height": 0.5, "x": 0.55},
    {"place": "blue", "height": 0.66, "x": 0.52, "phase": 0.2},
    {"place": "snow", "height": 0.56, "x": 0.46, "phase": 0.6},
)


def paint_samples(painter: Painter, folder: Path) -> list[Path]:
    """Writes every personal subject's pictures, `SIDE` pixels a side, as `folder/<subject>/<subject>-<number>.png`."""
    paths = []
    for subject in PERSONAL:
        for number, shot in enumerate(SHOTS, 1):
            # A subject's pictures differ from another's in their places' details too.
            decor_seed = number + 100 * PERSONAL.index(subject)
            scene = Scene(subject=subject, drawing=SUBJECTS[subject].personal[0], decor_seed=decor_seed, **shot)
            path = folder / subject / f"{subject}-{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            painter.frame(scene, side=SIDE).save(path, optimize=True)
            paths.append(path)
    return paths
