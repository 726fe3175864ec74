"""Workers in processes of this machine."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from cdvideo.base.catalog import BASES
from cdvideo.interrupts import deaf_to_ctrl_c
from cdvideo.storyboard.workers import Chain, Hand, Lost, Message, Rendering, Worker

_GONE = (EOFError, OSError)
"""What a pipe says whose other end is no more."""

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

    def usual_workers(self, base_name: str, device: str) -> int:
        """One for each GPU; without one, one for each core where the base is a small one that ships, else one."""
        if device in ("auto", "cuda") and torch.cuda.is_available():
            return torch.cuda.device_count()
        return len(os.sched_getaffinity(0)) if ships(base_name) and hasattr(os, "sched_getaffinity") else 1

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
