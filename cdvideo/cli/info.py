from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("info")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
def command(file: Path, as_json: bool) -> None:
    """Show what a concept, clip or film is made of.

    \b
    Examples:
      cdvideo info concepts/bear.safetensors
      cdvideo info film.mp4 --json
    """
    details = _describe(file)
    if as_json:
        click.echo(json.dumps(details, indent=2, default=str))
        return
    print_details(details)


def _describe(file: Path) -> dict[str, object]:
    if not file.exists():
        from cdvideo.concept import find_concept

        file = find_concept(file)
    if file.suffix == ".safetensors":
        from dataclasses import asdict

        from cdvideo.concept import read_header

        return {"kind": "concept", "file": str(file), **asdict(read_header(file))}
    from cdvideo.video import describe

    return describe(file)


def print_details(details: dict[str, object], indent: str = "") -> None:
    for name, value in details.items():
        label = click.style(f"{indent}{name}", bold=not indent)
        if isinstance(value, dict):
            click.echo(f"{label}:")
            print_details(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for number, entry in enumerate(value, 1):
                click.echo(f"{label} {number}:")
                print_details(entry, indent + "  ")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            click.echo(f"{label}: {shown}")
