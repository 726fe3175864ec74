from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cdvideo.video import Clip


_SIDE = 128
"""Pixels of a picture before there are frames, whose size the pictures take."""


@click.command("demo")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/demo"), show_default=True, help="Folder for the film.")
def command(out: Path) -> None:
    """Train on the five pictures of the sample bear and render a film of it: a few minutes on a laptop, offline.

    \b
    Example:
      cdvideo demo
    """
    from cdvideo.errors import UserError
    from cdvideo.video import check_destination

    overview = out / "demo.png"
    if out.is_dir() and any(out.iterdir()) and not overview.exists():
        raise UserError(f"{out} holds other files than a demo's", remedy="give it a folder of its own: cdvideo demo --out DIR")
    check_destination(out / "film.mp4")
    from cdvideo.cli.films import render_film
    from cdvideo.cli.training import train_concept
    from cdvideo.config import TrainConfig
    from cdvideo.resources import resource
    from cdvideo.storyboard import plan_film, read_storyboard
    from cdvideo.storyboard.script import CastMember

    concept = out / "concepts" / "bear.safetensors"
    source = resource("configs", "storyboards", "bear.yaml")
    board = read_storyboard(source).model_copy(update={"cast": {"bear": CastMember.model_validate(concept.resolve())}})
    photos = resource("samples", "bear")
    click.echo(f"photos:  {photos}")
    out.mkdir(parents=True, exist_ok=True)
    # From the start on, so that an interrupted demo is known as one.
    _overview(photos, [], [], overview)
    train_concept(TrainConfig.model_validate({"images": photos, "class": "bear"}), concept, overwrite=True)
    click.echo(f"concept: {concept}")
    plan = plan_film(board, source)
    # It may be that of another installation, whose storyboard is another file.
    film = render_film(plan, source, out, overwrite=True)
    _overview(photos, [shot.kept.clip() for shot in film.shots], [shot.prompt for shot in plan.shots], overview)
    click.echo(f"overview: {overview}")


def _overview(photos: Path, clips: list[Clip], prompts: list[str], path: Path) -> None:
    """The photos in a row, and under them a row of frames for each shot."""
    import numpy as np

    from cdvideo.train import find_photos, load_photo
    from cdvideo.video import contact_sheet

    side = clips[0].width if clips else _SIDE
    learnt = np.stack([np.asarray(load_photo(photo).resize((side, side))) for photo in find_photos(photos)])
    labels = [f"the {len(learnt)} pictures that it learns from", *prompts]
    contact_sheet([learnt, *clips], columns=6, labels=labels).save(path)
