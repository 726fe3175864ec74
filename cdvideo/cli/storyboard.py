from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdvideo.cli.options import device_options

if TYPE_CHECKING:
    from cdvideo.storyboard.planning import FilmPlan, PlannedShot
    from cdvideo.storyboard.workers import Executor


@click.group("storyboard")
def command() -> None:
    """Turn a YAML file of shots into a film."""


@command.command("init")
@click.argument("file", type=click.Path(path_type=Path), default=Path("storyboard.yaml"))
def init_command(file: Path) -> None:
    """Write a commented storyboard to begin with, with the newest concepts in concepts/ as its cast. Nothing is overwritten.

    \b
    Example:
      cdvideo storyboard init my_film.yaml
    """
    from cdvideo.storyboard.starter import write_starter

    cast = write_starter(file)
    for found in cast:
        click.echo(f"cast:  {found.name} ({found.file})")
    click.echo(f"wrote {file}\nnext:  cdvideo storyboard check {shlex.quote(str(file))}")


@command.command("check")
@click.argument("file", type=click.Path(path_type=Path))
def check_command(file: Path) -> None:
    """Find every mistake in a storyboard, with its line and column, or say what the film will be. Renders nothing.

    \b
    Example:
      cdvideo storyboard check configs/storyboards/bear.yaml
    """
    from cdvideo.storyboard.checking import check

    checked = check(file)
    for line in _described(checked.plan):
        click.echo(line)
    _say(checked.notes)
    click.echo(f"{file} is right")


@command.command("schema")
def schema_command() -> None:
    """Print the JSON Schema by which editors complete and check storyboards.

    \b
    Example:
      cdvideo storyboard schema
    """
    from cdvideo.storyboard.schema import schema_text

    click.echo(schema_text(), nl=False)


@command.command("render")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the film and its shots; films/TITLE by default.")
@click.option("--only", metavar="2,5", help="Render these shots alone; the film is put together once none is missing.")
@click.option("--draft", is_flag=True, help="Small and of few steps, to see timing and order; kept apart from the film, in OUT/draft.")
@click.option(
    "--format",
    "formats",
    type=click.Choice(["mp4", "gif", "webm"]),
    multiple=True,
    help="What the film is written as; all three by default; may be repeated.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes that share the shots; by default one for each GPU, or core with a small base, where there is enough to do.",
)
@click.option("--overwrite", is_flag=True, help="Replace another storyboard's film in OUT, or files that are of no film.")
@click.option("--dry-run", is_flag=True, help="Say what would be rendered, and what memory and time that would take; write nothing.")
@click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where workers are: on this machine, or on a Ray cluster (pip install 'cdvideo[ray]') whose nodes all have this folder and OUT "
    "at the same paths.",
)
@click.option("--ray-address", metavar="HOST:PORT", help="The Ray cluster, or auto for one that runs here; by default one is begun here.")
@device_options
def render_command(
    file: Path,
    out: Path | None,
    only: str | None,
    draft: bool,
    formats: tuple[str, ...],
    workers: int | None,
    overwrite: bool,
    dry_run: bool,
    executor: str,
    ray_address: str | None,
    device: str,
    dtype: str,
) -> None:
    """Render the film of a storyboard, once it is found without mistakes. Shots that are rendered already are kept.

    \b
    Examples:
      cdvideo storyboard render configs/storyboards/bear.yaml --out films/bear
      cdvideo storyboard render configs/storyboards/bear.yaml --draft
      cdvideo storyboard render configs/storyboards/bear.yaml --only 2,4
      cdvideo storyboard render configs/storyboards/bear.yaml --dry-run
      cdvideo storyboard render configs/storyboards/bear.yaml --executor ray --ray-address auto --workers 8
    """
    from cdvideo.errors import UserError
    from cdvideo.storyboard.checking import check

    if ray_address and executor != "ray":
        raise UserError("--ray-address is of --executor ray", remedy="give --executor ray, or leave --ray-address out")
    checked = check(file)
    _say(checked.notes)
    chosen = () if only is None else _numbers(only, len(checked.plan.shots))
    from cdvideo.animate.reuse import speed_of
    from cdvideo.cli.films import describe_forecast, render_film
    from cdvideo.storyboard import slug
    from cdvideo.storyboard.film import FORMATS
    from cdvideo.storyboard.ownership import films_of

    films, part = Path("films"), "draft" if draft else ""
    folder = (out or films / slug(checked.plan.title)) / part
    chosen_executor = _executor(executor, ray_address)
    speed = speed_of("draft" if draft else "exact")
    settings: dict[str, Any] = {"only": chosen, "speed": speed.name, "device": device, "dtype": speed.precision(dtype)}
    if dry_run:
        for line in [*_described(checked.plan)[:1], *describe_forecast(checked.plan, folder, chosen_executor, workers, **settings)]:
            click.echo(line)
        return
    if out is None and not folder.exists():
        earlier = films_of(file, sorted(films.glob(f"*/{part}")))
        _say(
            [
                f"this storyboard had another title, and takes in {other}; they are used with --out {_above(other, part)}"
                for other in earlier
            ]
        )
    settings |= {"workers": workers, "executor": chosen_executor, "overwrite": overwrite}
    render_film(checked.plan, file, folder, formats=formats or FORMATS, **settings)


