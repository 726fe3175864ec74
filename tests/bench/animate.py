"""How fast `cdvideo animate` is, and how much memory it takes, into out/bench/animate.json.

`--part render`: seconds of a 16-frame clip on the pocket base, of diffusers' AnimateDiffPipeline in fp32 (in a process of its own) and of
`Studio.clip` exact, in bf16 and at `--speed fast` (in bf16, too, where the CPU computes in it), in turns.
`--part length`: peak memory and time a frame of 512
frames against 16, each in a process of its own. `--part seams`: how much changes from frame to frame where windows of 64 frames
overlap, against elsewhere, and where a loop begins again.
`--part quality`: what the judge and CLIP say of `--speed fast` against exact, six seconds a clip.
`--part files`: CPU seconds to write 16 frames of 512x512 as GIF and MP4. `--part assemble`: CPU seconds to join a UNet of Stable Diffusion
1.5's size and a v2 motion module; 4 GB of memory. Without `--part`, all of them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.fast_quality import measure_quality, worse
from tests.bench.record import FOLDER, Record, conditions, psnr, table

Run = tuple[Any, float, float]
"""Frames, seconds by the clock, and of all threads together."""
PROMPT = "a bear walking to the right on the beach"
FRAMES, STEPS, GUIDANCE = 16, 25, 7.5
LONG, LONG_STEPS = 512, 2
MOVING_CLIPS, STILL_CLIPS, SEAM_FRAMES, LOOP_FRAMES = 14, 4, 64, (16, 40)
ONE_WAY = ("left", "right", "float", "approach")
SEAM_STEPS = 12
PARTS = ["files", "render", "quality", "length", "seams", "assemble"]
SAME = 2
"""How far, in levels of 255, a pixel of the exact render may differ from the pipeline's: they are the same computation, rounded."""
GOALS = {
    "exact_fp32_ratio": ">= 1.3",
    "bf16_ratio": ">= 1.8",
    "fast_ratio": ">= 2.5",
    "fast_psnr_db": ">= 25",
    "fast_mean_psnr_db": ">= 25",
    "fast_worse_measures": "<= 0",
    "memory_512_over_16": "<= 1.10",
    "frame_time_512_over_16": "<= 1.4",
    "seam_ratio": "<= 1.0",
    "one_way_seam_ratio": "<= 1.0",
    "loop_join_ratio": "<= 1.0",
    "gif_cpu_s": "<= 0.5",
    "mp4_cpu_s": "<= 0.3",
    "assemble_cpu_s": "<= 0.5",
}


