"""Workers on a Ray cluster: an actor each, on a GPU of its own where the cluster has any. The only file that imports ray, when asked for.

Every node sees the project's folder and the film's at the same paths, and has the same versions; both are checked where a worker begins.
"""

from __future__ import annotations

import os
import platform
import secrets
import socket
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from cdvideo import base
from cdvideo.errors import UserError, first_line
from cdvideo.files import replace_files
from cdvideo.storyboard.local import LocalExecutor
from cdvideo.storyboard.makings import concept_files
from cdvideo.storyboard.workers import Chain, Failed, Hand, Lost, Message, Rendering, Worker

CONNECTION_S = 8


class Pass:
    """What a node is known to be the right one by: the project's folder, a file in the film's with a secret, and the versions."""

    def __init__(self, folder: Path) -> None:
        self.project, self.secret, self.versions = Path.cwd(), secrets.token_hex(16), base.versions()
        self.file = folder.absolute() / f".cdvideo-{secrets.token_hex(6)}.node"
        replace_files(self.file, [(self.file, self.secret.encode())])

    def check(self, rendering: Rendering) -> None:
        """Enters the project's folder. Raises UserError where this is not the node that it should be."""
        node = platform.node()
        try:
            os.chdir(self.project)
            if self.file.read_text(encoding="utf-8") != self.secret:
                raise FileNotFoundError(2, "it is another folder", str(self.file.parent))
            for path in concept_files(rendering.plan):
                path.stat()
        except OSError as error:
            raise UserError(
                f"the Ray node {node} does not see what this machine sees",
                cause=f"{error.filename}: {error.strerror}",
                remedy=f"share {self.project} and {self.file.parent} with every node, at the same paths",
            ) from error
        if (own := base.versions()) != self.versions:
            differing = ", ".join(
                f"{name} {own.get(name)}, not {wanted}" for name, wanted in self.versions.items() if own.get(name) != wanted
            )
            raise UserError(
                f"the Ray node {node} would render other pixels", cause=f"it has {differing}", remedy="install the same versions"
            )

    def expire(self) -> None:
        self.file.unlink(missing_ok=True)


class _Actor:
    """A worker in a process of Ray's. One of its two threads renders while the other waits for what is to be told."""

    def __init__(self, rendering: Rendering, entry: Pass) -> None:
        self.messages: SimpleQueue[Message] = SimpleQueue()
        self.rendering, self.entry = rendering, entry
        self.worker = Worker(rendering, self.messages.put)

    def open(self) -> None:
        try:
            self.entry.check(self.rendering)
        except UserError as error:
            self.messages.put(Failed(error=error))
        else:
            self.worker.open()

    def render(self, chain: Chain) -> None:
        self.worker.render(chain)

    def heard(self) -> list[Message]:
        """What has been told since the last call; waits until it is something."""
        told = [self.messages.get()]
        with suppress(Empty):
            while True:
                told.append(self.messages.get_nowait())
        return told

    def process(self) -> int:
        return os.getpid()


class RayHand:
    """An actor, and what it will tell next."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.actor.open.remote()
        self.next = self.actor.heard.remote()

    def begin(self, chain: Chain) -> None:
        self.actor.render.remote(chain)


class RayExecutor:
    """Actors of a Ray cluster, each with a GPU where the device is one and the cluster has any."""

    shares_process = False

    def __init__(self, address: str | None = None) -> None:
        """At "HOST:PORT" or "auto"; None begins a cluster on this machine. Nothing is joined before it is needed.

        Raises UserError where Ray is not installed.
        """
        try:
            import ray
        except ImportError as error:
            remedy = "install it: pip install 'cdvideo[ray]', or leave --executor out"
            raise UserError("--executor ray needs Ray, which is not installed", cause=str(error), remedy=remedy) from error
        self.ray: Any = ray
        self.address = address
        self._begun = False
        self._hands: list[RayHand] = []
        self._pass: Pass | None = None

    def join(self) -> None:
        """Joins the cluster, unless this process is in one already. Raises UserError where there is none."""
        if self.ray.is_initialized():
            return
        address = self.address
        if address not in (None, "auto"):
            _check_reachable(address)
        own = {"include_dashboard": False} if address is None else {}
        # What is begun here reports to nobody, and its workers are no less urgent than local ones.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")
        try:
            self.ray.init(address=address or "local", logging_level="ERROR", log_to_driver=False, **own)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            where = f"at {address}" if address else "on this machine"
            remedy = "start one: ray start --head, or leave --ray-address out" if address else "leave --executor out"
            raise UserError(f"there is no Ray cluster {where}", cause=first_line(error), remedy=remedy) from error
        self._begun = True

    def usual_workers(self, rendering: Rendering, waiting: Sequence[Chain]) -> int:
        """One for each GPU of the cluster; without one, as on this machine."""
        self.join()
        return self._num_gpus(rendering.device) or LocalExecutor().usual_workers(replace(rendering, device="cpu"), waiting)

    def hire(self, rendering: Rendering, slot: int) -> RayHand:
        self.join()
        self._pass = self._pass or Pass(rendering.folder)
        gpus = 1 if self._num_gpus(rendering.device) else 0
        options = {"num_cpus": 0, "num_gpus": gpus, "max_concurrency": 2, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        absolute = rendering.elsewhere()
        hand = RayHand(self.ray.remote(_Actor).options(**options).remote(absolute, self._pass))
        self._hands.append(hand)
        return hand

    def hear(self, hands: Collection[Hand]) -> list[tuple[Hand, Message]]:
        waiting = {hand.next: hand for hand in hands if isinstance(hand, RayHand)}
        ready, _ = self.ray.wait(list(waiting))
        heard: list[tuple[Hand, Message]] = []
        for reference in ready:
            hand = waiting[reference]
            try:
                heard += [(hand, message) for message in self.ray.get(reference)]
            except self.ray.exceptions.RayActorError as error:
                heard.append((hand, Lost(cause=first_line(error))))
            else:
                hand.next = hand.actor.heard.remote()
        return heard

    def close(self) -> None:
        for hand in self._hands:
            self.ray.kill(hand.actor)
        self._hands = []
        if self._pass:
            self._pass.expire()
        self._pass = None
        if self._begun:
            self.ray.shutdown()
        self._begun = False

    def _num_gpus(self, device: str) -> int:
        return int(self.ray.cluster_resources().get("GPU", 0)) if device in ("auto", "cuda") else 0


def _check_reachable(address: str) -> None:
    """Raises UserError within seconds where nobody listens at HOST:PORT, over which Ray itself takes minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or "/" in host:
        raise UserError(f"{address} is no address of a Ray cluster", remedy="write --ray-address HOST:PORT, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECTION_S).close()
    except (OSError, OverflowError) as error:
        remedy = "look at what `ray status` says there, or leave --ray-address out"
        raise UserError(f"there is no Ray cluster at {address}", cause=str(error), remedy=remedy) from error
