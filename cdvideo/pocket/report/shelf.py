"""Work that is done once: results by key on a shelf that survives a stop, and processes that do what is not there yet."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from cdvideo.interrupts import deaf_to_ctrl_c

Task = TypeVar("Task")
Record = dict[str, Any]


class Shelf:
    """Finished records by key, one JSON object a line. A line that a kill cut short is dropped, and its work done again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, Record] = {}
        content = path.read_text(encoding="utf-8") if path.exists() else ""
        whole, _, cut_short = content.rpartition("\n")
        for line in whole.splitlines():
            entry = json.loads(line)
            self.records[entry["key"]] = entry["record"]
        if cut_short:
            path.write_text(f"{whole}\n" if whole else "", encoding="utf-8")

    def add(self, key: str, record: Record) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "record": record}, ensure_ascii=False) + "\n")
        self.records[key] = record


_work: Callable[[Any], Record]


def _prepare(start: Callable[[], Callable[[Any], Record]]) -> None:
    global _work
    torch.set_num_threads(1)
    _work = start()


def _do(key: str, task: Any) -> tuple[str, Record]:
    return key, _work(task)


def work_through(
    tasks: Mapping[str, Task], shelf: Shelf, start: Callable[[], Callable[[Task], Record]], *, processes: int, title: str
) -> dict[str, Record]:
    """The records of all tasks by key. Only those not on the shelf are done, and each is put there as soon as it is finished.

    `start` is called once in every process, of one thread each, and returns what does a task. With no processes, this one works.
    """
    missing = [(key, task) for key, task in tasks.items() if key not in shelf.records]
    if missing:
        with tqdm(total=len(tasks), initial=len(tasks) - len(missing), desc=title, dynamic_ncols=True, smoothing=0.05) as bar:

            def finished(key: str, record: Record) -> None:
                shelf.add(key, record)
                bar.update()

            if processes:
                pool = ProcessPoolExecutor(min(processes, len(missing)), get_context("spawn"), _prepare, (start,))
                try:
                    # The first process answers it, and lets each finish what it is at. They start as tasks are submitted.
                    with deaf_to_ctrl_c():
                        given = [pool.submit(_do, key, task) for key, task in missing]
                    for future in as_completed(given):
                        finished(*future.result())
                finally:
                    pool.shutdown(cancel_futures=True)
            else:
                work = start()
                for key, task in missing:
                    finished(key, work(task))
    return {key: shelf.records[key] for key in tasks}
