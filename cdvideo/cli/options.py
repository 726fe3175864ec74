"""Options that several verbs share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


class Destination(click.Path):
    """A path to write to. An empty one, as an unset variable of a shell leaves it, would be the working folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("an empty name is no place to write to", param, ctx)
        return super().convert(value, param, ctx)


def check_apart(outs: Sequence[Path], *, init: Path | None, preview: Path | None = None) -> None:
    """Raises UserError where what is written would replace what is read, or one thing another."""
    from cdvideo.errors import UserError
    from cdvideo.video.destination import FRAME_NAME

    places = {name: os.path.realpath(path) for name, path in (("--init", init), ("--preview", preview)) if path is not None}
    if init and places.get("--preview") == places["--init"]:
        raise UserError(f"--init and --preview are both {init}", remedy="give the preview another name")
    taken = {place: name for name, place in places.items()}
    for path in outs:
        place = os.path.realpath(path)
        if name := taken.get(place):
            raise UserError(f"--out and {name} are both {path}", remedy="give --out another name")
        taken[place] = "another --out"
        if init and os.path.dirname(places["--init"]) == place and FRAME_NAME.fullmatch(init.name):
            raise UserError(f"--init is one of the frames in {path}, which --out would replace", remedy="give --out another name")


def device_options(function: Command) -> Command:
    function = click.option(
        "--dtype", default="auto", show_default=True, help="auto, fast (auto, but bf16 on CPUs made for it), fp32, fp16 or bf16."
    )(function)
    return click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")(function)


def sampling_options(function: Command) -> Command:
    """What clips and stills have in common."""
    for option in reversed(
        (
            click.option(
                "--prompt",
                help='What is to be seen, such as "a V* bear reading a book". (snow:1.3) counts more, [snow:0.7] less; '
                "(snow) is 1.1, [snow] 1/1.1; a backslash before a bracket makes it one of the text. Of any length.",
            ),
            click.option(
                "--replay",
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="Render again what made FILE, from the settings inside it.",
            ),
            click.option(
                "--concept",
                "concepts",
                multiple=True,
                metavar="FILE[:STRENGTH]",
                help="Concept file, or the name of one in concepts/; may be repeated. By default the newest there that the prompt names.",
            ),
            click.option(
                "--joining",
                type=click.Choice(["local", "merge"]),
                default="local",
                show_default=True,
                help="How several concepts share a picture: each at its own words, or merged in closed form.",
            ),
            click.option(
                "--lora",
                "loras",
                multiple=True,
                metavar="FILE[:STRENGTH]",
                help="LoRA for the image model, kohya's or diffusers': file, folder, hub id or alias; may be repeated. --camera takes "
                "those for motion.",
            ),
            click.option("--base", "base_name", help="Base model; by default the concept's, else pocket."),
            click.option("--size", help="WIDTHxHEIGHT in pixels; by default the base's own."),
            click.option("--steps", type=int, help="Denoising steps; by default the base's own (25), or --motion's."),
            click.option("--guidance", type=float, help="Guidance scale; by default the base's own (7.5; pocket 6), or --motion's."),
            click.option(
                "--sampler",
                type=click.Choice(["ddim", "euler", "euler-a", "dpm++2m", "dpm++2m-karras", "lcm"]),
                help="How steps are taken: by default ddim, or as --motion's module needs it; lcm with models made for few steps.",
            ),
            click.option(
                "--negative", help="What is not to be seen; by default the base's own (SD1.5: bad quality, worse quality; pocket: nothing)."
            ),
            click.option(
                "--init",
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="What to start from: a picture, or for clips also a clip. Scaled to the size, and cut to it around its middle.",
            ),
            click.option("--strength", type=float, help="How much of --init is drawn anew, above 0 up to 1; by default 0.7."),
            click.option("--seed", type=int, default=0, show_default=True, help="The same seed renders the same picture."),
        )
    ):
        function = option(function)
    return device_options(function)


