"""Rendering a storyboard with progress bars; shared by `storyboard render` and `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from cdvideo.animate import OnStep
from cdvideo.storyboard import Film, PlannedShot, Storyboard, render


def render_film(storyboard: Storyboard, source: Path, folder: Path, **settings: Any) -> Film:
    """The film, in `folder`; `settings` are further ones of `render`."""
    bars: list[tqdm[Any]] = []
    total = len(storyboard.shots)

    def on_take(shot: PlannedShot, take: int, done: bool) -> OnStep | None:
        if bars:
            bars[-1].close()
        which = f"shot {shot.number}/{total}" + (f", take {take}/{shot.takes}" if shot.takes > 1 else "")
        if done:
            click.echo(f"{which}: {shot.prompt} (rendered already)", err=True)
            return None
        bar: tqdm[Any] = tqdm(desc=f"{which}: {shot.prompt}", unit="step", dynamic_ncols=True)
        bars.append(bar)

        def on_step(step: int, steps: int) -> None:
            bar.total = steps
            bar.update(step - bar.n)

        return on_step

    try:
        film = render(storyboard, source, folder, on_take=on_take, **settings)
    except KeyboardInterrupt:
        click.echo(f"\nstopped; the finished shots are kept in {folder / 'shots'} and will not be rendered again", err=True)
        raise
    finally:
        for bar in bars:
            bar.close()
    for path in (*film.files.values(), film.sheet, film.page):
        if path:
            click.echo(f"wrote {path}")
    if film.missing:
        numbers = ", ".join(map(str, film.missing))
        click.echo(f"the film waits for shot{'s' if len(film.missing) > 1 else ''} {numbers}; the others are in {folder / 'shots'}")
    return film
