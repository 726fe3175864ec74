"""How fast `cdvideo` is on a CUDA device at Stable Diffusion 1.5's size, with random weights, into out/bench/gpu.json.

`--part train`: seconds of a training of 500 steps at 512x512, batch 2, with fresh and with cached views, and its peak memory.
`--part render`: seconds of 16 frames of 512x512, 25 steps, to an MP4: exact, at `--speed fast`, and of diffusers' AnimateDiffPipeline on
the same weights in the same precision, its frames written by the same encoder; in turns. Without `--part`, both.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AnimateDiffPipeline, MotionAdapter

from cdvideo import base
from cdvideo.base import Base
from tests.bench.record import Record, conditions, table
from tests.bench.sd15_training import GIB, write

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


def measured(what: Callable[[], Any]) -> tuple[float, float]:
    """Seconds that it took, and the most memory that the device held, in GiB."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    what()
    torch.cuda.synchronize()
    return time.perf_counter() - started, torch.cuda.max_memory_reserved() / GIB


def measure_training(loaded: Base, num_steps: int) -> dict[str, Any]:
    from cdvideo import train
    from cdvideo.resources import resource

    subject = train.Subject(token="V*", class_word="bear", initializer=str(loaded.preset.initializer(0)))
    photos = {"V*": [train.load_photo(path) for path in train.find_photos(resource("samples", "bear"))]}
    losses: list[float] = []

    def run(cached_views: int, steps: int, **settings: Any) -> None:
        losses.clear()
        with tempfile.TemporaryDirectory() as scratch:
            train.train(
                loaded,
                photos,
                [subject],
                out=Path(scratch) / "bear.safetensors",
                steps=steps,
                batch_size=2,
                learning_rate=loaded.preset.learning_rate,
                cached_views=cached_views,
                checkpoint_every=steps,
                on_step=lambda progress: losses.append(progress.noise_loss),
                **settings,
            )

    run(0, 5)
    few = 20
    run(0, few)
    recorded = list(losses)
    unrecorded_s, _ = measured(lambda: run(0, few, gradient_checkpointing=True))
    gap = max(abs(one / other - 1) for one, other in zip(recorded, losses, strict=True))
    fresh_s, peak = measured(lambda: run(0, num_steps))
    cached_s, cached_peak = measured(lambda: run(CACHED_VIEWS, num_steps))
    return {
        "train_fresh_s": round(fresh_s, 2),
        "train_cached_s": round(cached_s, 2),
        "train_peak_gib": round(max(peak, cached_peak), 3),
        "train": {"steps": num_steps, "loss_gap_recorded_to_not": gap, "checkpointed_20_steps_s": round(unrecorded_s, 2)},
    }


def random_motion() -> MotionAdapter:
    """A v2 motion module of full size on the CPU, its weights random and its position tables its own."""
    from cdvideo.motion.module import position_table
    from tests.base.test_sd15_full_size import filled

    with torch.device("meta"):
        adapter = MotionAdapter(use_motion_mid_block=True, motion_max_seq_length=32)
    filled(adapter, 2)
    for positions in adapter.buffers():
        positions.copy_(position_table(positions.shape[-1], positions.shape[1]))
    return adapter.eval()


def measure_render(loaded: Base, rounds: int) -> dict[str, Any]:
    from cdvideo.animate import Studio
    from cdvideo.motion import MotionModule, attach
    from cdvideo.sampling import make_scheduler
    from cdvideo.video import Clip

    adapter = random_motion()
    module = MotionModule.from_adapter(adapter, source="random weights")
    studio = Studio(loaded, [], module, motion_norm="diffusers")
    pipeline = AnimateDiffPipeline(
        vae=loaded.vae,
        text_encoder=loaded.text_encoder,
        tokenizer=loaded.tokenizer,
        unet=attach(loaded.unet, module, motion_norm="diffusers"),
        motion_adapter=adapter,
        scheduler=make_scheduler("animatediff", STEPS),
    )
    pipeline.set_progress_bar_config(disable=True)
    sampling = {"num_frames": FRAMES, "num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "clip.mp4"

        def ours(speed: str) -> Callable[[], Any]:
            return lambda: studio.clip(PROMPT, negative="", seed=0, speed=speed, size=(SIDE, SIDE), **sampling).save(out)

        def theirs() -> None:
            generator = torch.Generator().manual_seed(0)
            settings = {"negative_prompt": "", "height": SIDE, "width": SIDE, "generator": generator, "output_type": "np", **sampling}
            frames = np.asarray(pipeline(PROMPT, **settings).frames[0])
            Clip(frames=np.rint(np.nan_to_num(frames) * 255).astype(np.uint8), fps=8, record={}).save(out)

        runs = {"pipeline": theirs, "exact": ours("exact"), "fast": ours("fast")}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        peaks: dict[str, float] = {}
        for turn in range(rounds + 1):
            for name, run in runs.items():
                took, peaks[name] = measured(run)
                if turn:
                    seconds[name].append(took)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "render_s": round(medians["exact"], 3),
        "render_ratio": round(medians["pipeline"] / medians["exact"], 3),
        "render_peak_gib": round(peaks["exact"], 3),
        "fast_over_exact": round(medians["exact"] / medians["fast"], 3),
        "render": {
            "rounds": rounds,
            **{name: {"s": round(medians[name], 3), "peak_gib": round(peaks[name], 3)} for name in runs},
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
    record = Record("gpu")
    record.put(conditions={**conditions(), "gpu": torch.cuda.get_device_name(), "dtype": given.dtype})
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = Path(scratch) / "sd15.safetensors"
        write(checkpoint)
        loaded = base.load(str(checkpoint), device="cuda", dtype=given.dtype)
    if "train" in (given.part or PARTS):
        record.put(**measure_training(loaded, given.steps))
    if "render" in (given.part or PARTS):
        record.put(**measure_render(loaded, given.rounds))
    print(table([(name, f"{record.values[name]:.2f}", goal) for name, goal in GOALS.items() if name in record.values]))
    print(f"all of it: {record.path}")


if __name__ == "__main__":
    main()
