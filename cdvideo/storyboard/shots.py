"""Rendering a film's shots: every take once, kept in a folder whose name has the digest of all that decides its pixels."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cdvideo import animate, base, motion, video
from cdvideo.animate.starting import start_from
from cdvideo.concept import Concept
from cdvideo.evaluate.clip import clip_of
from cdvideo.storyboard.planning import FilmPlan, PlannedShot
from cdvideo.video.sheet import evenly_picked

FRAMES_SCORED = 4
FLICKER_WEIGHT = 0.01
"""A level of flicker (of 255) costs a take as much as a hundredth of text alignment, which is a cosine."""

OnTake = Callable[[PlannedShot, int, bool], animate.OnStep | None]
"""(the shot, its take from 1, whether it lay there already) -> what to call after each denoising step."""


@dataclass(frozen=True, kw_only=True)
class Take:
    """A rendering of a shot: a folder of frames, the same as an MP4 beside it, and its scores by name.

    `text` is CLIP's cosine of the frames and the prompt without tokens, where a CLIP comes with the base; `motion` and `flicker` are in
    levels of 255; `score`, by which the best is kept, is `text` less a little for the flicker.
    """

    number: int
    seed: int
    folder: Path
    fps: float
    scores: Mapping[str, float]

    @property
    def mp4(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.mp4")

    @property
    def record(self) -> dict[str, Any]:
        """Its settings, with the film's own rate."""
        return {**(video.read_record(self.folder) or {}), "fps": self.fps}

    def clip(self) -> video.Clip:
        """Its frames and record, at the film's own rate."""
        kept = video.read(self.folder)
        return video.Clip(frames=kept.frames, fps=self.fps, record={**kept.record, "fps": self.fps})


@dataclass(frozen=True, kw_only=True)
class RenderedShot:
    shot: PlannedShot
    takes: Sequence[Take]
    kept: Take


