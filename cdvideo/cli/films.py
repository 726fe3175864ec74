"""Rendering a storyboard with progress bars; shared by `storyboard render` and `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from cdvideo.animate import OnStep
from cdvideo.storyboard import Film, PlannedShot, Storyboard, render, slug


def render_film(storyboard: Storyboard, source: Path, out: Path | None, *, device: str = "auto", dtype: str = "auto") -> Film:
    folder = out or Path("films") / slug(storyboard.title)
    bars: list[tqdm[Any]] = []

    def on_shot(number: int, total: int, shot: PlannedShot, done: bool) -> OnStep | None:
        if bars:
            bars[-1].close()
        if done:
            click.echo(f"shot {number}/{total}: {shot.prompt} (rendered already)", err=True)
            return None
        bar: tqdm[Any] = tqdm(desc=f"shot {number}/{total}: {shot.prompt}", unit="step", dynamic_ncols=True)
        bars.append(bar)

        def on_step(step: int, steps: int) -> None:
            bar.total = steps
            bar.update(step - bar.n)

        return on_step

    try:
        film = render(storyboard, source, folder, device=device, dtype=dtype, on_shot=on_shot)
    except KeyboardInterrupt:
        click.echo(f"\nstopped; the finished shots are kept in {folder / 'shots'} and will not be rendered again", err=True)
        raise
    finally:
        for bar in bars:
            bar.close()
    for path in (film.mp4, film.gif, film.sheet):
        click.echo(f"wrote {path}")
    return film
