"""The loop of the parts that one process trains: autoencoder, CLIP, judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from cdvideo.pocket.recipes.optimisers import Optimisers
from cdvideo.pocket.recipes.run import Average, Run, constant_then_decay


def train_alone(
    model: nn.Module,
    folder: Path,
    seconds: float,
    loss_at: Callable[[int], Tensor],
    evaluate: Callable[[bool], Mapping[str, float]],
    *,
    average_decay: float,
    log_every: int = 100,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    largest_gradient: float = 1.0,
) -> None:
    """Trains what in `model` requires gradients on `loss_at(step)`, for `seconds` in all; a checkpoint in `folder` is gone on from.

    `evaluate(finally)` says how good the averaged weights are: every `log_every` steps, and with `finally` once more at the end.
    """
    optimisers, average = Optimisers(model, weight_decay=weight_decay), Average(model, average_decay)
    parts = {"model": model, "average": average, "optimisers": optimisers}
    run = Run.open(folder, **parts)
    losses: list[Tensor] = []
    while run.elapsed < seconds:
        loss = loss_at(run.step)
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), largest_gradient)
        optimisers.step(learning_rate * constant_then_decay(run.elapsed / seconds))
        average.update()
        run.step += 1
        losses.append(loss.detach())
        if run.step % log_every == 0:
            with average.applied():
                run.log(loss=float(torch.stack(losses).mean()), **evaluate(False))
            losses.clear()
            run.save(**parts)
    run.save(**parts)
    with average.applied():
        run.log(**evaluate(True))
