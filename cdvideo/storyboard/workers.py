"""Rendering a film's shots by workers, here or elsewhere: the same pixels for any number of them.

Shots that continue from one another are a chain, which one worker renders in order. A worker that is killed loses the take that it was at;
another one renders its chain. On a CPU each has the threads that the base's preset says, else as many as the film's own process, since
their number decides how sums are rounded. What a worker does is `Worker`; where workers are, and how they are heard, is an `Executor`.
"""

from __future__ import annotations

import traceback
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch

from cdvideo.animate import OnStep
from cdvideo.base.device import threads_of
from cdvideo.errors import UserError
from cdvideo.storyboard.makings import remember, remembered
from cdvideo.storyboard.planning import FilmPlan, PlannedShot
from cdvideo.storyboard.shots import OnTake, Stage
from cdvideo.storyboard.takes import RenderedShot, Shelf, Take

MAX_LOSSES = 3
"""So many workers may be lost over the same shot, or before they have begun one."""

Chain = tuple[PlannedShot, ...]


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """What every worker has to know. Of shots that do not lie there already, those whose number is in `wanted` are rendered."""

    plan: FilmPlan
    folder: Path
    wanted: Collection[int]
    device: str = "auto"
    dtype: str = "auto"
    speed: str = "exact"
    num_threads: int = field(default_factory=torch.get_num_threads)

    def elsewhere(self) -> Rendering:
        """The same for a process whose working folder may be another one, until it has entered this one's."""
        return replace(self, folder=self.folder.absolute())

    def stage(self) -> Stage:
        """The stage, whose makings are remembered in the film's folder."""
        stage = Stage(self.plan, self.folder, device=self.device, dtype=self.dtype, speed=self.speed)
        remember(self.plan, self.folder, stage.shelf.makings, stage.base.unet.config)
        return stage

    def shelf(self) -> Shelf | None:
        """What was rendered before, where it can be known without loading the base."""
        makings = remembered(self.plan, self.folder, device=self.device, dtype=self.dtype)
        return Shelf(self.folder, makings, speed=self.speed) if makings else None


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A worker has opened its stage."""


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A worker has come to a take; `done` says that it lay there already."""

    shot: int
    take: int
    done: bool


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """A denoising step of a take is done."""

    shot: int
    take: int
    step: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """The shots of a chain in order, None for those that are missing, and how many takes were rendered for them."""

    shots: Sequence[RenderedShot | None]
    num_takes: int


@dataclass(frozen=True, kw_only=True)
class Failed:
    """What a worker cannot do, no other can either."""

    error: Exception


@dataclass(frozen=True, kw_only=True)
class Lost:
    """The worker is no more. `cause` is what is known of it."""

    cause: str = "perhaps the memory does not suffice for so many"


Message = Ready | Begun | Stepped | Rendered | Failed | Lost


class Hand(Protocol):
    """A worker, as seen by who gives it work. It is to be given some once it is ready, and again once its chain is rendered."""

    def begin(self, chain: Chain) -> None: ...


class Executor(Protocol):
    """Where workers are."""

    shares_process: bool
    """Whether a single worker may as well be the film's own process."""

    def usual_workers(self, rendering: Rendering, waiting: Sequence[Chain]) -> int:
        """How many workers suit these chains of shots, their base and the device."""

    def hire(self, rendering: Rendering, slot: int) -> Hand:
        """A new worker, the only one in this slot, counted from 0. Raises UserError where there can be none."""

    def hear(self, hands: Collection[Hand]) -> Sequence[tuple[Hand, Message]]:
        """What workers tell, each in order, once any of them tells something."""

    def close(self) -> None:
        """Ends all workers, whatever they are at."""


class Worker:
    """A worker's share in a film, in its own process: it renders chains on its own stage, and tells of it."""

    def __init__(self, rendering: Rendering, tell: Callable[[Message], None]) -> None:
        self.rendering, self.tell = rendering, tell
        self._stage: Stage | None = None

    def open(self) -> None:
        with self._telling():
            self._stage = self.rendering.stage()
            self.tell(Ready())

    def render(self, chain: Chain) -> None:
        with self._telling():
            assert self._stage is not None, "work is for those who are ready"
            with film_threads(self._stage, self.rendering.num_threads):
                self.tell(_render_chain(self._stage, chain, self.rendering.wanted, self._on_take))

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            self.tell(Failed(error=error))
        except Exception:
            # Not every exception can be sent, and none brings its traceback along.
            self.tell(Failed(error=RuntimeError(f"a worker failed:\n{traceback.format_exc()}")))

    def _on_take(self, shot: PlannedShot, take: int, done: bool) -> OnStep | None:
        self.tell(Begun(shot=shot.number, take=take, done=done))
        if done:
            return None
        return lambda step, steps: self.tell(Stepped(shot=shot.number, take=take, step=step, steps=steps))


def chains(shots: Sequence[PlannedShot]) -> list[Chain]:
    """The shots in order, each with those that continue from it."""
    found: list[list[PlannedShot]] = []
    for shot in shots:
        if shot.continues and found:
            found[-1].append(shot)
        else:
            found.append([shot])
    return [tuple(chain) for chain in found]


