from __future__ import annotations

from pathlib import Path

import click


@click.command("demo")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/demo"), show_default=True, help="Folder for the film.")
def command(out: Path) -> None:
    """Train on the five pictures of the sample bear and render a film of it: a few minutes on a laptop, offline.

    \b
    Example:
      cdvideo demo
    """
    from cdvideo.cli.films import render_film
    from cdvideo.cli.training import train_concept
    from cdvideo.config import Storyboard, TrainConfig, load_yaml
    from cdvideo.resources import resource
    from cdvideo.video import check_destination

    check_destination(out / "film.mp4")
    concept = out / "concepts" / "bear.safetensors"
    source = resource("configs", "storyboards", "bear.yaml")
    board = load_yaml(source, Storyboard).model_copy(update={"concept": concept.resolve()})
    photos = resource("samples", "bear")
    click.echo(f"photos:  {photos}")
    train_concept(TrainConfig.model_validate({"images": photos, "class": "bear"}), concept)
    click.echo(f"concept: {concept}")
    render_film(board, source, out)
