from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cdvideo.cli.options import Destination, check_apart, check_prompts, check_replay, choose_concepts, offline_option, sampling_options


@click.command("image")
@sampling_options
@click.option("--out", "outs", type=Destination(), multiple=True, help="FILE.png; may be repeated.")
@offline_option
def command(outs: tuple[Path, ...], **given: Any) -> None:
    """Render a still picture from a prompt.

    \b
    Examples:
      cdvideo image --prompt "a V* bear wearing headphones"
      cdvideo image --prompt "a photo of a fox at night" --base pocket --seed 7 --out fox.png
      cdvideo image --prompt "a fox in the snow" --init fox.png --strength 0.5
    """
    replay = given.pop("replay")
    check_replay([given["prompt"]], replay)
    from cdvideo.cli.progress import steps_bar
    from cdvideo.cli.rendering import default_outs, open_studio, render_again, save, say_prompts, split_settings
    from cdvideo.errors import UserError
    from cdvideo.video import check_destination

    for path in outs:
        if path.suffix.lower() != ".png":
            raise UserError(f"a picture is written as a PNG, and {path} does not end in .png", remedy="use --out NAME.png")
    if replay:
        render_again(replay, outs, still=True, device=given["device"], offline=given["offline"])
        return
    check_apart(outs, init=given["init"])
    destinations = outs or default_outs(given["prompt"], "png")
    for path in destinations:
        check_destination(path)
    concepts = choose_concepts(given["prompt"], given.pop("concepts"))
    check_prompts([given["prompt"]], concepts)
    sampling, setup = split_settings(given)
    with open_studio(concepts, with_motion=False, **setup) as studio:
        say_prompts(studio, [sampling["prompt"]])
        with steps_bar("rendering") as on_step:
            picture = studio.still(**sampling, on_step=on_step)
    save(picture, destinations)
