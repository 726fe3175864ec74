"""Rendering a storyboard with progress bars; shared by `storyboard render` and `demo`."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from cdvideo.animate import OnStep
from cdvideo.cli.progress import duration, size_of
from cdvideo.errors import Interrupted
from cdvideo.storyboard import Film, FilmPlan, PlannedShot, render
from cdvideo.storyboard.film import rendering_of, with_what_they_continue
from cdvideo.storyboard.forecast import Forecast, ForecastShot, Measured, forecast
from cdvideo.storyboard.workers import Executor


class _Progress:
    """One bar for the whole film: the steps of its takes, those that have not begun counted as long as the last that has."""

    def __init__(self, plan: FilmPlan, wanted: Collection[int], bar: tqdm[Any]) -> None:
        self.num_shots = len(plan.shots)
        self.waiting = {(shot.number, take) for shot in plan.shots if shot.number in wanted for take in range(1, shot.takes + 1)}
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


def describe_forecast(plan: FilmPlan, folder: Path, executor: Executor, workers: int | None, **settings: Any) -> list[str]:
    """What rendering the film in `folder` would do, in lines; `settings` are further ones of `render`."""
    try:
        found = forecast(rendering_of(plan, folder, **settings), executor, workers)
    finally:
        executor.close()
    rows = [_foretold(found, one) for one in found.shots]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    every = sum(shot.shot.takes for shot in found.shots)
    there, missing = sum(len(shot.rendered) for shot in found.shots), sum(len(shot.to_render) for shot in found.shots)
    lines.append(f"takes: {every}, of which {there} lie in {folder / 'shots'} and {missing} would be rendered")
    if found.measured:
        lines += _costs(found, found.measured)
    return [*lines, "nothing is written"]


def _foretold(found: Forecast, one: ForecastShot) -> list[str]:
    takes = f"{one.shot.takes} takes" if one.shot.takes > 1 else "1 take"
    if not one.to_render:
        fate = "rendered already" if len(one.rendered) == one.shot.takes else "not asked for"
    else:
        there = f"{len(one.rendered)} rendered already, " if one.rendered else ""
        fate = f"{there}about {duration(found.seconds_of(one))}"
    width, height = one.size
    return [str(one.shot.number), f"{one.shot.num_frames} frames", f"{width}x{height}", f"{one.num_steps} steps", takes, fate]


def _costs(found: Forecast, measured: Measured) -> list[str]:
    pace, memory = measured.pace, measured.memory
    workers = f"{found.workers} workers" if found.workers > 1 else "one worker"
    by = f"{pace.measured_frames} of its frames" if pace.measured_frames > 1 else "one of its frames"
    return [
        f"time: about {duration(found.seconds)} with {workers}: {pace.whole_seconds:.2g} s a step of {pace.window} frames and "
        f"{pace.frame_seconds:.2g} s a frame to decode, measured just now on {measured.device} with {by} of shot {measured.shot}",
        f"memory: about {size_of(memory.total)} for each worker beside the program itself: {size_of(memory.weights)} of weights, "
        f"{size_of(memory.working)} while rendering, measured on small clips and scaled",
    ]


def render_film(plan: FilmPlan, source: Path, folder: Path, **settings: Any) -> Film:
    """The film, in `folder`; `settings` are further ones of `render`."""
    with tqdm(unit="step", dynamic_ncols=True, desc=plan.title) as bar:
        progress = _Progress(plan, with_what_they_continue(plan, settings.get("only", ())), bar)
        try:
            film = render(plan, source, folder, on_take=progress.on_take, **settings)
        except KeyboardInterrupt:
            kept = f"the finished shots are kept in {folder / 'shots'} and will not be rendered again"
            raise Interrupted("before the film was finished", cause=kept, remedy="render it again to go on") from None
        finally:
            # Where no step was taken, nothing stays of it.
            bar.leave = bar.n > 0
    for path in (*film.files.values(), film.sheet, film.page):
        if path:
            click.echo(f"wrote {path}")
    if film.missing:
        numbers = ", ".join(map(str, film.missing))
        click.echo(f"the film waits for shot{'s' if len(film.missing) > 1 else ''} {numbers}; the others are in {folder / 'shots'}")
    return film
