"""Trains the pocket base from nothing, part by part. Every part resumes where it stopped."""

from __future__ import annotations

import os
from pathlib import Path

import click
import torch

from cdvideo.pocket.workshop import PARTS, ROOT, Workshop, export


@click.command(help=__doc__)
@click.argument("parts", nargs=-1, type=click.Choice([*PARTS, "export"]))
@click.option("--minutes", type=float, help="Train the named parts for this long in all, instead of their usual times.")
@click.option("--work", type=click.Path(path_type=Path), default=ROOT / "out" / "pocket", help="Checkpoints, logs and icons.")
@click.option("--processes", type=int, default=len(os.sched_getaffinity(0)), help="Training processes, one thread each.")
def main(parts: tuple[str, ...], minutes: float | None, work: Path, processes: int) -> None:
    torch.set_num_threads(1)
    workshop = Workshop(work, processes)
    chosen = parts or (*PARTS, "export")
    planned = sum(minutes or PARTS[part][1] for part in chosen if part in PARTS)
    click.echo(f"training {', '.join(chosen)}: about {planned:.0f} minutes; stop at any time, the next run goes on from the checkpoints")
    for part in chosen:
        if part == "export":
            export(workshop)
        else:
            train, usual = PARTS[part]
            train(workshop, 60 * (minutes or usual))


if __name__ == "__main__":
    main()
