"""How fast `cdvideo train` is, into out/bench/train.json.

`--part steps`: seconds a step on the pocket base, of the reference loop and of `train` with fresh and with cached views, in turns.
`--part start`: seconds until `cdvideo train samples/bear --class bear` has taken its first step. `--part sd15`: peak memory of a training
of Stable Diffusion 1.5's size at 512x512, some 20 minutes on two cores. Without `--part`, all of them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.record import Record, conditions, table

BATCH_SIZES = (4, 2)
"""The pocket base's own, which the ratios without a suffix are of, and Stable Diffusion 1.5's."""
CACHED_VIEWS = 8
SAME = 1e-4
"""How far the first losses of the two loops may differ, relatively: they are the same computation."""
DRAWN_AHEAD = 3
"""A training's first steps are not warm, and in its last ones no batch is drawn any more: so many are not counted at either end."""
GOALS = {"step_ratio": ">= 2.0", "cached_ratio": ">= 3.0", "first_step_s": "<= 8", "sd15_peak_gib": "<= 8"}
FIRST_STEP_LIMIT_S = 120


@dataclass
class Times:
    """Seconds of single steps, by the clock and of this process's threads together."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def medians(self) -> dict[str, float]:
        return {"wall_s": round(statistics.median(self.wall), 5), "cpu_s": round(statistics.median(self.cpu), 5), "steps": len(self.wall)}


class Stopwatch:
    """Told of every step's end, it knows how long each step took."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []

    def tick(self) -> None:
        self.ends.append((time.perf_counter(), time.process_time()))

    def add_to(self, times: Times, *, skip_first: int, skip_last: int) -> None:
        ends = self.ends[skip_first : len(self.ends) - skip_last]
        for (wall, cpu), (next_wall, next_cpu) in itertools.pairwise(ends):
            times.wall.append(next_wall - wall)
            times.cpu.append(next_cpu - cpu)


def measure_steps(rounds: int, num_steps: int) -> dict[str, Any]:
    """Medians over `rounds` turns of `num_steps` steps each, and their ratios."""
    from cdvideo import base, train
    from cdvideo.resources import resource
    from cdvideo.train.subject import subject_examples
    from tests.bench.reference_training import ReferenceTraining

    subject = train.Subject(token="V*", class_word="bear", initializer="bear")
    photos = {"V*": [train.load_photo(path) for path in train.find_photos(resource("samples", "bear"))]}
    found: dict[str, Any] = {}
    for batch_size in BATCH_SIZES:
        own = base.load("pocket", device="cpu", dtype="fp32")
        other = base.load("pocket", device="cpu", dtype="fp32")
        rate = own.preset.learning_rate
        reference = ReferenceTraining(other, subject_examples([subject], photos), [subject], batch_size=batch_size, learning_rate=rate)
        fresh_times, cached_times, reference_times = Times(), Times(), Times()
        losses: list[tuple[float, float]] = []

        def run_own(times: Times, steps: int, cached_views: int) -> list[tuple[float, float]]:
            watch, seen = Stopwatch(), []

            def on_step(progress: train.Progress) -> None:
                seen.append((progress.noise_loss, progress.spl))
                watch.tick()

            with tempfile.TemporaryDirectory() as scratch:
                train.train(
                    own,  # noqa: B023
                    photos,
                    [subject],
                    out=Path(scratch) / "bear.safetensors",
                    steps=steps,
                    batch_size=batch_size,  # noqa: B023
                    learning_rate=rate,  # noqa: B023
                    cached_views=cached_views,
                    on_step=on_step,
                )
            watch.add_to(times, skip_first=DRAWN_AHEAD, skip_last=DRAWN_AHEAD)
            return seen

        for turn in range(rounds):
            watch = Stopwatch()
            watch.tick()
            for _ in range(num_steps + (DRAWN_AHEAD if turn == 0 else 0)):
                losses.append(reference.step())
                watch.tick()
            watch.add_to(reference_times, skip_first=DRAWN_AHEAD if turn == 0 else 0, skip_last=0)
            own_losses = run_own(fresh_times, num_steps + 2 * DRAWN_AHEAD, 0)
            if turn == 0:
                gap = _largest_gap(own_losses, losses)
            run_own(cached_times, num_steps + 2 * DRAWN_AHEAD, CACHED_VIEWS)
        reference_s, fresh_s, cached_s = (statistics.median(times.wall) for times in (reference_times, fresh_times, cached_times))
        suffix = "" if batch_size == BATCH_SIZES[0] else f"_batch_{batch_size}"
        found |= {
            f"step_ratio{suffix}": round(reference_s / fresh_s, 3),
            f"cached_ratio{suffix}": round(reference_s / cached_s, 3),
            f"steps{suffix}": {
                "batch_size": batch_size,
                "rounds": rounds,
                "views_cached": CACHED_VIEWS,
                "largest_loss_gap": gap,
                "reference": reference_times.medians(),
                "fresh_views": fresh_times.medians(),
                "cached_views": cached_times.medians(),
            },
        }
    return found


