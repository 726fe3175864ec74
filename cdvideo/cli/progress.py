"""Progress bars on standard error, with the time left; times and sizes in words."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from tqdm import tqdm


@contextmanager
def steps_bar(description: str, position: int = 0) -> Iterator[Callable[[int, int], None]]:
    """A bar for denoising steps, as what a render calls after each of them. Where none was taken, nothing stays of it."""
    bar: tqdm[Any] = tqdm(desc=description, unit="step", leave=True, dynamic_ncols=True, position=position)

    def on_step(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    try:
        yield on_step
    finally:
        bar.leave = bar.n > 0
        bar.close()


def say_note(message: str) -> None:
    """A note on a line of its own, above the bars that are shown."""
    with tqdm.external_write_mode(file=sys.stderr):
        click.echo(click.style("note: ", fg="yellow") + message, err=True)


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size_of(num_bytes: int) -> str:
    """Megabytes or gigabytes."""
    return f"{num_bytes / 1e6:.0f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:.1f} GB"
