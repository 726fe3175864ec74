from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cdvideo.cli.options import device_options, offline_option


@click.command("train")
@click.argument("images", metavar="IMAGES|CONFIG.yaml", type=click.Path(path_type=Path))
@click.option("--class", "class_word", metavar="WORD", help="What it is, in one common word: bear, dog, cat ...")
@click.option("--token", help='The word that will stand for it in prompts; "V*" by default.')
@click.option("--base", "base_name", help="pocket (the default), sd15, a hub id, a folder or a checkpoint file.")
@click.option("--steps", type=click.IntRange(1, 100_000), help="Training steps; by default the base's own number.")
@click.option("--batch-size", type=click.IntRange(1, 256), help="Views a step; by default the base's own number.")
@click.option("--learning-rate", type=float, help="For one picture; multiplied by the batch size.")
@click.option(
    "--spl-weight", type=click.FloatRange(min=0), help="Weight of the semantic preservation loss; 1.0 by default, 0 turns it off."
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of every random draw; 0 by default.")
@click.option("--out", type=click.Path(path_type=Path), help="The concept file; concepts/WORD.safetensors by default.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint of an interrupted training.")
@click.option("--check", is_flag=True, help="Only look at the photos, and say what is wrong and what the training will take.")
@device_options
@offline_option
def command(images: Path, base_name: str | None, device: str, dtype: str, offline: bool, resume: bool, check: bool, **given: Any) -> None:
    """Learn a subject from a folder of 4-7 photos, or as a CONFIG.yaml says.

    \b
    Examples:
      cdvideo train samples/bear --class bear
      cdvideo train my-photos --check
      cdvideo train configs/train/bear_pocket.yaml
      cdvideo train my-photos --class dog --base sd15 --out concepts/rex.safetensors
    """
    if check:
        from cdvideo.cli.checking import check_images

        click.get_current_context().exit(check_images(images, base_name=base_name, device=device, dtype=dtype, given=given))
    from cdvideo.errors import UserError
    from cdvideo.files import check_writable

    settings = _settings(images, base=base_name, **given)
    out = settings.out or Path("concepts") / f"{settings.class_word}.safetensors"
    if out.suffix != ".safetensors":
        raise UserError(f"a concept is a .safetensors file, not {out}", remedy=f"use --out {out.with_suffix('.safetensors')}")
    check_writable(out)
    from cdvideo.cli.training import train_concept

    train_concept(settings, out, device=device, dtype=dtype, offline=offline, resume=resume)
    click.echo(f"concept: {out}")
    click.echo(f'next:    cdvideo animate --prompt "a {settings.token} {settings.class_word} reading a book in the snow"')


def _settings(images: Path, **given: Any) -> Any:
    from cdvideo.config import TrainConfig, load_yaml
    from cdvideo.errors import UserError

    chosen = {name: value for name, value in given.items() if value is not None}
    if images.suffix in (".yaml", ".yml"):
        return load_yaml(images, TrainConfig).model_copy(update=chosen)
    if "class_word" not in chosen:
        raise UserError("which class is the subject?", remedy=f"name it in one word: cdvideo train {images} --class bear")
    return TrainConfig.model_validate({"images": images, **chosen})
