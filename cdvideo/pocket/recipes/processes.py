"""Several processes of one thread each that train one model: on a CPU faster than one process with several threads."""

from __future__ import annotations

import os
import socket
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn

from cdvideo.pocket.recipes.run import Run


def average_gradients(parameters: list[nn.Parameter]) -> None:
    if not (dist.is_available() and dist.is_initialized()):
        return
    gradients = [value.grad for value in parameters if value.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def on_every_core(worker: Any, *arguments: Any, processes: int) -> None:
    """Runs `worker(rank, processes, *arguments)` in that many processes that can average gradients."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    spawn(_enter, (processes, worker, arguments), nprocs=processes)


def _enter(rank: int, processes: int, worker: Any, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=processes)
    worker(rank, processes, *arguments)
    dist.destroy_process_group()


def same_everywhere(value: float) -> float:
    """Rank 0's value, so that every process stops at the same step."""
    shared = torch.tensor(value, dtype=torch.float64)
    dist.broadcast(shared, 0)
    return float(shared)


def save_from_first(run: Run, rank: int, **stateful: Any) -> None:
    """Writes the checkpoint from rank 0, with what the other processes hold."""
    states = {name: thing.state_dict() for name, thing in stateful.items()}
    if rank == 0:
        run.save(**states)
