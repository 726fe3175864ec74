from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cdvideo.cli.options import check_replay, choose_concepts, offline_option, sampling_options


@click.command("animate")
@sampling_options
@click.option(
    "--prompt-at",
    "prompts_at",
    type=(int, str),
    multiple=True,
    metavar="FRAME TEXT",
    help="What is to be seen from that frame on; may be repeated. Between two frames one prompt turns into the other, as --travel says.",
)
@click.option(
    "--travel",
    type=click.Choice(["linear", "smooth", "hold"]),
    default="linear",
    show_default=True,
    help="How prompts turn into each other: evenly, slowly at both ends, or all at once.",
)
@click.option(
    "--concept-strength",
    "concept_strengths",
    multiple=True,
    metavar="FRAME:VALUE,...",
    help='Factor of the concept\'s strength over the clip, such as "0:1.0, 12:0.3"; for all concepts, or once for each in their order.',
)
@click.option("--motion", "motion_name", help="Motion module: alias, hub id, folder or file; by default the base's own.")
@click.option(
    "--motion-norm", type=click.Choice(["frame", "diffusers"]), default="frame", show_default=True, help="How the module normalises."
)
@click.option(
    "--camera",
    "cameras",
    multiple=True,
    metavar="MOVE[:STRENGTH]",
    help="Camera move: zoom-in, zoom-out, pan-left, pan-right, tilt-up, tilt-down, roll-clockwise, roll-anticlockwise, or a MotionLoRA's "
    "file, folder or hub id; may be repeated.",
)
@click.option("--schedule", type=click.Choice(["animatediff", "animatediff-original"]), default="animatediff", show_default=True)
@click.option("--frames", type=int, default=16, show_default=True, help="Number of frames; more than 16 are rendered in windows.")
@click.option("--loop", is_flag=True, help="Let the last frame lead back to the first, for a seamless GIF.")
@click.option("--fps", type=float, default=8, show_default=True, help="Frames a second.")
@click.option(
    "--out",
    "outs",
    type=click.Path(path_type=Path),
    multiple=True,
    help="FILE.mp4, .gif, .webm, or a folder for PNG frames; may be repeated.",
)
@offline_option
def command(outs: tuple[Path, ...], **given: Any) -> None:
    """Render a clip from a prompt.

    \b
    Examples:
      cdvideo animate --prompt "a V* bear reading a book in the snow"
      cdvideo animate --prompt "a V* bear wearing sunglasses on the beach" --seed 3 --out bear.mp4 --out bear.gif
      cdvideo animate --prompt "a panda jumping in the snow" --base pocket --out panda.gif
      cdvideo animate --prompt "a bear on the beach" --camera zoom-in --camera pan-left:0.6
      cdvideo animate --concept bear.safetensors --concept cat.safetensors:0.8 --prompt "a V1* bear next to a V2* cat"
      cdvideo animate --prompt "a V* bear on (green grass:1.3)" --prompt-at 12 "a V* bear in the snow" --travel smooth
      cdvideo animate --prompt "a V* bear in the snow" --concept-strength "0:1.0, 12:0.3"
      cdvideo animate --prompt "a bear in the snow" --init photo.jpg --strength 0.6
      cdvideo animate --replay bear.mp4 --out again.mp4
    """
    replay = given.pop("replay")
    check_replay([given["prompt"], *(text for _, text in given["prompts_at"])], replay)
    from cdvideo.cli.progress import steps_bar
    from cdvideo.cli.rendering import default_out, open_studio, over_time, render_again, save, split_settings
    from cdvideo.video import check_destination

    if replay:
        render_again(replay, outs, ("mp4", "gif"), device=given["device"], offline=given["offline"])
        return
    course = over_time(given)
    every_prompt = [prompt for prompt in (given["prompt"], *course["prompts"].values()) if prompt is not None]
    destinations = outs or tuple(default_out(every_prompt[0], suffix) for suffix in ("mp4", "gif"))
    for path in destinations:
        check_destination(path, num_frames=max(given["frames"], 1), fps=given["fps"])
    concepts = choose_concepts(" ".join(every_prompt), given.pop("concepts"))
    moves = given.pop("cameras")
    sampling, setup = split_settings(given)
    sampling |= {"num_frames": setup.pop("frames"), "fps": setup.pop("fps"), "schedule": setup.pop("schedule"), "loop": setup.pop("loop")}
    with open_studio(concepts, with_motion=True, **setup) as studio:
        cameras = studio.camera_moves(moves, offline=setup["offline"])
        with steps_bar("rendering") as on_step:
            clip = studio.clip(**sampling, **course, cameras=cameras, on_step=on_step)
    save(clip, destinations)
