from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cdvideo.cli.options import Destination, check_apart, check_prompts, check_replay, choose_concepts, offline_option, sampling_options


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
@click.option(
    "--schedule",
    type=click.Choice(["animatediff", "animatediff-original"]),
    default="animatediff",
    show_default=True,
    help="Levels of noise: as diffusers' AnimateDiff has them, or as the original repository's.",
)
@click.option("--frames", type=int, default=16, show_default=True, help="Number of frames; beyond 16 a motion leads back and forth.")
@click.option("--loop", is_flag=True, help="Let the last frame lead back to the first, for a seamless GIF.")
@click.option("--fps", type=float, default=8, show_default=True, help="Frames a second.")
@click.option(
    "--freeinit",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="Render N times, each time from noise that the last time has steadied (FreeInit): less flicker, N times as long; 3 is usual.",
)
@click.option(
    "--speed",
    type=click.Choice(["exact", "fast", "draft"]),
    default="exact",
    show_default=True,
    help="fast: the UNet computes at 11 of 25 steps, between which its noise is drawn on, and --dtype fast. draft: 7 of 12.",
)
@click.option(
    "--interpolate",
    type=float,
    metavar="FPS",
    help="Frames a second after motion-compensated interpolation (libav's minterpolate, no neural network).",
)
@click.option("--upscale", type=int, default=1, show_default=True, metavar="N", help="Enlarge N times by Lanczos; no detail is added.")
@click.option(
    "--preview",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="A contact sheet that is written while the clip is denoised, at four of the steps.",
)
@click.option(
    "--out",
    "outs",
    type=Destination(),
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
      cdvideo animate --frames 40 --prompt "a V* bear on (green grass:1.3)" --prompt-at 24 "a V* bear in the snow"
      cdvideo animate --prompt "a V* bear in the snow" --concept-strength "0:1.0, 12:0.3"
      cdvideo animate --prompt "a bear in the snow" --init photo.jpg --strength 0.6
      cdvideo animate --prompt "a fox jumping" --speed fast --preview steps.png --interpolate 24 --upscale 2
      cdvideo animate --replay bear.mp4 --out again.mp4
    """
    replay = given.pop("replay")
    check_replay([given["prompt"], *(text for _, text in given["prompts_at"])], replay)
    from cdvideo.animate.preview import Preview
    from cdvideo.animate.reuse import speed_of
    from cdvideo.animate.settings import check_length, check_rounds, prompts_by_frame, strengths_by_frame
    from cdvideo.cli.progress import steps_bar
    from cdvideo.cli.rendering import (
        check_preview,
        default_outs,
        open_studio,
        over_time,
        render_again,
        save,
        say_cost,
        say_prompts,
        split_settings,
    )
    from cdvideo.motion import parse_camera
    from cdvideo.video import check_destination
    from cdvideo.video.resampling import check_resampling, resampled

    if replay:
        render_again(replay, outs, still=False, device=given["device"], offline=given["offline"])
        return
    course = over_time(given)
    every_prompt = [prompt for prompt in (given["prompt"], *course["prompts"].values()) if prompt is not None]
    check_apart(outs, init=given["init"], preview=given["preview"])
    destinations = outs or default_outs(every_prompt[0], "mp4", "gif")
    finish = {name: given.pop(name) for name in ("interpolate", "upscale")}
    for path in destinations:
        check_destination(path, num_frames=max(given["frames"], 1), fps=finish["interpolate"] or given["fps"])
    check_length(given["frames"], given["fps"], loop=given["loop"])
    prompts_by_frame(given["prompt"], course["prompts"], course["travel"], given["frames"])
    check_resampling(fps=given["fps"], **finish)
    check_rounds(given["freeinit"], starts=given["init"] is not None)
    check_preview(given["preview"])
    concepts = choose_concepts(" ".join(every_prompt), given.pop("concepts"))
    check_prompts(every_prompt, concepts)
    strengths_by_frame(course["concept_strengths"], len(concepts), given["frames"])
    moves, preview = given.pop("cameras"), given.pop("preview")
    for move in moves:
        parse_camera(move)
    sampling, setup = split_settings(given)
    sampling |= {name: setup.pop(name) for name in ("fps", "schedule", "loop", "freeinit", "speed")}
    sampling["num_frames"] = setup.pop("frames")
    setup["dtype"] = speed_of(sampling["speed"]).precision(setup["dtype"])
    with open_studio(concepts, with_motion=True, **setup) as studio:
        cameras = studio.camera_moves(moves, offline=setup["offline"])
        say_prompts(studio, every_prompt)
        say_cost(studio, {**sampling, **course})
        with steps_bar("rendering") as on_step:
            seen = Preview(studio.base, preview).seen if preview else None
            clip = studio.clip(**sampling, **course, cameras=cameras, on_step=on_step, on_prediction=seen)
    save(resampled(clip, **finish), destinations)
