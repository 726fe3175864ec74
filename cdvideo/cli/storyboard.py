from __future__ import annotations

from pathlib import Path

import click

from cdvideo.cli.options import device_options


@click.group("storyboard")
def command() -> None:
    """Turn a YAML file of shots into a film."""


@command.command("render")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the film and its shots; films/TITLE by default.")
@device_options
def render_command(file: Path, out: Path | None, device: str, dtype: str) -> None:
    """Render the film of a storyboard. Shots that are rendered already are kept.

    \b
    Example:
      cdvideo storyboard render configs/storyboards/bear.yaml --out films/bear
    """
    from cdvideo.cli.films import render_film
    from cdvideo.config import Storyboard, load_yaml

    render_film(load_yaml(file, Storyboard), file, out, device=device, dtype=dtype)
