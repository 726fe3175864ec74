"""What `--speed fast` costs on trained weights: the same held-out prompts and seeds rendered exactly and fast, and judged.

Differences are fast less exact, clip by clip; a measure is worse where its whole interval is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdvideo import base, motion
from cdvideo.animate import Studio
from cdvideo.animate.reuse import speed_of
from cdvideo.evaluate.clip import Clip
from cdvideo.evaluate.movement import flicker
from cdvideo.pocket.judge import Judge
from cdvideo.pocket.report.intervals import bootstrap
from cdvideo.pocket.report.likeness import followed, identity
from cdvideo.pocket.report.prompts import Prompt, motion_prompts
from cdvideo.pocket.report.rendering import NUM_FRAMES, STEPS
from tests.bench.record import psnr

GUIDANCE = 7.5


def measure_quality(num_clips: int, on_clip: Callable[[int], None]) -> dict[str, Any]:
    """By measure: its mean at either speed, and the mean difference with its 95 % interval."""
    judge, clip = Judge.load(), Clip()
    distances = []
    scores: dict[str, list[dict[str, float]]] = {"exact": [], "fast": []}
    studios = {speed: _studio(speed) for speed in scores}
    for number, prompt in enumerate(motion_prompts(num_clips), start=1):
        sampling = {"num_frames": NUM_FRAMES, "num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
        frames = {speed: studio.clip(prompt.text, seed=prompt.seed, speed=speed, **sampling).frames for speed, studio in studios.items()}
        for speed, own in frames.items():
            scores[speed].append(_judged(own, prompt, judge, clip))
        distances.append(psnr(frames["fast"], frames["exact"]))
        on_clip(number)
    found = {}
    for name in scores["exact"][0]:
        exact, fast = (np.array([one[name] for one in scores[speed]]) for speed in ("exact", "fast"))
        low, high = bootstrap([list(fast - exact)])
        found[name] = {
            "exact": round(float(exact.mean()), 4),
            "fast": round(float(fast.mean()), 4),
            "difference": round(float((fast - exact).mean()), 4),
            "interval": [round(low, 4), round(high, 4)],
        }
    return {"quality": {"clips": len(distances), "psnr_db": round(float(np.mean(distances)), 2), **found}}


def worse(quality: dict[str, Any]) -> list[str]:
    """The measures that fast renders are worse at. Less flicker is better, more of everything else."""
    intervals = {name: one["interval"] for name, one in quality.items() if isinstance(one, dict)}
    return [name for name, (low, high) in intervals.items() if (low > 0 if name == "flicker" else high < 0)]


def _studio(speed: str) -> Studio:
    loaded = base.load("pocket", device="cpu", dtype=speed_of(speed).precision("auto"))
    return Studio(loaded, [], motion.motion_for(loaded))


def _judged(frames: NDArray[np.uint8], prompt: Prompt, judge: Judge, clip: Clip) -> dict[str, float]:
    """The share of what is named that frames show, whether the motion is the one that was asked for, and how steady the clip is."""
    seen = judge.look(frames)
    right = [np.mean([label == prompt.expected[part] for label in seen.labels[part]]) for part in prompt.named]
    _, to_neighbour = identity(clip.images(followed(frames, seen.poses)))
    return {
        "named": float(np.mean(right)),
        "motion": float(judge.motion(frames) == prompt.expected["motion"]),
        "alignment": clip.alignment(frames, [prompt.text] * len(frames)),
        "identity": to_neighbour,
        "flicker": flicker(frames),
    }
