"""Several processes of one thread each that train one model: on a CPU faster than one process with several threads."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from cdvideo.pocket.recipes.device import training_device
from cdvideo.pocket.recipes.optimisers import Optimisers
from cdvideo.pocket.recipes.run import Average, Run, constant_then_decay


def on_every_core(worker: Any, *arguments: Any, processes: int) -> None:
    """Runs `worker(rank, processes, *arguments)` in that many processes that can average gradients."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    start_processes(_enter, (address, processes, worker, arguments), nprocs=processes, start_method="forkserver")


def _enter(rank: int, address: str, processes: int, worker: Any, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=processes)
    worker(rank, processes, *arguments)
    dist.destroy_process_group()


@dataclass(frozen=True, kw_only=True)
class Shared:
    """One process's part in a training that several share. `batch_size` items a step on a CPU, `gpu_batch_size` on a GPU."""

    rank: int
    processes: int
    folder: Path
    seconds: float
    batch_size: int
    gpu_batch_size: int
    learning_rate: float
    average_decay: float
    log_every: int
    save_every_seconds: float = 240.0
    device: torch.device = field(default_factory=training_device)

    def train(self, model: nn.Module, error: Callable[[Tensor, torch.Generator, int], Tensor], items: int, held_out: int) -> None:
        """Trains what in `model` requires gradients, for `seconds` in all, on `error(picked items, generator, step)`; validates at step 0.

        Items are numbers below `items`; the first `held_out` are for validation. Every process draws its share of the batch and they
        average their gradients; rank 0 validates with the averaged weights, logs and saves. A checkpoint in `folder` is gone on from.
        """
        model.to(self.device)
        trained = _Trained({name: value for name, value in model.named_parameters() if value.requires_grad})
        optimisers, average = Optimisers(model, self.rank, self.processes), Average(model, self.average_decay)
        run = Run.open(self.folder, trained=trained, optimisers=optimisers, average=average)
        parameters = list(trained.named.values())
        share = (self.batch_size if self.device.type == "cpu" else self.gpu_batch_size) // self.processes
        losses: list[Tensor] = []
        saved = run.elapsed
        while (elapsed := self._agreed(run.elapsed)) < self.seconds:
            generator = torch.Generator(self.device).manual_seed(1_000_003 * run.step + self.rank)
            picked = torch.randint(held_out, items, (share,), generator=generator, device=self.device)
            loss = error(picked, generator, run.step)
            model.zero_grad()
            loss.backward()
            if self.processes > 1:
                _average_gradients(parameters)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimisers.step(self.learning_rate * constant_then_decay(elapsed / self.seconds))
            average.update()
            run.step += 1
            losses.append(loss.detach())
            if run.step % self.log_every == 0:
                if self.rank == 0:
                    with average.applied():
                        validation = self._validation(error, held_out, share)
                    samples = run.step * share * self.processes
                    run.log(samples=samples, loss=float(torch.stack(losses).mean()), validation=validation)
                losses.clear()
            if elapsed > saved + self.save_every_seconds:
                self._save(run, trained, optimisers, average)
                saved = elapsed
        self._save(run, trained, optimisers, average)

    @torch.no_grad()
    def _validation(self, error: Callable[[Tensor, torch.Generator, int], Tensor], held_out: int, share: int) -> float:
        generator = torch.Generator(self.device).manual_seed(99)
        return float(torch.stack([error(part, generator, 0) for part in torch.arange(held_out, device=self.device).split(share)]).mean())

    def _agreed(self, value: float) -> float:
        """Rank 0's value, so that every process stops at the same step."""
        if self.processes == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        dist.broadcast(shared, 0)
        return float(shared)

    def _save(self, run: Run, trained: _Trained, optimisers: Optimisers, average: Average) -> None:
        # Every process has to take part: each holds some of the optimisers' state.
        states = {"trained": trained.state_dict(), "optimisers": optimisers.state_dict(), "average": average.state_dict()}
        if self.rank == 0:
            run.save(**states)


@dataclass(frozen=True)
class _Trained:
    """Named parameters with a module's way of saving and loading."""

    named: dict[str, nn.Parameter]

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.named.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in self.named.items():
            value.copy_(state[name])


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    gradients = [value.grad for value in parameters if value.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
