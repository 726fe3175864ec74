"""How long a film of 200 shots takes besides its rendering, into out/bench/storyboard.json, in milliseconds a shot.

Every fifth shot continues the one before; there are a cast, camera moves and captions. `--part plan`: to read, check and plan it.
`--part dispatch`: to give its shots to two workers, which render nothing, and to hear of them; the workers' own start is told apart.
`--part found`: to find that all of it is rendered already. Without `--part`, all of them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cdvideo import base
from cdvideo.concept import Concept, ConceptHeader
from cdvideo.storyboard.checking import check
from cdvideo.storyboard.local import LocalExecutor
from cdvideo.storyboard.planning import PlannedShot
from cdvideo.storyboard.shots import OnTake, Stage
from cdvideo.storyboard.takes import RenderedShot, Take
from cdvideo.storyboard.workers import Hand, Message, Ready, Rendering, render_shots
from cdvideo.video import Clip
from tests.bench.record import Record, conditions, table

SHOTS, WORKERS, SIDE = 200, 2, 64
GOALS = {"plan_and_dispatch_ms": "<= 50", "found_ms": "<= 50"}


class IdleStage(Stage):
    """Finds each take's folder, and renders nothing into it."""

    def render(self, shot: PlannedShot, before: Take | None, on_take: OnTake | None = None) -> RenderedShot:
        takes = []
        for number, folder in enumerate(self.shelf.folders(shot, None), 1):
            on_step = on_take(shot, number, False) if on_take else None
            if on_step:
                on_step(1, 1)
            takes.append(Take(number=number, seed=shot.seed, folder=folder, fps=shot.fps, scores={"score": 0.0}))
        return RenderedShot(shot=shot, takes=takes, kept=takes[0])


class BlankStage(Stage):
    """Renders grey."""

    def _clip(self, shot: PlannedShot, before: Take | None, take: int, on_step: Any) -> Clip:
        frames = np.full((shot.num_frames, SIDE, SIDE, 3), 128, dtype=np.uint8)
        return Clip(frames=frames, fps=shot.fps, record={"kind": "clip", "seed": shot.seed + take, "seen": {"flicker": 0.0}})


@dataclass(frozen=True, kw_only=True)
class IdleRendering(Rendering):
    """On an idle stage."""

    def stage(self) -> Stage:
        return IdleStage(self.plan, self.folder, device=self.device, dtype=self.dtype)


class TimedExecutor(LocalExecutor):
    """Knows when its first worker was ready."""

    def __init__(self) -> None:
        super().__init__()
        self.ready: tuple[float, float] | None = None

    def hear(self, hands: Collection[Hand]) -> list[tuple[Hand, Message]]:
        heard = super().hear(hands)
        if self.ready is None and any(isinstance(message, Ready) for _, message in heard):
            self.ready = (time.perf_counter(), time.process_time())
        return heard


def write_film(folder: Path) -> Path:
    """A storyboard of many shots, and the concept of its cast."""
    pocket = base.load("pocket", device="cpu", dtype="fp32")
    header = ConceptHeader(base="pocket", fingerprint=pocket.fingerprint, tokens=("V*",), class_words=("bear",))
    embedding = torch.zeros(pocket.text_encoder.config.hidden_size)
    Concept(header=header, tuned={}, embeddings={"V*": embedding}).save(folder / "bear.safetensors")
    shots = [
        f'  - {{prompt: "a {{bear}} in place {number}", seed: {number}, camera: "zoom-in:0.5", caption: shot {number}'
        + (", continue: true}" if number % 5 == 4 else "}")
        for number in range(SHOTS)
    ]
    head = f"title: Long\ncast: {{bear: bear.safetensors}}\ndefaults: {{frames: 4, steps: 2, size: {SIDE}x{SIDE}}}\nshots:\n"
    file = folder / "film.yaml"
    file.write_text(head + "\n".join(shots) + "\n", encoding="utf-8")
    return file


def milliseconds(work: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Medians for each shot, after a round that is not counted."""
    wall, cpu = [], []
    for _ in range(rounds + 1):
        started, used = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    return {"wall_ms": _each(statistics.median(wall[1:])), "cpu_ms": _each(statistics.median(cpu[1:]))}


def _each(seconds: float) -> float:
    return round(1000 * seconds / SHOTS, 3)


def measure_dispatch(file: Path) -> dict[str, Any]:
    plan = check(file).plan
    rendering = IdleRendering(plan=plan, folder=file.parent / "idle", wanted=range(1, SHOTS + 1), device="cpu")
    executor = TimedExecutor()
    started = time.perf_counter()
    made = render_shots(rendering, executor, WORKERS)
    ended, used = time.perf_counter(), time.process_time()
    if executor.ready is None or sum(len(one.shots) for one in made) != SHOTS:
        raise SystemExit("not every shot was dispatched")
    ready, ready_cpu = executor.ready
    return {"wall_ms": _each(ended - ready), "cpu_ms": _each(used - ready_cpu), "start_s": round(ready - started, 2)}


def measure_found(file: Path, rounds: int) -> dict[str, Any]:
    plan = check(file).plan
    rendering = Rendering(plan=plan, folder=file.parent / "shots", wanted=range(1, SHOTS + 1), device="cpu")
    rendering.stage()
    with BlankStage(plan, rendering.folder, device="cpu") as stage:
        before = None
        for shot in plan.shots:
            before = stage.render(shot, before).kept

    def find() -> None:
        made = render_shots(rendering, LocalExecutor(), WORKERS)
        if any(shot is None for one in made for shot in one.shots) or any(one.num_takes for one in made):
            raise SystemExit("what lies there was not found")

    return milliseconds(find, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.storyboard", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--part", action="append", choices=["plan", "dispatch", "found"], help="all unless given")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    parts = given.part or ["plan", "dispatch", "found"]
    record = Record("storyboard")
    record.put(conditions=conditions(), shots=SHOTS, workers=WORKERS)
    with tempfile.TemporaryDirectory() as scratch:
        file = write_film(Path(scratch))
        if "plan" in parts:
            record.put(plan=milliseconds(lambda: check(file), given.rounds))
        if "dispatch" in parts:
            record.put(dispatch=measure_dispatch(file))
        if "found" in parts:
            found = measure_found(file, given.rounds)
            record.put(found=found, found_ms=found["wall_ms"])
    if "plan" in record.values and "dispatch" in record.values:
        record.put(plan_and_dispatch_ms=round(record.values["plan"]["wall_ms"] + record.values["dispatch"]["wall_ms"], 3))
    print(table([(name, f"{record.values[name]:.2f}", goal) for name, goal in GOALS.items() if name in record.values]))
    print(f"all of it: {record.path}")


if __name__ == "__main__":
    main()