def check_concept_path(out: Path, *, overwrite: bool) -> None:
    """Raises UserError where no concept can be written to `out`, or one is there already that is not to be replaced."""
    from cdvideo.errors import UserError
    from cdvideo.files import check_free

    if out.suffix != ".safetensors":
        is_folder = out.is_dir() or out.name in ("", "..")
        right = out / "NAME.safetensors" if is_folder else out.with_suffix(".safetensors")
        raise UserError(f"a concept is a .safetensors file, not {out}", remedy=f"use --out {right}")
    check_free([out], overwrite=overwrite)


def check_prompts(prompts: Sequence[str], concepts: Sequence[tuple[Path, float]]) -> None:
    """Raises UserError for weights that cannot be read; says of one that is read as words, since it is no number, that it is."""
    from cdvideo.animate.weights import parse_weights
    from cdvideo.cli.progress import say_note
    from cdvideo.concept import distinct_names, read_header

    renames = distinct_names([read_header(path).tokens for path, _ in concepts])
    tokens = [name for names in renames for name in names.values()]
    for prompt in prompts:
        parse_weights(prompt, tokens)
        for weight in re.findall(r":\s*([+-]?\d+,\d+)\s*[)\]]", prompt):
            right = weight.replace(",", ".")
            say_note(f"{weight} is no weight and is read as words; write it with a point: {right}")


def check_replay(prompts: Sequence[str | None], replay: Path | None) -> None:
    """Raises UserError unless there is either a prompt or a replay, and with replay nothing that it settles itself."""
    from cdvideo.errors import UserError

    if replay is None:
        given_prompts = [prompt for prompt in prompts if prompt is not None]
        if not given_prompts or not all(prompt.strip() for prompt in given_prompts):
            empty = "a prompt is empty" if given_prompts else ""
            raise UserError("what is to be seen?", cause=empty, remedy='describe it: --prompt "a V* bear reading a book"')
        return
    context = click.get_current_context()
    default = click.core.ParameterSource.DEFAULT
    given = [name for name in context.params if context.get_parameter_source(name) not in (default, None)]
    others = sorted(set(given) - {"replay", "outs", "device", "offline"})
    if others:
        names = {parameter.name: parameter.opts[0] for parameter in context.command.params}
        raise UserError(
            f"--replay renders {replay} again as it was",
            cause=f"{', '.join(names[name] for name in others)} would change it",
            remedy="leave that out",
        )


def offline_option(function: Command) -> Command:
    return click.option("--offline", is_flag=True, help="Use only what is on this machine.")(function)


def choose_concepts(prompt: str, given: Sequence[str]) -> list[tuple[Path, float]]:
    """The concept files to render with and their strengths: those given as FILE or FILE:STRENGTH, else the newest that the prompt names.

    Says which, and what looks forgotten.
    """
    from cdvideo.cli.progress import say_note
    from cdvideo.concept import distinct_names, is_named, newest_for_prompt, read_header

    chosen = [_with_strength(text) for text in given]
    if not chosen:
        chosen = [(path, 1.0) for path in newest_for_prompt(prompt)]
        for path, _ in chosen:
            click.echo(f"concept: {path} ({', '.join(read_header(path).tokens)})", err=True)
    headers = [read_header(path) for path, _ in chosen]
    renames = distinct_names([header.tokens for header in headers])
    for (path, _), header, names in zip(chosen, headers, renames, strict=True):
        if any(token != name for token, name in names.items()):
            say_note(f"{path} is called {', '.join(names.values())} here, since another has its token too")
        if not any(is_named(name, prompt) for name in names.values()):
            named = " or ".join(f'"{names[token]} {word}"' for token, word in zip(header.tokens, header.class_words, strict=True))
            say_note(f"the prompt does not name the concept {path}; write {named} where it should appear")
    return chosen


def _with_strength(text: str) -> tuple[Path, float]:
    """(file, strength) from "bear.safetensors" or "bear.safetensors:0.8"."""
    from cdvideo.concept import find_concept
    from cdvideo.strengths import split_strength

    name, strength = split_strength(text, what="a concept", example="bear.safetensors:0.8")
    return find_concept(name), strength
