"""How fast `cdvideo` is on a CUDA device at Stable Diffusion 1.5's size, with random weights, into out/bench/gpu.json.

`--part train`: seconds of a training of 500 steps at 512x512, batch 2, with fresh and with cached views, and its peak memory.
`--part render`: seconds of 16 frames of 512x512, 25 steps, to an MP4: exact, at `--speed fast`, and of diffusers' AnimateDiffPipeline on
the same weights in the same precision, its frames written by the same encoder; in turns. Without `--part`, both.
"""

from __future__ import annotations

import argparse
import copy
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import AnimateDiffPipeline

from cdvideo import base
from cdvideo.base import Base
from tests.bench.record import Record, conditions, table
from tests.bench.sd15_training import GIB, learn_bear, random_motion, write

PROMPT = "a bear walking to the right on the beach"
FRAMES, STEPS, GUIDANCE, SIDE = 16, 25, 7.5, 512
TRAINING_STEPS = 500
CACHED_VIEWS = 8
PARTS = ["train", "render"]
GOALS = {
    "train_fresh_s": "<= 10",
    "train_cached_s": "<= 7",
    "train_peak_gib": "<= 4",
    "render_s": "<= 2.2",
    "render_ratio": ">= 1.4",
    "render_peak_gib": "<= 6",
    "fast_over_exact": ">= 2",
}


class Measured(NamedTuple):
    """Seconds that something took, and the most memory of the device, in GiB: all that was held, and what live tensors took of it."""

    seconds: float
    held: float
    tensors: float


def seconds(what: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    what()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def measured(what: Callable[[], Any]) -> Measured:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return Measured(seconds(what), torch.cuda.max_memory_reserved() / GIB, torch.cuda.max_memory_allocated() / GIB)


def measure_training(loaded: Base, num_steps: int) -> dict[str, Any]:
    losses: list[float] = []

    def run(cached_views: int, steps: int, **settings: Any) -> None:
        losses.clear()
        settings |= {"cached_views": cached_views, "checkpoint_every": steps}
        learn_bear(loaded, steps, on_step=lambda progress: losses.append(progress.noise_loss), **settings)

    run(0, 5)
    few = 20
    run(0, few)
    recorded = list(losses)
    unrecorded = measured(lambda: run(0, few, gradient_checkpointing=True))
    gap = max(abs(one / other - 1) for one, other in zip(recorded, losses, strict=True))
    fresh, cached = measured(lambda: run(0, num_steps)), measured(lambda: run(CACHED_VIEWS, num_steps))
    return {
        "train_fresh_s": round(fresh.seconds, 2),
        "train_cached_s": round(cached.seconds, 2),
        "train_peak_gib": round(max(fresh.held, cached.held), 3),
        "train": {
            "steps": num_steps,
            "tensors_gib": round(max(fresh.tensors, cached.tensors), 3),
            "loss_gap_recorded_to_not": gap,
            "checkpointed_20_steps_s": round(unrecorded.seconds, 2),
        },
    }


def as_diffusers_has_it(model: Any) -> Any:
    """A copy of its own, its weights in the order in which diffusers loads them."""
    return copy.deepcopy(model).to(memory_format=torch.contiguous_format)


def measure_render(loaded: Base, rounds: int) -> dict[str, Any]:
    from cdvideo.animate import Studio
    from cdvideo.motion import MotionModule, attach
    from cdvideo.sampling import make_scheduler
    from cdvideo.video import Clip

    adapter = random_motion()
    module = MotionModule.from_adapter(adapter, source="random weights")
    studio = Studio(loaded, [], module, motion_norm="diffusers")
    sampling = {"num_frames": FRAMES, "num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "clip.mp4"

        writing: list[float] = []

        def ours(speed: str) -> Callable[[], Any]:
            def render() -> None:
                clip = studio.clip(PROMPT, negative="", seed=0, speed=speed, size=(SIDE, SIDE), **sampling)
                writing.append(seconds(lambda: clip.save(out)))

            return render

        def theirs() -> None:
            generator = torch.Generator().manual_seed(0)
            settings = {"negative_prompt": "", "height": SIDE, "width": SIDE, "generator": generator, "output_type": "np", **sampling}
            frames = np.asarray(pipeline(PROMPT, **settings).frames[0])
            Clip(frames=np.rint(np.nan_to_num(frames) * 255).astype(np.uint8), fps=8, record={}).save(out)

        runs = {"exact": ours("exact"), "fast": ours("fast"), "pipeline": theirs}
        # Once to warm up, and for the memory of ours while the pipeline's copies are not there.
        first = {name: measured(runs[name]) for name in ("exact", "fast")}
        pipeline = AnimateDiffPipeline(
            vae=as_diffusers_has_it(loaded.vae),
            text_encoder=loaded.text_encoder,
            tokenizer=loaded.tokenizer,
            unet=as_diffusers_has_it(attach(loaded.unet, module, motion_norm="diffusers")),
            motion_adapter=adapter,
            scheduler=make_scheduler("animatediff", STEPS),
        )
        pipeline.set_progress_bar_config(disable=True)
        first["pipeline"] = measured(theirs)
        found: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                found[name].append(seconds(run))
    medians = {name: statistics.median(turns) for name, turns in found.items()}
    held, tensors = ({name: round(getattr(one, what), 3) for name, one in first.items()} for what in ("held", "tensors"))
    return {
        "render_s": round(medians["exact"], 3),
        "render_ratio": round(medians["pipeline"] / medians["exact"], 3),
        "render_peak_gib": held["exact"],
        "fast_over_exact": round(medians["exact"] / medians["fast"], 3),
        "render": {
            "rounds": rounds,
            "of_which_writing_the_file_s": round(statistics.median(writing), 3),
            **{name: {"s": round(medians[name], 3), "held_gib": held[name], "tensors_gib": tensors[name]} for name in runs},
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--part", action="append", choices=PARTS, help="both unless given")
    parser.add_argument("--rounds", type=int, default=5, help="of the part render")
    parser.add_argument("--steps", type=int, default=TRAINING_STEPS, help="of the part train")
    parser.add_argument("--dtype", choices=["fp16", "bf16"], default="bf16")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here")
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "sd15.safetensors"
        write(checkpoint)
        loaded = base.load(str(checkpoint), device="cuda", dtype=given.dtype)
    record = Record("gpu")
    record.put(conditions={**conditions(), "gpu": torch.cuda.get_device_name(), "dtype": given.dtype})
    if "train" in (given.part or PARTS):
        record.put(**measure_training(loaded, given.steps))
    if "render" in (given.part or PARTS):
        record.put(**measure_render(loaded, given.rounds))
    print(table([(name, f"{record.values[name]:.2f}", goal) for name, goal in GOALS.items() if name in record.values]))
    print(f"all of it: {record.path}")


if __name__ == "__main__":
    main()