def render_shots(rendering: Rendering, executor: Executor, workers: int | None = None, on_take: OnTake | None = None) -> list[Rendered]:
    """What became of every chain of the film, in order. A take that is begun again is told to `on_take` again; the executor is closed.

    Where all lies there already, no worker is hired and nothing is loaded. Raises UserError where workers are killed again and again.
    """
    links = dict(enumerate(chains(rendering.plan.shots)))
    finished = _found(rendering, links, on_take)
    waiting = {number: chain for number, chain in links.items() if number not in finished}
    try:
        if waiting:
            wanted = num_workers(rendering, list(waiting.values()), executor, workers)
            if wanted == 1 and executor.shares_process:
                finished |= _render_here(rendering, waiting, on_take)
            else:
                finished |= _share_out(rendering, waiting, executor, wanted, on_take)
    finally:
        executor.close()
    return [finished[number] for number in links]


def num_workers(rendering: Rendering, waiting: Sequence[Chain], executor: Executor, asked: int | None = None) -> int:
    """How many workers there will be for these chains: as many as are asked for, else as suit, and no more than chains."""
    return min(asked or executor.usual_workers(rendering, waiting), len(waiting))


def _found(rendering: Rendering, links: Mapping[int, Chain], on_take: OnTake | None) -> dict[int, Rendered]:
    """The chains of which nothing is to be rendered."""
    shelf = rendering.shelf()
    if shelf is None:
        return {}
    finished = {}
    for number, chain in links.items():
        shots = find_chain(shelf, chain)
        if any(shot is None and planned.number in rendering.wanted for planned, shot in zip(chain, shots, strict=True)):
            continue
        finished[number] = Rendered(shots=shots, num_takes=0)
        if on_take:
            for planned in chain:
                for take in range(1, planned.takes + 1) if planned.number in rendering.wanted else ():
                    on_take(planned, take, True)
    return finished


def find_chain(shelf: Shelf, chain: Chain) -> list[RenderedShot | None]:
    """The shots of a chain that lie there already: those behind a missing one that they continue cannot be known."""
    shots: list[RenderedShot | None] = []
    for shot in chain:
        before = shots[-1].kept if shots and shots[-1] else None
        shots.append(None if shot.continues and before is None else shelf.find(shot, before))
    return shots


def _render_here(rendering: Rendering, links: Mapping[int, Chain], on_take: OnTake | None) -> dict[int, Rendered]:
    with rendering.stage() as stage, film_threads(stage, rendering.num_threads):
        return {number: _render_chain(stage, chain, rendering.wanted, on_take) for number, chain in links.items()}


def _render_chain(stage: Stage, chain: Chain, wanted: Collection[int], on_take: OnTake | None) -> Rendered:
    shots: list[RenderedShot | None] = []
    before: Take | None = None
    rendered_before = stage.num_rendered
    for shot in chain:
        found = stage.render(shot, before, on_take) if shot.number in wanted else None
        if found is None and not (shot.continues and before is None):
            found = stage.shelf.find(shot, before)
        before = found.kept if found else None
        shots.append(found)
    return Rendered(shots=shots, num_takes=stage.num_rendered - rendered_before)


def _share_out(
    rendering: Rendering, links: Mapping[int, Chain], executor: Executor, workers: int, on_take: OnTake | None
) -> dict[int, Rendered]:
    finished: dict[int, Rendered] = {}
    waiting = deque(links)
    losses: Counter[int | None] = Counter()
    stories = _Stories(rendering.plan.shots, on_take)
    slots = {executor.hire(rendering, slot): slot for slot in range(workers)}
    at: dict[Hand, int] = {}
    idle: list[Hand] = []
    while len(finished) < len(links):
        while waiting and idle:
            hand = idle.pop()
            at[hand] = waiting.popleft()
            hand.begin(links[at[hand]])
        for hand, message in executor.hear([hand for hand in slots if hand not in idle]):
            match message:
                case Ready():
                    idle.append(hand)
                case Rendered():
                    finished[at.pop(hand)] = message
                    idle.append(hand)
                case Failed():
                    raise message.error
                case Lost():
                    lost = at.pop(hand, None)
                    _count_loss(losses, lost, message.cause)
                    if lost is not None:
                        waiting.appendleft(lost)
                    slot = slots.pop(hand)
                    slots[executor.hire(rendering, slot)] = slot
                case _:
                    stories.tell(message)
    return finished


def _count_loss(losses: Counter[int | None], link: int | None, cause: str) -> None:
    losses[link] += 1
    if losses[link] == MAX_LOSSES:
        raise UserError(
            f"workers were killed {MAX_LOSSES} times before a shot was finished",
            cause=cause,
            remedy="render again with fewer --workers; finished takes are kept",
        )


class _Stories:
    """Tells `on_take`, and what it returns, of workers' takes and steps."""

    def __init__(self, shots: Sequence[PlannedShot], on_take: OnTake | None) -> None:
        self.shots = {shot.number: shot for shot in shots}
        self.on_take = on_take
        self.steppers: dict[tuple[int, int], OnStep | None] = {}

    def tell(self, message: Begun | Stepped) -> None:
        key = (message.shot, message.take)
        if isinstance(message, Begun):
            self.steppers[key] = self.on_take(self.shots[message.shot], message.take, message.done) if self.on_take else None
        elif stepper := self.steppers.get(key):
            stepper(message.step, message.steps)


def film_threads(stage: Stage, num_threads: int) -> AbstractContextManager[None]:
    """Within it, the threads are those of a film on this base: as many as its preset says, else `num_threads`."""
    return threads_of(stage.base.preset.film_threads or num_threads)
