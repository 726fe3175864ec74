"""Takes: renderings of a shot, each in a folder whose name has the digest of all that decides its pixels; finding and judging them.

Loads no base: what the takes come from is known by fingerprints (`makings`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from cdvideo import base, video
from cdvideo.animate.reuse import DRAFT, EXACT, speed_of
from cdvideo.animate.starting import start_from
from cdvideo.base.catalog import BasePreset
from cdvideo.concept import is_named, read_looks
from cdvideo.errors import UserError
from cdvideo.evaluate.clip import clip_folder, clip_of
from cdvideo.files import replace_files
from cdvideo.motion.lora import parse_camera
from cdvideo.storyboard.makings import Makings, files_below, stamp
from cdvideo.storyboard.planning import PlannedShot
from cdvideo.video.sheet import evenly_picked

FRAMES_SCORED = 4
FLICKER_WEIGHT = 0.01
"""A level of flicker (of 255) costs a take as much as a hundredth of text alignment or likeness, which are cosines."""
ENOUGH_MOTION, STILLNESS_WEIGHT = 1.0, 0.02
"""What moves less than so many levels (of 255) from frame to frame looks frozen; what it lacks of a level costs so much."""
LEAST_DRAFT_SIDE = 128
_PNG_END = b"IEND\xaeB`\x82"
LONGEST_SLUG = 60
"""So many letters, each of up to four bytes, and an ending fit into a file's name."""


