"""What the report's commands take on the command line."""

from __future__ import annotations

from collections.abc import Callable

import click

Number = float | int


def numbers(kind: Callable[[str], Number]) -> Callable[[click.Context, click.Parameter, str], tuple[Number, ...]]:
    """An option's callback: numbers with commas between them, each once, the smallest first."""

    def read(_: click.Context, __: click.Parameter, text: str) -> tuple[Number, ...]:
        try:
            return tuple(sorted({kind(part) for part in text.split(",")}))
        except ValueError:
            raise click.BadParameter(f"{text!r}: numbers with commas between them, such as 60,240,480") from None

    return read