def peer(asked: Any) -> None:
    """diffusers' pipeline in a process of its own, which nothing of ours has set up: answers with frames, wall and CPU seconds."""
    import torch

    from cdvideo import base
    from tests.pipelines import animatediff_pipeline

    loaded = base.load("pocket", device="cpu", dtype="fp32")
    pipeline, side = animatediff_pipeline(loaded, STEPS), loaded.preset.native_size
    sampling = {"num_frames": FRAMES, "num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "output_type": "np"}
    while asked.recv():
        started, used = time.perf_counter(), time.process_time()
        generator = torch.Generator().manual_seed(0)
        frames = pipeline(PROMPT, negative_prompt="", height=side, width=side, generator=generator, **sampling).frames[0]
        pixels = np.rint(np.asarray(frames) * 255).astype(np.uint8)
        asked.send((pixels, time.perf_counter() - started, time.process_time() - used))


def measure_render(rounds: int) -> dict[str, Any]:
    """Medians over `rounds` turns after one that is not counted, and the pipeline's time over each of ours."""
    from cdvideo import base, motion
    from cdvideo.animate import Studio

    def studio(dtype: str) -> Studio:
        loaded = base.load("pocket", device="cpu", dtype=dtype)
        return Studio(loaded, [], motion.motion_for(loaded), motion_norm="diffusers")

    exact, small = studio("fp32"), studio("bf16")
    context = multiprocessing.get_context("spawn")
    connection, far_end = context.Pipe()
    process = context.Process(target=peer, args=(far_end,), daemon=True)
    process.start()

    def theirs() -> Run:
        connection.send(True)
        return connection.recv()

    def ours(own: Studio, speed: str = "exact") -> Callable[[], Run]:
        sampling = {"num_frames": FRAMES, "num_inference_steps": STEPS, "guidance_scale": GUIDANCE}

        def run() -> Run:
            started, used = time.perf_counter(), time.process_time()
            frames = own.clip(PROMPT, negative="", seed=0, speed=speed, **sampling).frames
            return frames, time.perf_counter() - started, time.process_time() - used

        return run

    runs = {"pipeline": theirs, "exact": ours(exact), "bf16": ours(small), "fast": ours(studio("fast"), "fast")}
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    frames = {}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            frames[name], seconds, cpu_seconds = run()
            if turn:
                wall[name].append(seconds)
                cpu[name].append(cpu_seconds)
    connection.send(False)
    gap = int(np.abs(frames["exact"].astype(int) - frames["pipeline"]).max())
    if gap > SAME:
        raise SystemExit(f"the exact render is not the pipeline's: a pixel differs by {gap} of 255")
    medians = {name: statistics.median(values) for name, values in wall.items()}
    return {
        "exact_fp32_ratio": round(medians["pipeline"] / medians["exact"], 3),
        "bf16_ratio": round(medians["pipeline"] / medians["bf16"], 3),
        "fast_ratio": round(medians["pipeline"] / medians["fast"], 3),
        "fast_psnr_db": round(psnr(frames["fast"], frames["exact"]), 2),
        "bf16_psnr_db": round(psnr(frames["bf16"], frames["exact"]), 2),
        "render": {
            "rounds": rounds,
            "largest_gap": gap,
            **{name: {"wall_s": round(medians[name], 3), "cpu_s": round(statistics.median(cpu[name]), 3)} for name in runs},
        },
    }


def measure_length() -> dict[str, Any]:
    script = [sys.executable, "-m", "tests.bench.animate", "--render-once"]
    found = {}
    for count in (FRAMES, LONG):
        said = subprocess.run([*script, str(count)], check=True, stdout=subprocess.PIPE, text=True).stdout
        found[count] = json.loads(said.splitlines()[-1])
    short, long = found[FRAMES], found[LONG]
    return {
        "memory_512_over_16": round(long["peak_bytes"] / short["peak_bytes"], 3),
        "frame_time_512_over_16": round(long["frame_s"] / short["frame_s"], 3),
        "length": {str(count): values for count, values in found.items()},
    }


def render_once(num_frames: int) -> None:
    """Renders a clip of so many frames to an MP4, twice, and prints the process's peak memory and the second time's seconds a frame."""
    from cdvideo import Animator
    from tests.bench.sd15_training import peak_bytes

    animator = Animator("pocket", device="cpu", dtype="fp32")
    with tempfile.TemporaryDirectory() as scratch:
        animator.animate(PROMPT, num_frames=FRAMES, num_inference_steps=1).save(f"{scratch}/warm.mp4")
        started = time.perf_counter()
        animator.animate(PROMPT, num_frames=num_frames, num_inference_steps=LONG_STEPS).save(f"{scratch}/clip.mp4")
        seconds = time.perf_counter() - started
    print(json.dumps({"peak_bytes": peak_bytes(), "frame_s": seconds / num_frames}))


def measure_seams() -> dict[str, Any]:
    """How much changes from frame to frame where windows overlap, against elsewhere; and from a loop's last frame to its first.

    Motions that lead somewhere are apart: in every second window they lead back.
    """
    from cdvideo import Animator
    from cdvideo.pocket.report.intervals import bootstrap
    from cdvideo.pocket.report.prompts import motion_prompts, still_prompts
    from cdvideo.sampling import window_frames
    from cdvideo.video import contact_sheet

    ratios: dict[str, list[float]] = {"seam_ratio": [], "one_way_seam_ratio": [], "loop_join_ratio": []}
    rows, labels = [], []
    shown = Counter(frame for window in window_frames(SEAM_FRAMES) for frame in window)
    at_borders = {frame for frame, times in shown.items() if times > 1}
    with Animator("pocket", device="cpu", dtype="fp32") as animator:
        for prompt in [*motion_prompts(MOVING_CLIPS), *still_prompts(STILL_CLIPS)]:
            settings = {"seed": prompt.seed, "num_inference_steps": SEAM_STEPS}
            for num_frames, loop in ((SEAM_FRAMES, False), *((length, True) for length in LOOP_FRAMES)):
                frames = animator.animate(prompt.text, num_frames=num_frames, loop=loop, **settings).frames
                changes = np.abs(np.diff(frames.astype(np.int16), axis=0)).mean((1, 2, 3))
                if loop:
                    join = np.abs(frames[0].astype(np.int16) - frames[-1]).mean()
                    ratios["loop_join_ratio"].append(float(join / np.median(changes)))
                else:
                    border = np.array([frame in at_borders for frame in range(1, num_frames)])
                    name = "one_way_seam_ratio" if prompt.expected["motion"] in ONE_WAY else "seam_ratio"
                    ratios[name].append(float(changes[border].mean() / changes[~border].mean()))
                rows.append(frames[:: num_frames // FRAMES])
                labels.append(f"{prompt.text}, {num_frames} frames{' in a loop' if loop else ''}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    contact_sheet(rows, FRAMES, labels).save(FOLDER / "seams.png")
    found = {}
    for name, each in ratios.items():
        low, high = bootstrap([each])
        found[name] = round(statistics.mean(each), 3)
        found[f"{name}_of_each"] = {"interval": [round(low, 3), round(high, 3)], "ratios": [round(ratio, 3) for ratio in each]}
    return found


def measure_files(rounds: int) -> dict[str, Any]:
    from cdvideo.video import Clip, write
    from tests.video.scenes import moving_scene

    clip = Clip(frames=moving_scene(FRAMES, 512, 512), fps=8, record={})
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for suffix in ("gif", "mp4"):
            seconds = []
            for _ in range(rounds + 1):
                used = time.process_time()
                write(clip, Path(scratch) / f"clip.{suffix}")
                seconds.append(time.process_time() - used)
            found[f"{suffix}_cpu_s"] = round(statistics.median(seconds[1:]), 3)
    return found


def measure_assemble(rounds: int) -> dict[str, Any]:
    import torch
    from diffusers import UNet2DConditionModel

    from cdvideo.base.single_file import SD15_FOLDER
    from cdvideo.base.weights import read_json
    from cdvideo.motion import MotionModule, attach
    from tests.base.test_sd15_full_size import filled
    from tests.bench.sd15_training import random_motion

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(read_json(SD15_FOLDER / "unet" / "config.json"))
    whole, module = filled(unet, 1).eval(), MotionModule.from_adapter(random_motion(), source="random weights")
    seconds = []
    for _ in range(rounds + 1):
        used = time.process_time()
        attach(whole, module)
        seconds.append(time.process_time() - used)
    return {"assemble_cpu_s": round(statistics.median(seconds[1:]), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.animate", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--part", action="append", choices=PARTS, help="all unless given")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=49, help="of the part quality")
    parser.add_argument("--render-once", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.render_once:
        render_once(given.render_once)
        return
    parts = given.part or PARTS
    record = Record("animate")
    record.put(conditions=conditions())
    if "files" in parts:
        record.put(**measure_files(given.rounds))
    if "assemble" in parts:
        record.put(**measure_assemble(given.rounds))
    if "render" in parts:
        record.put(**measure_render(given.rounds))
    if "quality" in parts:
        quality = measure_quality(given.clips, lambda number: print(f"clip {number} of {given.clips} is judged", flush=True))
        record.put(**quality, fast_worse_measures=len(worse(quality["quality"])), fast_mean_psnr_db=quality["quality"]["psnr_db"])
    if "length" in parts:
        record.put(**measure_length())
    if "seams" in parts:
        record.put(**measure_seams())
    rows = [(name, f"{record.values[name]:.2f}", goal) for name, goal in GOALS.items() if name in record.values]
    print(table(rows))
    print(f"all of it: {record.path}")


if __name__ == "__main__":
    main()
