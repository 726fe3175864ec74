"""The command line: one file per verb, loaded when it is called, so that `--help` stays quick."""

from __future__ import annotations

import importlib
import os
import warnings
from typing import Any

import click

from cdvideo import __version__
from cdvideo.errors import UserError, UserNote

VERBS = {
    "demo": "Train on the sample bear and render a film of it.",
    "train": "Learn a subject from a few photos.",
    "animate": "Render a clip from a prompt.",
    "image": "Render a still picture from a prompt.",
    "storyboard": "Turn a YAML file of shots into a film.",
    "concept": "Show, convert, compress and merge concept files.",
    "info": "Show what a concept, clip or film is made of.",
    "models": "List the known models and their licences; convert motion modules.",
}


class Verbs(click.Group):
    """Commands by name, each imported from `cdvideo.cli.<name>` when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        return importlib.import_module(f"cdvideo.cli.{name}").command  # type: ignore[no-any-return]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        for library in ("DIFFUSERS", "TRANSFORMERS"):
            os.environ.setdefault(f"{library}_VERBOSITY", "error")
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(click.style(f"{error.label}: ", fg="red", bold=True) + str(error), err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("\nstopped", err=True)
            ctx.exit(130)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    """Our own notes as one line; the warnings of libraries stay out of the user's way."""
    if issubclass(category, UserNote):
        from cdvideo.cli.progress import say_note

        say_note(str(message))


@click.command(cls=Verbs, epilog="Start with: cdvideo demo")
@click.version_option(__version__, prog_name="cdvideo")
def main() -> None:
    """Films of your own subject, from a handful of photos."""
