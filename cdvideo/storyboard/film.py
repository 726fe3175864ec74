"""Rendering a storyboard: shot by shot, then one film. A shot that is already rendered with the same settings is not rendered again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdvideo import animate, base, motion, video
from cdvideo.concept import Concept, read_header
from cdvideo.config import Shot, Storyboard
from cdvideo.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Film:
    """Where a rendered film lies."""

    mp4: Path
    gif: Path
    sheet: Path
    shots: list[Path]
    num_rendered: int


OnShot = Callable[[int, int, Shot, bool], animate.OnStep | None]
"""(number from 1, of how many, the shot, whether it lay there already) -> what to call after each denoising step."""


def render(
    storyboard: Storyboard, source: Path, out: Path, *, device: str = "auto", dtype: str = "auto", on_shot: OnShot | None = None
) -> Film:
    """The film of a storyboard read from `source`, written into the folder `out` as one MP4, one GIF, a contact sheet and its shots."""
    concept_paths = [find_concept(named, source) for named in storyboard.concept]
    base_name = storyboard.base or (read_header(concept_paths[0]).base if concept_paths else "pocket")
    name = slug(storyboard.title)
    files = {suffix: out / f"{name}.{suffix}" for suffix in ("mp4", "gif")}
    shots_folder = out / "shots"
    for path in (*files.values(), shots_folder):
        video.check_destination(path, fps=storyboard.fps)
    if storyboard.size:
        animate.parse_size(storyboard.size)

    loaded = base.load(base_name, device=device, dtype=dtype)
    concepts = [Concept.load(path) for path in concept_paths]
    module = motion.load_motion(
        storyboard.motion or loaded.preset.default_motion, base_unet=loaded.unet, dtype=loaded.dtype, device=loaded.device
    )
    origin = {
        "base": loaded.fingerprint,
        "concepts": [concept.digest for concept in concepts],
        "motion": module.fingerprint,
        "dtype": str(loaded.dtype),
    }
    clips, paths, num_rendered = [], [], 0
    with animate.Studio(loaded, concepts, module) as studio:
        cameras = {moves: studio.camera_moves(moves) for moves in dict.fromkeys(shot.camera for shot in storyboard.shots)}
        for number, shot in enumerate(storyboard.shots, 1):
            settings = shot_settings(storyboard, shot)
            decisive = [settings, animate.describe_cameras(cameras[shot.camera]), origin, base.versions()]
            key = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]
            path = shots_folder / f"{number:02d}-{slug(shot.prompt)[:40]}-{key}"
            done = path.is_dir()
            on_step = on_shot(number, len(storyboard.shots), shot, done) if on_shot else None
            if done:
                clip = video.read(path)
            else:
                clip = studio.clip(**settings, cameras=cameras[shot.camera], on_step=on_step)
                video.write(clip, path)
                num_rendered += 1
            clips.append(clip)
            paths.append(path)
    record = {"kind": "film", "title": storyboard.title, "shots": [clip.record for clip in clips]}
    film = video.concatenate(clips, record)
    for path in files.values():
        video.write(film, path)
    sheet = out / f"{name}-sheet.png"
    video.contact_sheet(clips, columns=6, labels=[shot.prompt for shot in storyboard.shots]).save(sheet)
    return Film(mp4=files["mp4"], gif=files["gif"], sheet=sheet, shots=paths, num_rendered=num_rendered)


def shot_settings(storyboard: Storyboard, shot: Shot) -> dict[str, Any]:
    """What `Studio.clip` is called with for a shot: its own settings, else the storyboard's."""
    return {
        "prompt": shot.prompt,
        "num_frames": shot.frames or storyboard.frames,
        "fps": storyboard.fps,
        "size": animate.parse_size(storyboard.size) if storyboard.size else None,
        "num_inference_steps": storyboard.steps,
        "guidance_scale": storyboard.guidance if shot.guidance is None else shot.guidance,
        "negative": storyboard.negative if shot.negative is None else shot.negative,
        "seed": shot.seed,
    }


def find_concept(named: Path, source: Path) -> Path:
    """The concept file that a storyboard names, beside itself or in the working folder. Raises UserError where it is in neither."""
    candidates = [source.parent / named, named]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise UserError(
        f"{source} names the concept {named}, which does not exist",
        cause=f"looked for {' and '.join(str(candidate) for candidate in candidates)}",
        remedy=f"train it: cdvideo train IMAGES --class WORD --out {named}",
    )


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "film"
