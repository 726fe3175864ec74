"""Rendering a film's shots in one process or in several: the same pixels for any number of them.

Shots that continue from one another are a chain, which one process renders in order. A process that is killed loses the take that it was
at; another one goes on. On a CPU each process has the threads that the base's preset says, since their number decides how sums are rounded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from cdvideo.animate import OnStep
from cdvideo.base.catalog import BASES
from cdvideo.errors import UserError
from cdvideo.storyboard.planning import FilmPlan, PlannedShot
from cdvideo.storyboard.shots import OnTake, RenderedShot, Stage, Take

MAX_LOSSES = 3
"""So many workers may be lost one after the other before a shot is finished."""

Chain = tuple[PlannedShot, ...]


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """What every process has to know. Of shots that do not lie there already, those whose number is in `wanted` are rendered."""

    plan: FilmPlan
    folder: Path
    wanted: Collection[int]
    device: str = "auto"
    dtype: str = "auto"
    speed: str = "exact"

    def stage(self) -> Stage:
        return Stage(self.plan, self.folder, device=self.device, dtype=self.dtype, speed=self.speed)


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """The shots of a chain in order, None for those that are missing, and how many takes were rendered for them."""

    shots: Sequence[RenderedShot | None]
    num_takes: int


def chains(shots: Sequence[PlannedShot]) -> list[Chain]:
    """The shots in order, each with those that continue from it."""
    found: list[list[PlannedShot]] = []
    for shot in shots:
        if shot.continues and found:
            found[-1].append(shot)
        else:
            found.append([shot])
    return [tuple(chain) for chain in found]


def usual_workers(base_name: str, device: str = "auto") -> int:
    """One for each GPU; without one, one for each core where the base is a small one that ships, else one."""
    if device == "auto" and torch.cuda.is_available():
        return torch.cuda.device_count()
    alias = BASES.get(base_name)
    ships = alias is not None and alias.location is None
    return len(os.sched_getaffinity(0)) if ships and hasattr(os, "sched_getaffinity") else 1


def render_shots(rendering: Rendering, workers: int = 1, on_take: OnTake | None = None) -> list[Rendered]:
    """What became of every chain of the film, in order. A take that is begun again is told to `on_take` again.

    Raises UserError where workers are killed again and again.
    """
    links = chains(rendering.plan.shots)
    if workers == 1 or len(links) == 1:
        with rendering.stage() as stage, _film_threads(stage):
            return [_render_chain(stage, chain, rendering.wanted, on_take) for chain in links]
    finished: dict[int, Rendered] = {}
    losses = 0
    while len(finished) < len(links):
        open_links = {number: chain for number, chain in enumerate(links) if number not in finished}
        before = len(finished)
        with _pool(rendering, min(workers, len(open_links)), on_take) as pool:
            coming = {pool.submit(_in_worker, chain): number for number, chain in open_links.items()}
            try:
                for future in as_completed(coming):
                    finished[coming[future]] = future.result()
            except BrokenProcessPool:
                losses = 0 if len(finished) > before else losses + 1
        if losses == MAX_LOSSES:
            raise UserError(
                f"workers were killed {losses} times before a shot was finished",
                cause="perhaps the memory does not suffice for so many",
                remedy="render again with fewer --workers; finished takes are kept",
            )
    return [finished[number] for number in range(len(links))]


def _render_chain(stage: Stage, chain: Chain, wanted: Collection[int], on_take: OnTake | None) -> Rendered:
    shots: list[RenderedShot | None] = []
    before: Take | None = None
    rendered_before = stage.num_rendered
    for shot in chain:
        found = stage.render(shot, before, on_take) if shot.number in wanted else None
        if found is None and not (shot.continues and before is None):
            found = stage.find(shot, before)
        before = found.kept if found else None
        shots.append(found)
    return Rendered(shots=shots, num_takes=stage.num_rendered - rendered_before)


@contextmanager
def _film_threads(stage: Stage) -> Iterator[None]:
    own = torch.get_num_threads()
    torch.set_num_threads(stage.base.preset.film_threads or own)
    try:
        yield
    finally:
        torch.set_num_threads(own)


@contextmanager
def _pool(rendering: Rendering, workers: int, on_take: OnTake | None) -> Iterator[ProcessPoolExecutor]:
    """Workers, and while they are there, `on_take` called here with what they tell."""
    context = get_context("spawn")
    # Queues in a process of their own: a worker that is killed while it puts something there leaves no lock behind.
    with context.Manager() as manager:
        numbers, events = manager.Queue(), manager.Queue()
        for number in range(workers):
            numbers.put(number)
        listener = Thread(target=_listen, args=(events, {shot.number: shot for shot in rendering.plan.shots}, on_take), daemon=True)
        listener.start()
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(rendering, numbers, events))
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)
            events.put(None)
            listener.join()


def _listen(events: Any, shots: Mapping[int, PlannedShot], on_take: OnTake | None) -> None:
    """Tells `on_take`, and what it returns, of the workers' takes and steps, until None comes."""
    steppers: dict[tuple[int, int], OnStep | None] = {}
    while (event := events.get()) is not None:
        number, take, *told = event
        if len(told) == 1:
            steppers[number, take] = on_take(shots[number], take, told[0]) if on_take else None
        elif stepper := steppers.get((number, take)):
            stepper(*told)


_stage: Stage | None = None
_rendering: Rendering | None = None
_events: Any = None


def _begin(rendering: Rendering, numbers: Any, events: Any) -> None:
    """Opens the worker's stage, of several GPUs on one of its own."""
    global _stage, _rendering, _events
    # By this, the device "auto" is one of several GPUs.
    os.environ["LOCAL_RANK"] = str(numbers.get())
    _rendering, _events = rendering, events
    _stage = rendering.stage()
    torch.set_num_threads(_stage.base.preset.film_threads or torch.get_num_threads())


def _in_worker(chain: Chain) -> Rendered:
    assert _stage is not None and _rendering is not None
    return _render_chain(_stage, chain, _rendering.wanted, _tell)


def _tell(shot: PlannedShot, take: int, done: bool) -> Callable[[int, int], None] | None:
    """Puts a take, and then its steps, where the film's own process hears of them."""
    _events.put((shot.number, take, done))
    return None if done else lambda step, steps: _events.put((shot.number, take, step, steps))
