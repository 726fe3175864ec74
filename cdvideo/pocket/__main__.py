"""Trains the pocket base from nothing, part by part. Every part resumes where it stopped."""

from __future__ import annotations

import os
from pathlib import Path

import click
import torch

from cdvideo.pocket.recipes.device import training_device
from cdvideo.pocket.workshop import MOST_PAINTERS, PARTS, ROOT, Workshop, begin_with_shipped, export


@click.command(help=__doc__)
@click.argument("parts", nargs=-1, type=click.Choice([*PARTS, "export"]))
@click.option("--minutes", type=float, help="Train the named parts for this long in all, instead of their usual times.")
@click.option("--work", type=click.Path(path_type=Path), default=ROOT / "out" / "pocket", help="Checkpoints, logs and icons.")
@click.option("--processes", type=int, help="Processes of one thread each that paint and train [default: one a core; one trains on a GPU]")
@click.option("--from-shipped", is_flag=True, help="Begin with the weights that ship where there is no checkpoint.")
@click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    help="Export UNet and motion module only so far from the ones that ship to the ones trained here [default: 1]",
)
def main(parts: tuple[str, ...], minutes: float | None, work: Path, processes: int | None, from_shipped: bool, share: float) -> None:
    torch.set_num_threads(1)
    device = training_device()
    cores = len(os.sched_getaffinity(0))
    workshop = Workshop(
        work, processes=processes or (cores if device.type == "cpu" else 1), painters=processes or min(cores, MOST_PAINTERS)
    )
    if from_shipped:
        begin_with_shipped(workshop)
    chosen = parts or (*PARTS, "export")
    planned = sum(minutes or PARTS[part].minutes for part in chosen if part in PARTS)
    click.echo(
        f"training {', '.join(chosen)} on {device.type}: about {planned:.0f} minutes of training in all, and some more to encode the "
        "picture world; stop at any time, the next run goes on from the checkpoints"
    )
    for part in chosen:
        if part == "export":
            export(workshop, share)
        else:
            PARTS[part].train(workshop, 60 * (minutes or PARTS[part].minutes))


if __name__ == "__main__":
    main()