@dataclass(frozen=True, kw_only=True)
class Take:
    """A rendering of a shot: a folder of frames, the same as an MP4 beside it, and its scores by name.

    Where the base's CLIP is on this machine, `text` is the cosine of the frames and the prompt without tokens, and `likeness` that of the
    frames and the photos of those who star, where their concepts know them. `motion` and `flicker` are in levels of 255. `score`, by which
    the best is kept, is `text` and `likeness` less a little for the flicker, and for hardly moving.
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

    def last_frame(self) -> video.Clip:
        """A clip of its last frame alone, without a record."""
        last = video.read(max(self.folder.glob("frame_*.png"), key=lambda path: int(path.stem.removeprefix("frame_"))))
        return video.Clip(frames=last.frames, fps=self.fps, record={})


@dataclass(frozen=True, kw_only=True)
class RenderedShot:
    shot: PlannedShot
    takes: Sequence[Take]
    kept: Take


class Shelf:
    """Where a film's takes are kept, and what lies there."""

    def __init__(self, folder: Path, makings: Makings, *, speed: str = "exact") -> None:
        self.folder, self.makings, self.speed = folder, makings, speed
        self.takes_notes = True
        """Whether what is found out about a take is written beside it."""

    @cached_property
    def clip_model(self) -> Any:
        """The base's CLIP, or None where it is not on this machine."""
        return clip_of(self.makings.preset.kind)

    def find(self, shot: PlannedShot, before: Take | None) -> RenderedShot | None:
        """The shot, where all its takes lie there already; `before` is the kept take of the shot before, or None."""
        folders = self.folders(shot, before)
        return self.judged(shot, folders) if all(is_finished(folder, shot) for folder in folders) else None

    def settings(self, shot: PlannedShot) -> dict[str, Any]:
        """What a studio's `clip` is called with, besides cameras, start and seed."""
        preset = self.makings.preset
        strengths = [star.strengths for star in shot.starring]
        constant = all(list(course) == [0] for course in strengths)
        size, steps = size_and_steps(shot, preset, self.speed)
        return {
            "prompts": dict(shot.prompts),
            "travel": shot.travel,
            "concept_strengths": [] if constant else strengths,
            "num_frames": shot.num_frames,
            "size": size,
            "num_inference_steps": steps,
            "guidance_scale": preset.guidance_scale if shot.guidance_scale is None else shot.guidance_scale,
            "negative": preset.negative_prompt if shot.negative is None else shot.negative,
            "speed": self.speed,
        }

    def folders(self, shot: PlannedShot, before: Take | None) -> list[Path]:
        """The folder of each of the shot's takes, whether it is there or not."""
        makings, settings = self.makings, self.settings(shot)
        start = start_of(shot, before)
        moves = [parse_camera(move) for move in shot.cameras]
        decisive = {
            **settings,
            "prompts": list(shot.prompts.items()),
            "concept_strengths": [list(star.strengths.items()) for star in shot.starring],
            "concepts": [makings.concepts[star.concept] for star in shot.starring],
            "num_inference_steps": settings["num_inference_steps"] or makings.preset.num_inference_steps,
            "cameras": [{"name": name, "strength": strength, "fingerprint": makings.cameras[name]} for name, strength in moves],
            "start": start_from(start, None, size=settings["size"], num_frames=1).digest if start else None,
            "base": makings.base,
            "motion": makings.motion,
            "dtype": str(makings.dtype),
            "versions": base.versions(),
        }
        if self.speed != EXACT.name:
            # A name stays what a speed is called when what it gives up changes.
            decisive["speed"] = asdict(speed_of(self.speed))
        if makings.loras or makings.preset.sampler != "ddim":
            loras = [{"digest": one["digest"], "strength": one["strength"]} for one in makings.loras]
            decisive |= {"loras": loras, "sampler": makings.preset.sampler}
        name = f"{shot.number:02d}-{slug(shot.prompts[min(shot.prompts)])[:40]}"
        keys = [json.dumps({**decisive, "seed": shot.seed + take}, sort_keys=True) for take in range(shot.takes)]
        digests = [hashlib.sha256(key.encode()).hexdigest()[:16] for key in keys]
        return [self._folder_of(name, digest) for digest in digests]

    def _folder_of(self, name: str, digest: str) -> Path:
        """Where a take lies: a shot that has another place in the film now, where it was rendered."""
        own = self.folder / f"{name}-{digest}"
        return own if own.exists() else next(self.folder.glob(f"*-{digest}"), own)

    def judged(self, shot: PlannedShot, folders: Sequence[Path]) -> RenderedShot:
        """The shot of finished takes, the best or the chosen one kept."""
        takes = [self._take(shot, number, folder) for number, folder in enumerate(folders, 1)]
        kept = takes[shot.keep - 1] if isinstance(shot.keep, int) else max(takes, key=lambda take: take.scores["score"])
        return RenderedShot(shot=shot, takes=takes, kept=kept)

    def _take(self, shot: PlannedShot, number: int, folder: Path) -> Take:
        seed = shot.seed + number - 1
        unscored = Take(number=number, seed=seed, folder=folder, fps=shot.fps, scores={})
        if self.takes_notes and (not unscored.mp4.exists() or (video.read_record(unscored.mp4) or {}).get("fps") != shot.fps):
            video.write(unscored.clip(), unscored.mp4)
        return Take(number=number, seed=seed, folder=folder, fps=shot.fps, scores=self._scores(shot, unscored))

    def _scores(self, shot: PlannedShot, take: Take) -> dict[str, float]:
        """The take's scores. They are kept beside it with the words and the judge that they are by."""
        file = take.folder.with_name(f"{take.folder.name}.scores.json")
        picked = evenly_picked(shot.num_frames, FRAMES_SCORED)
        said = " ".join(shot.prompts.values())
        named = {star.concept: [token for token, name in star.tokens.items() if is_named(name, said)] for star in shot.starring}
        starring = {self.makings.concepts[path]: tokens for path, tokens in named.items()}
        texts = [_prompt_at(shot.plain_prompts, frame) for frame in picked]
        by = {"texts": texts, "judge": self._judge, "starring": starring, "costs": [FLICKER_WEIGHT, ENOUGH_MOTION, STILLNESS_WEIGHT]}
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
            if known["by"] == by:
                return dict(known["scores"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        scores: dict[str, float] = dict(take.record.get("seen", {}))
        if clip := self.clip_model:
            frames = take.clip().frames[picked]
            scores["text"] = round(clip.alignment(frames, texts), 4)
            seen = [looks for path, tokens in named.items() for token, looks in read_looks(path).items() if token in tokens]
            if own := [looks.features for looks in seen if looks.clip == clip.name]:
                scores["likeness"] = round(clip.likeness(frames, torch.cat(own)), 4)
        alike = scores.get("text", 0.0) + scores.get("likeness", 0.0)
        frozen = max(0.0, ENOUGH_MOTION - scores.get("motion", ENOUGH_MOTION))
        scores["score"] = round(alike - FLICKER_WEIGHT * scores.get("flicker", 0.0) - STILLNESS_WEIGHT * frozen, 4)
        if self.takes_notes:
            replace_files(file, [(file, json.dumps({"by": by, "scores": scores}).encode())])
        return scores

    @cached_property
    def _judge(self) -> Any:
        """What tells the CLIP from another without loading it."""
        folder = clip_folder(self.makings.preset.kind)
        return stamp(files_below(folder)) if folder else None


def start_of(shot: PlannedShot, before: Take | None) -> Path | video.Clip | None:
    """What the shot's frames start from; `before` is the kept take of the shot before, or None."""
    return before.last_frame() if shot.continues and before else shot.start


def is_finished(folder: Path, shot: PlannedShot) -> bool:
    """Whether a take is there in full: its record, which is put there last, and each of the shot's frames to its end."""
    try:
        is_record = isinstance(json.loads((folder / "record.json").read_bytes()), dict)
        return is_record and all(_ends_as_png(folder / f"frame_{number:04d}.png") for number in range(shot.num_frames))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        raise UserError(f"{folder} cannot be read", cause=error.strerror or str(error), remedy="make it readable, or delete it") from error


def _ends_as_png(file: Path) -> bool:
    with file.open("rb") as opened:
        opened.seek(max(0, opened.seek(0, os.SEEK_END) - len(_PNG_END)))
        return opened.read() == _PNG_END


def clear(folder: Path) -> None:
    """Removes what is left of a take that is not finished, and what was made of it beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    for suffix in (".mp4", ".mp4.json", ".scores.json"):
        folder.with_name(folder.name + suffix).unlink(missing_ok=True)


def _prompt_at(prompts: Mapping[int, str], frame: int) -> str:
    """The prompt of the last key frame up to a frame."""
    return prompts[max((key for key in prompts if key <= frame), default=min(prompts))]


def size_and_steps(shot: PlannedShot, preset: BasePreset, speed: str) -> tuple[tuple[int, int], int | None]:
    """Pixels (width, height) and denoising steps with which a shot is rendered; None are those that are usual at that speed."""
    size, steps = shot.size or (preset.native_size, preset.native_size), shot.num_inference_steps
    if speed == DRAFT.name:
        return drafted_size(size), steps and DRAFT.at_most(steps)
    return size, steps


def drafted_size(size: tuple[int, int]) -> tuple[int, int]:
    """Half of a size (width, height) in pixels, on multiples of 8; what is small already stays: no base draws anything smaller."""
    if min(size) < 2 * LEAST_DRAFT_SIDE:
        return size
    return size[0] // 16 * 8, size[1] // 16 * 8


def slug(text: str) -> str:
    """The text as a part of a file's name: its first letters and digits, of whichever script."""
    return re.sub(r"[\W_]+", "-", text.lower())[:LONGEST_SLUG].strip("-") or "film"