def _largest_gap(own: list[tuple[float, float]], reference: list[tuple[float, float]]) -> float:
    """The largest relative difference of a loss; a benchmark of two loops that do not compute the same would say nothing."""
    gaps = [abs(mine / other - 1) for pair in zip(own, reference, strict=False) for mine, other in zip(*pair, strict=True)]
    if max(gaps[:2]) > SAME:
        raise SystemExit(f"the loops do not compute the same: first losses {own[0]} and {reference[0]}")
    return max(gaps)


def measure_start(rounds: int) -> dict[str, Any]:
    """Seconds from the command's start until its progress bar shows a step."""
    times = Times()
    for _ in range(rounds):
        wall, cpu = _first_step()
        times.wall.append(wall)
        times.cpu.append(cpu)
    medians = times.medians()
    return {"first_step_s": round(medians["wall_s"], 2), "start": {"cpu_s": medians["cpu_s"], "runs": rounds}}


def _first_step() -> tuple[float, float]:
    """Seconds by the clock, and of the process's threads together."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "cdvideo", "train", "samples/bear", "--class", "bear", "--out", f"{scratch}/bear.safetensors"]
        cpu_before = _children_cpu()
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        watchdog = threading.Timer(FIRST_STEP_LIMIT_S, process.kill)
        watchdog.start()
        try:
            assert process.stderr is not None
            shown = b""
            while not re.search(rb"[| ][1-9]\d*/\d+ \[", shown):
                part = os.read(process.stderr.fileno(), 4096)
                if not part:
                    raise SystemExit(f"{' '.join(command)} took no step:\n{shown.decode(errors='replace')}")
                shown += part
            wall = time.perf_counter() - started
        finally:
            watchdog.cancel()
            process.kill()
            process.communicate()
        return wall, _children_cpu() - cpu_before


def _children_cpu() -> float:
    used = os.times()
    return used.children_user + used.children_system


def measure_sd15(record: Record, steps: int) -> None:
    """Peak memory of a process that trains a base of Stable Diffusion 1.5's size; noted in the record after every step."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        script = [sys.executable, "-m", "tests.bench.sd15_training"]
        checkpoint = f"{scratch}/sd15.safetensors"
        subprocess.run([*script, "write", checkpoint], check=True)
        with subprocess.Popen([*script, "train", checkpoint, str(steps)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            ends = [time.perf_counter()]
            for line in process.stdout:
                said = json.loads(line)
                ends.append(time.perf_counter())
                seconds = [round(later - earlier, 1) for earlier, later in itertools.pairwise(ends)]
                record.put(sd15_peak_gib=said["peak_gib"], sd15={**said, "of_steps": steps, "seconds": seconds, **conditions()})
                print(f"step {said['step']}/{steps}: peak {said['peak_gib']:.2f} GiB, {seconds[-1]} s", flush=True)
        if process.returncode:
            raise SystemExit(f"the training stopped with {process.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.train", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--part", action="append", choices=["steps", "start", "sd15"], help="all unless given")
    parser.add_argument("--rounds", type=int, default=5, help="turns of `steps`, and runs of `start`")
    parser.add_argument("--steps", type=int, default=8, help="counted steps a turn")
    parser.add_argument("--sd15-steps", type=int, default=10)
    given = parser.parse_args()
    parts = given.part or ["start", "steps", "sd15"]
    record = Record("train")
    record.put(conditions=conditions())
    if "start" in parts:
        record.put(**measure_start(min(given.rounds, 3)))
    if "steps" in parts:
        record.put(**measure_steps(given.rounds, given.steps))
    if "sd15" in parts:
        measure_sd15(record, given.sd15_steps)
    _print(record)


def _print(record: Record) -> None:
    values = record.values
    rows = [(name, f"{values[name]:.2f}", goal) for name, goal in GOALS.items() if name in values]
    for steps in (value for name, value in values.items() if name.startswith("steps")):
        for what in ("reference", "fresh_views", "cached_views"):
            name = f"batch {steps['batch_size']}, {what.replace('_', ' ')}"
            rows.append((name, f"{1000 * steps[what]['wall_s']:.1f} ms", f"{1000 * steps[what]['cpu_s']:.1f} ms of CPU"))
    print(table(rows))
    print(f"all of it: {record.path}")


if __name__ == "__main__":
    main()
