"""Rendering a storyboard with progress bars; shared by `storyboard render` and `demo`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from cdvideo.animate import OnStep
from cdvideo.storyboard import Film, FilmPlan, PlannedShot, render


class _Progress:
    """One bar for the whole film: the steps of its takes, those that have not begun counted as long as the last that has."""

    def __init__(self, plan: FilmPlan, bar: tqdm[Any]) -> None:
        self.num_shots = len(plan.shots)
        self.waiting = {(shot.number, take) for shot in plan.shots for take in range(1, shot.takes + 1)}
        self.bar = bar
        self.steps: dict[tuple[int, int], tuple[int, int]] = {}

    def on_take(self, shot: PlannedShot, take: int, done: bool) -> OnStep | None:
        self.waiting.discard((shot.number, take))
        which = f"shot {shot.number}/{self.num_shots}" + (f", take {take}/{shot.takes}" if shot.takes > 1 else "")
        self.bar.write(f"{which}: {shot.prompt}{' (rendered already)' if done else ''}", file=sys.stderr)
        if done:
            return None

        def on_step(step: int, steps: int) -> None:
            self.steps[shot.number, take] = (step, steps)
            self.bar.total = sum(every for _, every in self.steps.values()) + len(self.waiting) * steps
            self.bar.update(sum(taken for taken, _ in self.steps.values()) - self.bar.n)

        return on_step


def render_film(plan: FilmPlan, source: Path, folder: Path, **settings: Any) -> Film:
    """The film, in `folder`; `settings` are further ones of `render`."""
    with tqdm(unit="step", dynamic_ncols=True, desc=plan.title) as bar:
        progress = _Progress(plan, bar)
        try:
            film = render(plan, source, folder, on_take=progress.on_take, **settings)
        except KeyboardInterrupt:
            bar.close()
            click.echo(f"\nstopped; the finished shots are kept in {folder / 'shots'} and will not be rendered again", err=True)
            raise
    for path in (*film.files.values(), film.sheet, film.page):
        if path:
            click.echo(f"wrote {path}")
    if film.missing:
        numbers = ", ".join(map(str, film.missing))
        click.echo(f"the film waits for shot{'s' if len(film.missing) > 1 else ''} {numbers}; the others are in {folder / 'shots'}")
    return film