def _above(folder: Path, part: str) -> Path:
    return folder.parent if part else folder


def _executor(name: str, ray_address: str | None) -> Executor:
    if name == "ray":
        from cdvideo.storyboard.cluster import RayExecutor

        return RayExecutor(ray_address)
    from cdvideo.storyboard.local import LocalExecutor

    return LocalExecutor()


def _numbers(text: str, count: int) -> tuple[int, ...]:
    """The shots' numbers in "2,5". Raises UserError for what is none of 1 to `count`."""
    from cdvideo.errors import UserError

    try:
        numbers = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise UserError(f"--only {text!r}: these are no shots", remedy="write their numbers, such as --only 2,5") from None
    if strangers := [number for number in numbers if not 1 <= number <= count]:
        raise UserError(f"there is no shot {strangers[0]}", remedy=f"choose --only from 1 to {count}")
    return numbers


def _say(notes: Sequence[str]) -> None:
    for note in notes:
        click.echo(click.style("note: ", fg="yellow") + note, err=True)


def _described(plan: FilmPlan) -> list[str]:
    """What a film will be: a line for it, and one for each shot."""
    size = next((f", {shot.size[0]}x{shot.size[1]} pixels" for shot in plan.shots if shot.size), "")
    count = f"{len(plan.shots)} shots" if len(plan.shots) > 1 else "one shot"
    head = f"{plan.title}: {count}, {plan.seconds:.4g} s, {plan.num_frames} frames at {plan.fps:g} a second{size}, base {plan.base}"
    rows = [_row(shot) for shot in plan.shots]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    extras = [
        f"  {what}: {card.text} ({card.num_frames} frames)"
        for what, card in (("title card", plan.title_card), ("end card", plan.end_card))
        if card
    ]
    return [head, *lines, *extras, *([f"  audio: {plan.audio.path}"] if plan.audio else [])]


def _row(shot: PlannedShot) -> list[str]:
    starring = "with " + ", ".join("/".join(star.names) for star in shot.starring) if shot.starring else "with nobody of the cast"
    takes = f"{shot.takes} takes" if shot.takes > 1 else ""
    entrance = f"{shot.transition.kind} of {shot.transition.num_frames}" if shot.transition.num_frames else ""
    details = ", ".join(part for part in (entrance, *shot.cameras, "continues" if shot.continues else "", takes) if part)
    return [str(shot.number), f"{shot.num_frames} frames", f"seed {shot.seed}", starring, shot.prompt, details and f"({details})"]
