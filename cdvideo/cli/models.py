from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdvideo.cli.options import offline_option

if TYPE_CHECKING:
    from cdvideo.base.catalog import BaseAlias, ClipAlias, LoraAlias, MotionAlias


@click.group("models", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """List the known models, what is cached on this machine, and each licence; or convert motion modules.

    \b
    Examples:
      cdvideo models
      cdvideo models convert mm_sd_v15_v2.ckpt --out motion-v2
    """
    if context.invoked_subcommand is None:
        _list()


@command.command("convert")
@click.argument("source")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A folder for a module in diffusers' layout; else a file.")
@click.option("--to", type=click.Choice(["diffusers", "original"]), help="The layout to write; by default the one that SOURCE is not in.")
@click.option("--dtype", type=click.Choice(["fp16", "fp32"]), help="The precision to write; by default every tensor as it is.")
@click.option("--force", "--overwrite", "overwrite", is_flag=True, help="Replace what is there already.")
@offline_option
def convert_command(source: str, out: Path, to: str | None, dtype: str | None, overwrite: bool, offline: bool) -> None:
    """Convert a motion module or MotionLoRA between AnimateDiff's own layout and diffusers'.

    SOURCE is a file, a folder, a known module's name or a hub id. Nothing is lost: there and back again is bit-identical.

    \b
    Examples:
      cdvideo models convert mm_sd_v15_v2.ckpt --out motion-v2
      cdvideo models convert motion-v2 --out mm_sd_v15_v2.safetensors --dtype fp16
      cdvideo models convert v2_lora_ZoomIn.ckpt --out zoom-in.safetensors
    """
    from cdvideo.motion import convert

    done = convert(source, out, to=to, dtype=dtype, overwrite=overwrite, offline=offline)
    names = {"diffusers": "diffusers' layout", "original": "AnimateDiff's own layout"}
    click.echo(f"{source}: {done.kind}, {done.details}, in {names[done.layout]}")
    if done.rounded:
        note = click.style("note:", fg="yellow")
        click.echo(f"{note} its alphas are multiplied into its matrices, which is exact for powers of two alone", err=True)
    for file in done.files:
        click.echo(f"wrote {file} ({names[done.to]})")


def _list() -> None:
    from cdvideo.base.catalog import BASES, CLIPS, LORAS, MOTIONS
    from cdvideo.base.hub import cached_models

    cached = cached_models()
    sizes = {model.location: model.size_bytes for model in cached}
    known: dict[str, Mapping[str, BaseAlias | MotionAlias | LoraAlias | ClipAlias]] = {
        "bases (--base)": BASES,
        "motion modules (--motion)": MOTIONS,
        "LoRAs (--lora)": LORAS,
        "judges of a base's pictures (a storyboard's takes, train --keep best)": CLIPS,
    }
    for title, aliases in known.items():
        click.secho(title, bold=True)
        for alias in aliases.values():
            if alias.location is None:
                state = "ships with cdvideo"
            elif alias.location in sizes:
                state = f"cached, {_gigabytes(sizes[alias.location])}"
            else:
                state = f"fetched when first used, about {_gigabytes(alias.download_bytes)}"
            click.echo(
                f"  {alias.name:<10} {alias.title}\n             {state}; {alias.licence}\n             {alias.location or alias.home}"
            )
    others = [model for model in cached if model.alias is None and model.kind != "other"]
    if others:
        click.secho("also cached", bold=True)
        for model in others:
            click.echo(f"  {model.location} ({model.kind}, {_gigabytes(model.size_bytes)})")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
