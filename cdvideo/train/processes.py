"""Several processes that share one training, as `accelerate launch` or `torchrun` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

LONGEST_WAIT = timedelta(hours=12)
"""Of the other processes for the first: it may have thousands of pictures of the class to draw."""


@dataclass(frozen=True)
class Processes:
    """This process's number among `size`."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: torch.device) -> Processes:
        """The group that the environment names (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), or this process alone."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=LONGEST_WAIT)
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Every process's gradients become the mean over the processes."""
        if self.size == 1:
            return
        gradients = [value.grad for value in parameters if value.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes, for all of them."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """The first process does what is within; then the others do it too, and find what it has left."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def close(self) -> None:
        """Leaves the group, if there is one."""
        if self.size > 1:
            dist.destroy_process_group()

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()
