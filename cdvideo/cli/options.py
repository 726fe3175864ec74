"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def device_options(function: Command) -> Command:
    function = click.option("--dtype", default="auto", show_default=True, help="auto, fp32, fp16 or bf16.")(function)
    return click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")(function)


def sampling_options(function: Command) -> Command:
    """What clips and stills have in common."""
    for option in reversed(
        (
            click.option("--prompt", help='What is to be seen, such as "a V* bear reading a book".'),
            click.option(
                "--replay",
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="Render again what made FILE, from the settings inside it.",
            ),
            click.option(
                "--concept",
                type=click.Path(path_type=Path),
                help="Concept file. By default the newest one in concepts/ whose token the prompt names.",
            ),
            click.option("--base", "base_name", help="Base model; by default the concept's, else pocket."),
            click.option("--size", help="WIDTHxHEIGHT in pixels; by default the base's own."),
            click.option("--steps", type=int, help="Denoising steps; by default the base's own (25)."),
            click.option("--guidance", type=float, help="Guidance scale; by default the base's own (7.5; pocket 4)."),
            click.option(
                "--sampler",
                type=click.Choice(["ddim", "euler", "euler-a", "dpm++2m", "dpm++2m-karras", "lcm"]),
                default="ddim",
                show_default=True,
                help="How steps are taken; lcm with models made for few steps.",
            ),
            click.option("--negative", default="bad quality, worse quality", show_default=True, help="What is not to be seen."),
            click.option("--seed", type=int, default=0, show_default=True, help="The same seed renders the same picture."),
        )
    ):
        function = option(function)
    return device_options(function)


def check_replay(prompt: str | None, replay: Path | None) -> None:
    """Raises UserError unless exactly one of prompt and replay is given, and with replay nothing that it settles itself."""
    from cdvideo.errors import UserError

    if replay is None:
        if prompt is None:
            raise UserError("what is to be seen?", remedy='describe it: --prompt "a V* bear reading a book"')
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


def choose_concept(prompt: str, path: Path | None) -> Path | None:
    """The concept to render with: the one named, else the newest whose token the prompt names. Says which, and what looks forgotten."""
    from cdvideo.concept import newest_for_prompt, read_header

    chosen = path or newest_for_prompt(prompt)
    if chosen is None:
        return None
    header = read_header(chosen)
    if path is None:
        click.echo(f"concept: {chosen} ({', '.join(header.tokens)})", err=True)
    if not any(token in prompt for token in header.tokens):
        named = " or ".join(f'"{token} {word}"' for token, word in zip(header.tokens, header.class_words, strict=True))
        click.echo(
            f"{click.style('note:', fg='yellow')} the prompt does not name the concept; write {named} where it should appear", err=True
        )
    return chosen
