"""Rendering a film's shots: every take once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cdvideo import animate, base, motion, video
from cdvideo.base.lora import describe_loras, load_lora, together
from cdvideo.concept import Concept
from cdvideo.errors import UserError, UserNote
from cdvideo.evaluate.clip import fetch_clip
from cdvideo.storyboard.makings import Makings, camera_sources, concept_files
from cdvideo.storyboard.planning import FilmPlan, PlannedShot
from cdvideo.storyboard.takes import RenderedShot, Shelf, Take, clear, is_finished, start_of

OnTake = Callable[[PlannedShot, int, bool], animate.OnStep | None]
"""(the shot, its take from 1, whether it lay there already) -> what to call after each denoising step."""


class Stage:
    """Where a film is rendered: the base, its motion module, and in them the concepts of the shot that is just rendered."""

    def __init__(self, plan: FilmPlan, folder: Path, *, device: str = "auto", dtype: str = "auto", speed: str = "exact") -> None:
        """Takes are kept in `folder`. Raises UserError where something that the plan names cannot be loaded."""
        self.base = base.load(plan.base, device=device, dtype=dtype)
        self.motion = motion.motion_for(self.base, plan.motion)
        self.concepts = {path: Concept.load(path) for path in concept_files(plan)}
        self.loras = [(load_lora(source, base=self.base), strength) for source, strength in plan.loras]
        kind = self.base.preset.kind
        self.cameras = {source: motion.load_motion_lora(source, motion=self.motion, kind=kind) for source in camera_sources(plan)}
        makings = Makings(
            preset=self.base.preset.with_motion(self.motion.preset),
            base=self.base.fingerprint,
            motion=self.motion.fingerprint,
            dtype=self.base.dtype,
            concepts={path: concept.digest for path, concept in self.concepts.items()},
            cameras={source: lora.fingerprint for source, lora in self.cameras.items()},
            loras=describe_loras(together(self.motion.loras, self.loras)),
        )
        self.shelf = Shelf(folder, makings, speed=speed)
        if any(shot.takes > 1 for shot in plan.shots):
            _see_to_clip(kind)
        self.num_rendered = 0
        self._studio: animate.Studio | None = None
        self._company: Any = None

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._studio:
            self._studio.close()
        self._studio = self._company = None

    def render(self, shot: PlannedShot, before: Take | None, on_take: OnTake | None = None) -> RenderedShot:
        """The shot with all its takes; what lies there already is not rendered again. `before` is the kept take of the shot before."""
        folders = self.shelf.folders(shot, before)
        for take, folder in enumerate(folders):
            done = is_finished(folder, shot)
            on_step = on_take(shot, take + 1, done) if on_take else None
            if not done:
                made = self._clip(shot, before, take, on_step)
                # Another process may have finished it meanwhile; of one that was damaged, files are left that are not to be kept.
                if not is_finished(folder, shot):
                    clear(folder)
                    video.write(made, folder)
                self.num_rendered += 1
        return self.shelf.judged(shot, folders)

    def _clip(self, shot: PlannedShot, before: Take | None, take: int, on_step: animate.OnStep | None) -> video.Clip:
        moves = [motion.parse_camera(move) for move in shot.cameras]
        return self.studio_for(shot).clip(
            **self.shelf.settings(shot),
            cameras=[(self.cameras[source], strength) for source, strength in moves],
            init=start_of(shot, before),
            seed=shot.seed + take,
            fps=shot.fps,
            on_step=on_step,
        )

    def studio_for(self, shot: PlannedShot) -> animate.Studio:
        """The studio with the shot's company in it; strengths that change over the shot are not the company's."""
        constant = all(list(star.strengths) == [0] for star in shot.starring)
        company = [(star.concept, star.strengths[0] if constant else 1.0) for star in shot.starring]
        if self._studio is None or company != self._company:
            self.close()
            concepts = [(self.concepts[path], strength) for path, strength in company]
            self._studio = animate.Studio(self.base, concepts, self.motion, loras=self.loras)
            self._company = company
        return self._studio


def _see_to_clip(kind: str) -> None:
    try:
        fetch_clip(kind)
    except UserError as error:
        warnings.warn(f"takes are told apart by their flicker alone: {error.message}", UserNote, stacklevel=2)
