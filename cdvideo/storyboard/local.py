"""Workers in processes of this machine."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from cdvideo.animate.reuse import speed_of
from cdvideo.base.catalog import BASES, POCKET_PRESET
from cdvideo.interrupts import deaf_to_ctrl_c
from cdvideo.storyboard.planning import PlannedShot
from cdvideo.storyboard.takes import size_and_steps
from cdvideo.storyboard.workers import Chain, Hand, Lost, Message, Rendering, Worker

_GONE = (EOFError, OSError)
"""What a pipe says whose other end is no more."""

PICTURE_STEPS_OF_A_START = 250
"""What one thread denoises of the pocket base's pictures in the time that workers take to start: they import, and load the base, anew."""

PATIENCE_S = 3.0
"""How long a worker may take to end by itself."""


class LocalHand:
    """A process and the pipe to it. A pipe of its own: a worker that is killed while it tells something leaves no lock behind."""

    def __init__(self, rendering: Rendering, slot: int) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: Any = context.Process(target=_work, args=(rendering, slot, theirs), name=f"worker {slot + 1}", daemon=True)
        with deaf_to_ctrl_c():
            self.process.start()
        theirs.close()

    def begin(self, chain: Chain) -> None:
        # One that is gone is heard of by its silence.
        with suppress(*_GONE):
            self.connection.send(chain)

    def heard(self) -> Message:
        try:
            message: Message = self.connection.recv()
        except _GONE:
            self.close()
            return Lost()
        return message

    def close(self) -> None:
        # One at rest hears that nobody speaks to it any more, tidies up and ends; one that is busy is ended.
        self.connection.close()
        self.process.join(PATIENCE_S)
        self.process.kill()
        self.process.join()


class LocalExecutor:
    """Processes of this machine, of several GPUs each on one of its own."""

    shares_process = True

    def __init__(self) -> None:
        self._hands: list[LocalHand] = []

    def usual_workers(self, rendering: Rendering, waiting: Sequence[Chain]) -> int:
        """One for each GPU; without one, one for each core where the base is a small one that ships and there is enough to do, else one."""
        if rendering.device in ("auto", "cuda") and torch.cuda.is_available():
            return torch.cuda.device_count()
        if not ships(rendering.plan.base) or not hasattr(os, "sched_getaffinity"):
            return 1
        workers = min(len(os.sched_getaffinity(0)), len(waiting))
        rows = [sum(_picture_steps(shot, rendering.speed) for shot in chain if shot.number in rendering.wanted) for chain in waiting]
        shared = max(sum(rows) / workers, *rows)
        return workers if PICTURE_STEPS_OF_A_START + shared < sum(rows) else 1

    def hire(self, rendering: Rendering, slot: int) -> LocalHand:
        hand = LocalHand(rendering, slot)
        self._hands.append(hand)
        return hand

    def hear(self, hands: Collection[Hand]) -> list[tuple[Hand, Message]]:
        by_connection = {hand.connection: hand for hand in hands if isinstance(hand, LocalHand)}
        telling = wait(list(by_connection))
        return [(hand, hand.heard()) for connection, hand in by_connection.items() if connection in telling]

    def close(self) -> None:
        for hand in self._hands:
            hand.close()
        self._hands = []


def _picture_steps(shot: PlannedShot, speed: str) -> float:
    """The steps at which the pocket base's UNet computes for a shot, each counted once for every picture of the base's own size."""
    chosen, ((width, height), steps) = speed_of(speed), size_and_steps(shot, POCKET_PRESET, speed)
    steps = steps or chosen.steps_of(POCKET_PRESET)
    computed = sum(chosen.is_whole(step, steps) for step in range(steps))
    return shot.takes * shot.num_frames * computed * width * height / POCKET_PRESET.native_size**2


def ships(base_name: str) -> bool:
    """Whether the base is a small one that comes with the package."""
    alias = BASES.get(base_name)
    return alias is not None and alias.location is None


def _work(rendering: Rendering, slot: int, connection: Connection) -> None:
    # By this, the device "auto" is one of several GPUs.
    os.environ["LOCAL_RANK"] = str(slot)
    worker = Worker(rendering, connection.send)
    with suppress(*_GONE):
        worker.open()
        while True:
            worker.render(connection.recv())
