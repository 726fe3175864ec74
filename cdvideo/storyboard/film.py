"""Rendering a storyboard: shot by shot, then one film. A shot that is already rendered with the same settings is not rendered again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from cdvideo import animate, base, motion, video
from cdvideo.concept import Concept
from cdvideo.errors import UserError
from cdvideo.storyboard.planning import FilmPlan, PlannedShot, plan_film
from cdvideo.storyboard.script import Storyboard


@dataclass(frozen=True, kw_only=True)
class Film:
    """Where a rendered film lies."""

    mp4: Path
    gif: Path
    sheet: Path
    shots: list[Path]
    num_rendered: int


OnShot = Callable[[int, int, PlannedShot, bool], animate.OnStep | None]
"""(number from 1, of how many, the shot, whether it lay there already) -> what to call after each denoising step."""


def render(
    storyboard: Storyboard, source: Path, out: Path, *, device: str = "auto", dtype: str = "auto", on_shot: OnShot | None = None
) -> Film:
    """The film of a storyboard read from `source`, written into the folder `out` as one MP4, one GIF, a contact sheet and its shots."""
    plan = plan_film(storyboard, source)
    _require_renderable(plan)
    name = slug(plan.title)
    files = {suffix: out / f"{name}.{suffix}" for suffix in ("mp4", "gif")}
    shots_folder = out / "shots"
    for path in (*files.values(), shots_folder):
        video.check_destination(path, fps=plan.fps)

    loaded = base.load(plan.base, device=device, dtype=dtype)
    concepts = {path: Concept.load(path) for shot in plan.shots for path in shot.concepts}
    module = motion.load_motion(
        plan.motion or loaded.preset.default_motion, base_unet=loaded.unet, dtype=loaded.dtype, device=loaded.device
    )
    origin = {"base": loaded.fingerprint, "motion": module.fingerprint, "dtype": str(loaded.dtype)}
    clips, paths, num_rendered = [], [], 0
    for starring, together in groupby(plan.shots, key=lambda shot: [(star.concept, star.strengths[0]) for star in shot.starring]):
        company = [(concepts[path], strength) for path, strength in starring]
        digests = [(concept.digest, strength) for concept, strength in company]
        with animate.Studio(loaded, company, module) as studio:
            for shot in together:
                settings = shot_settings(shot)
                cameras = studio.camera_moves(shot.cameras)
                decisive = [settings, animate.describe_cameras(cameras), digests, origin, base.versions()]
                key = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]
                path = shots_folder / f"{shot.number:02d}-{slug(shot.prompt)[:40]}-{key}"
                done = path.is_dir()
                on_step = on_shot(shot.number, len(plan.shots), shot, done) if on_shot else None
                if done:
                    clip = video.read(path)
                else:
                    clip = studio.clip(**settings, cameras=cameras, on_step=on_step)
                    video.write(clip, path)
                    num_rendered += 1
                clips.append(clip)
                paths.append(path)
    record = {"kind": "film", "title": plan.title, "shots": [clip.record for clip in clips]}
    film = video.concatenate(clips, record)
    for path in files.values():
        video.write(film, path)
    sheet = out / f"{name}-sheet.png"
    video.contact_sheet(clips, columns=6, labels=[shot.prompt for shot in plan.shots]).save(sheet)
    return Film(mp4=files["mp4"], gif=files["gif"], sheet=sheet, shots=paths, num_rendered=num_rendered)


def shot_settings(shot: PlannedShot) -> dict[str, Any]:
    """What `Studio.clip` is called with for a shot."""
    return {
        "prompt": shot.prompts[0],
        "num_frames": shot.num_frames,
        "fps": shot.fps,
        "size": shot.size,
        "num_inference_steps": shot.num_inference_steps,
        "guidance_scale": shot.guidance_scale,
        "negative": shot.negative,
        "seed": shot.seed,
    }


def _require_renderable(plan: FilmPlan) -> None:
    """Raises UserError for what a storyboard may say and this renderer does not do."""
    asked = {
        "several prompts in a shot": any(list(shot.prompts) != [0] for shot in plan.shots),
        "strengths that change": any(list(star.strengths) != [0] for shot in plan.shots for star in shot.starring),
        "transitions": any(transition.num_frames for _, transition in plan.parts),
        "captions": any(shot.caption for shot in plan.shots),
        "start pictures": any(shot.start or shot.continues for shot in plan.shots),
        "takes": any(shot.takes > 1 for shot in plan.shots),
        "cards": bool(plan.title_card or plan.end_card),
        "audio": plan.audio is not None,
    }
    if missing := [what for what, wanted in asked.items() if wanted]:
        raise UserError(f"{', '.join(missing)} cannot be rendered yet", remedy="leave them out of the storyboard")


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "film"
