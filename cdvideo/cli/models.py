from __future__ import annotations

import click


@click.command("models")
def command() -> None:
    """List the known models, what is cached on this machine, and each licence.

    \b
    Example:
      cdvideo models
    """
    from cdvideo.base.catalog import BASES, MOTIONS
    from cdvideo.base.hub import cached_models

    cached = cached_models()
    sizes = {model.location: model.size_bytes for model in cached}
    for title, aliases in (("bases (--base)", BASES), ("motion modules (--motion)", MOTIONS)):
        click.secho(title, bold=True)
        for alias in aliases.values():
            if alias.location is None:
                state = "ships with cdvideo"
            elif alias.location in sizes:
                state = f"cached, {_gigabytes(sizes[alias.location])}"
            else:
                state = f"fetched when first used, about {_gigabytes(alias.download_bytes)}"
            click.echo(f"  {alias.name:<8} {alias.title}\n           {state}; {alias.licence}\n           {alias.location or alias.home}")
    others = [model for model in cached if model.alias is None and model.kind != "other"]
    if others:
        click.secho("also cached", bold=True)
        for model in others:
            click.echo(f"  {model.location} ({model.kind}, {_gigabytes(model.size_bytes)})")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
