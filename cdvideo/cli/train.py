from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import click

from cdvideo.cli.options import check_concept_path, device_options, offline_option


@click.command("train")
@click.argument("images", metavar="IMAGES|CONFIG.yaml", type=click.Path(path_type=Path))
@click.option("--class", "class_word", metavar="WORD", help="What it is, in one common word: bear, dog, cat ...")
@click.option("--token", help='The word that will stand for it in prompts; "V*" by default.')
@click.option("--base", "base_name", help="pocket (the default), sd15, a hub id, a folder or a checkpoint file.")
@click.option(
    "--method",
    type=click.Choice(["classdiffusion", "custom-diffusion", "textual-inversion", "dreambooth", "svdiff"]),
    help="What trains, and which losses; classdiffusion by default.",
)
@click.option("--steps", type=click.IntRange(1, 100_000), help="Training steps; by default the base's own number.")
@click.option("--batch-size", type=click.IntRange(1, 256), help="Views a step (in each process); by default the base's own number.")
@click.option("--accumulate", type=click.IntRange(1, 1024), help="Batches whose gradients make one step; 1 by default.")
@click.option(
    "--learning-rate", type=float, help="For one picture, above 0 up to 1; multiplied by the pictures of a step and by the method's factor."
)
@click.option("--optimizer", type=click.Choice(["adamw", "adamw8bit"]), help="adamw8bit needs bitsandbytes and a GPU.")
@click.option("--gradient-checkpointing", is_flag=True, default=None, help="Less memory for a third more time.")
@click.option("--cache-latents", type=click.IntRange(min=0), metavar="N", help="Encode N views of each photo once, and train on those.")
@click.option(
    "--spl-weight", type=click.FloatRange(min=0), help="Weight of the semantic preservation loss; 1.0 by default, 0 turns it off."
)
@click.option(
    "--spl-mode", type=click.Choice(["paper", "official"]), help="The loss as the paper has it (default) or as the public script."
)
@click.option("--prior-weight", type=click.FloatRange(min=0), help="Weight of prior preservation; 1.0 for dreambooth and svdiff, else 0.")
@click.option("--num-class-images", type=click.IntRange(min=1), metavar="N", help="Pictures of the class to draw for that; 40 by default.")
@click.option("--class-images", type=click.Path(path_type=Path), metavar="DIR", help="Pictures of the class, instead of drawn ones.")
@click.option("--checkpoint-every", type=click.IntRange(min=1), metavar="N", help="Steps between checkpoints; 50 by default.")
@click.option("--samples-every", type=click.IntRange(min=0), metavar="N", help="Draw fixed prompts every N steps into one sheet.")
@click.option("--keep", type=click.Choice(["last", "best"]), help="Which checkpoint becomes the concept; best judges the samples.")
@click.option("--log", type=click.Choice(["tensorboard", "wandb"]), multiple=True, help="Log there too, besides log.jsonl.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of every random draw; 0 by default.")
@click.option("--out", type=click.Path(path_type=Path), help="The concept file; concepts/WORD.safetensors by default.")
@click.option("--overwrite", is_flag=True, help="Replace a concept, or an unfinished training, that is there already.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint of an interrupted training.")
@click.option("--check", is_flag=True, help="Only look at the photos, and say what is wrong and what the training will take.")
@device_options
@offline_option
def command(
    images: Path, base_name: str | None, device: str, dtype: str, offline: bool, overwrite: bool, resume: bool, check: bool, **given: Any
) -> None:
    """Learn a subject from a folder of 4-7 photos, or as a CONFIG.yaml says.

    \b
    Examples:
      cdvideo train samples/bear --class bear
      cdvideo train my-photos --check
      cdvideo train configs/train/bear_and_sunglasses.yaml
      cdvideo train samples/bear --class bear --method custom-diffusion --samples-every 50
      cdvideo train my-photos --class dog --base sd15 --out concepts/rex.safetensors
    """
    if check:
        from cdvideo.cli.checking import check_images
        from cdvideo.cli.training import checked_options
        from cdvideo.config import is_yaml

        # What is wrong with the options would stop the training that the report says is ready.
        needs_class = not is_yaml(images) and not given["class_word"]
        settings = _settings(images, base=base_name, **given | ({"class_word": "subject"} if needs_class else {}))
        check_concept_path(settings.concept_path, overwrite=overwrite or resume)
        checked_options(settings, settings.concept_path, overwrite=overwrite, resume=resume)
        code = check_images(images, base_name=base_name, device=device, dtype=dtype, offline=offline, given=given)
        click.get_current_context().exit(code)
    settings = _settings(images, base=base_name, **given)
    out = settings.concept_path
    check_concept_path(out, overwrite=overwrite or resume)
    from cdvideo.cli.training import train_concept
    from cdvideo.concept import CONCEPTS

    concept = train_concept(settings, out, device=device, dtype=dtype, offline=offline, overwrite=overwrite, resume=resume)
    if os.environ.get("RANK", "0") != "0":
        return
    best = f", the best by its samples: after step {concept.header.steps}" if settings.keep == "best" else ""
    click.echo(f"concept: {out}{best}")
    if settings.samples_every:
        click.echo(f"samples: {out.with_suffix('.training') / 'samples.png'}")
    said = " and ".join(f"a {subject.token} {subject.class_word}" for subject in settings.subjects)
    where = "" if out.parent == CONCEPTS else f"--concept {shlex.quote(str(out))} "
    click.echo(f'next:    cdvideo animate {where}--prompt "{said} in the snow"')


def _settings(images: Path, **given: Any) -> Any:
    from cdvideo.config import TrainConfig, checked, is_yaml, load_yaml
    from cdvideo.errors import UserError

    chosen = {name: value for name, value in given.items() if value is not None and value != ()}
    if is_yaml(images):
        file = load_yaml(images, TrainConfig)
        return checked(TrainConfig, {**file.model_dump(exclude_unset=True), **chosen}, f"{images} with the options given")
    if "class_word" not in chosen:
        raise UserError("which class is the subject?", remedy=f"name it in one word: cdvideo train {images} --class bear")
    return checked(TrainConfig, {"images": images, **chosen}, "the options", from_options=True)