class Stage:
    """Where a film is rendered: the base, its motion module, and in them the concepts of the shot that is just rendered."""

    def __init__(self, plan: FilmPlan, folder: Path, *, device: str = "auto", dtype: str = "auto", speed: str = "exact") -> None:
        """Takes are kept in `folder`. Raises UserError where the base, the motion module or a concept cannot be loaded."""
        self.folder, self.speed = folder, speed
        self.base = base.load(plan.base, device=device, dtype=dtype)
        self.concepts = {path: Concept.load(path) for shot in plan.shots for path in shot.concepts}
        self.motion = motion.motion_for(self.base, plan.motion)
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

    @cached_property
    def clip_model(self) -> Any:
        """The CLIP that comes with the base, or None."""
        return clip_of(self.base.preset.kind)

    def find(self, shot: PlannedShot, before: Take | None) -> RenderedShot | None:
        """The shot, where all its takes lie there already; `before` is the kept take of the shot before, or None."""
        _, _, decisive = self._settings(shot, before)
        folders = [self._folder(shot, decisive, take) for take in range(shot.takes)]
        if not all(map(_is_finished, folders)):
            return None
        return self._judged(shot, folders)

    def render(self, shot: PlannedShot, before: Take | None, on_take: OnTake | None = None) -> RenderedShot:
        """The shot with all its takes; what lies there already is not rendered again."""
        folders = []
        studio, settings, decisive = self._settings(shot, before)
        for take in range(shot.takes):
            folder = self._folder(shot, decisive, take)
            done = _is_finished(folder)
            on_step = on_take(shot, take + 1, done) if on_take else None
            if not done:
                video.write(studio.clip(**settings, seed=shot.seed + take, fps=shot.fps, on_step=on_step), folder)
                self.num_rendered += 1
            folders.append(folder)
        return self._judged(shot, folders)

    def _settings(self, shot: PlannedShot, before: Take | None) -> tuple[animate.Studio, dict[str, Any], dict[str, Any]]:
        """The studio with the shot's company in it, what to call its `clip` with, and what of it decides pixels besides the seed."""
        preset = self.base.preset
        strengths = [star.strengths for star in shot.starring]
        constant = all(list(course) == [0] for course in strengths)
        studio = self._studio_with([(star.concept, star.strengths[0] if constant else 1.0) for star in shot.starring])
        cameras = studio.camera_moves(shot.cameras)
        settings: dict[str, Any] = {
            "prompts": dict(shot.prompts),
            "travel": shot.travel,
            "concept_strengths": [] if constant else strengths,
            "num_frames": shot.num_frames,
            "size": shot.size or (preset.native_size, preset.native_size),
            "num_inference_steps": shot.num_inference_steps,
            "guidance_scale": preset.guidance_scale if shot.guidance_scale is None else shot.guidance_scale,
            "negative": preset.negative_prompt if shot.negative is None else shot.negative,
            "speed": self.speed,
        }
        start = _last_frame(before) if shot.continues and before else shot.start
        decisive = {
            **settings,
            "prompts": list(shot.prompts.items()),
            "concept_strengths": [list(course.items()) for course in strengths],
            "concepts": [self.concepts[star.concept].digest for star in shot.starring],
            "num_inference_steps": shot.num_inference_steps or preset.num_inference_steps,
            "cameras": animate.describe_cameras(cameras),
            "start": start_from(start, None, size=settings["size"], num_frames=1).digest if start else None,
            "base": self.base.fingerprint,
            "motion": self.motion.fingerprint,
            "dtype": str(self.base.dtype),
            "versions": base.versions(),
        }
        return studio, {**settings, "cameras": cameras, "init": start}, decisive

    def _studio_with(self, company: list[tuple[Path, float]]) -> animate.Studio:
        if self._studio is None or company != self._company:
            self.close()
            self._studio = animate.Studio(self.base, [(self.concepts[path], strength) for path, strength in company], self.motion)
            self._company = company
        return self._studio

    def _folder(self, shot: PlannedShot, decisive: Mapping[str, Any], take: int) -> Path:
        seed = shot.seed + take
        key = hashlib.sha256(json.dumps({**decisive, "seed": seed}, sort_keys=True).encode()).hexdigest()[:16]
        return self.folder / f"{shot.number:02d}-{slug(shot.prompts[min(shot.prompts)])[:40]}-{key}"

    def _judged(self, shot: PlannedShot, folders: Sequence[Path]) -> RenderedShot:
        takes = [self._take(shot, number, folder) for number, folder in enumerate(folders, 1)]
        kept = takes[shot.keep - 1] if isinstance(shot.keep, int) else max(takes, key=lambda take: take.scores["score"])
        return RenderedShot(shot=shot, takes=takes, kept=kept)

    def _take(self, shot: PlannedShot, number: int, folder: Path) -> Take:
        unscored = Take(number=number, seed=shot.seed + number - 1, folder=folder, fps=shot.fps, scores={})
        clip = unscored.clip()
        if not unscored.mp4.exists() or (video.read_record(unscored.mp4) or {}).get("fps") != shot.fps:
            video.write(clip, unscored.mp4)
        scores: dict[str, float] = dict(clip.record.get("seen", {}))
        if self.clip_model:
            picked = evenly_picked(clip.num_frames, FRAMES_SCORED)
            texts = [_prompt_at(shot.plain_prompts, frame) for frame in picked]
            scores["text"] = round(self.clip_model.alignment(clip.frames[picked], texts), 4)
        scores["score"] = round(scores.get("text", 0.0) - FLICKER_WEIGHT * scores.get("flicker", 0.0), 4)
        return Take(number=number, seed=unscored.seed, folder=folder, fps=shot.fps, scores=scores)


def _is_finished(folder: Path) -> bool:
    """Whether a take is there in full: its record is put there last."""
    return (folder / "record.json").exists()


def _last_frame(take: Take) -> video.Clip:
    clip = take.clip()
    return video.Clip(frames=clip.frames[-1:], fps=clip.fps, record={})


def _prompt_at(prompts: Mapping[int, str], frame: int) -> str:
    """The prompt of the last key frame up to a frame."""
    return prompts[max((key for key in prompts if key <= frame), default=min(prompts))]


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "film"
