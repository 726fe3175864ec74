from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cdvideo.cli.options import check_concept_path, offline_option

if TYPE_CHECKING:
    from cdvideo.base import Base
    from cdvideo.concept import ConceptHeader

Command = TypeVar("Command", bound=Callable[..., Any])


def _base_option(function: Command) -> Command:
    option = click.option("--base", "base_name", help="The base it was tuned from, where it is not found by the name in the header.")
    return offline_option(option(function))


def _output_options(help_text: str) -> Callable[[Command], Command]:
    def add(function: Command) -> Command:
        function = click.option("--overwrite", is_flag=True, help="Replace what is there already.")(function)
        return click.option("--out", required=True, type=click.Path(path_type=Path), help=help_text)(function)

    return add


_json_option = click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")


def _concepts_meant(_: click.Context, __: click.Parameter, value: Any) -> Any:
    """The files of one name or several, of which each may be a bare one in `concepts/`."""
    from cdvideo.concept import find_concept

    return tuple(map(find_concept, value)) if isinstance(value, tuple) else find_concept(value)


_file_argument = click.argument("file", type=click.Path(path_type=Path), callback=_concepts_meant)


@click.group("concept")
def command() -> None:
    """Show, convert, compress and merge concept files.

    \b
    Examples:
      cdvideo concept show concepts/bear.safetensors
      cdvideo concept export concepts/bear.safetensors --format kohya --out exported
      cdvideo concept import trained-elsewhere --class bear --base sd15 --out concepts/bear.safetensors
      cdvideo concept compress concepts/bear.safetensors --rank 16 --out concepts/bear-16.safetensors
      cdvideo concept merge concepts/bear.safetensors concepts/cat.safetensors --out concepts/both.safetensors
    """


@command.command("show")
@_file_argument
@click.option("--moved", is_flag=True, help="Load the base as well, and tell how far the training moved each matrix and token.")
@_base_option
@_json_option
def show_command(file: Path, moved: bool, base_name: str | None, offline: bool, as_json: bool) -> None:
    """Show what a concept is, how it was made, and with --moved what its training changed.

    \b
    Examples:
      cdvideo concept show concepts/bear.safetensors
      cdvideo concept show concepts/bear.safetensors --moved --json
    """
    from cdvideo.concept import read_header, read_layout

    header, layout = read_header(file), read_layout(file)
    details = _described(file, header)
    matrices = {
        name.removesuffix(".down").removesuffix(".up").removesuffix(".shift"): entry
        for name, entry in layout.items()
        if name.startswith("unet.")
    }
    ranks = sorted({entry.shape[0] for name, entry in layout.items() if name.endswith(".down") and entry.shape})
    details["sizes"] = {
        "file_bytes": file.stat().st_size,
        "matrices": len(matrices),
        "matrices_bytes": sum(entry.num_bytes for name, entry in layout.items() if name.startswith("unet.")),
        "embeddings_bytes": sum(entry.num_bytes for name, entry in layout.items() if name.startswith("embedding.")),
        "photos_seen": {name.removeprefix("looks."): entry.shape[0] for name, entry in layout.items() if name.startswith("looks.")},
        "text_width": next((entry.shape[-1] for name, entry in layout.items() if name.startswith("embedding.") and entry.shape), None),
        "stored_as": sorted({entry.dtype for entry in layout.values()}),
        "ranks": ranks or "full",
    }
    if moved or base_name:
        from dataclasses import asdict

        from cdvideo.concept import Concept
        from cdvideo.interop import movement

        details["moved"] = asdict(movement(_load_base(base_name or header.base, offline), Concept.load(file)))
    _report(details, as_json)


@command.command("export")
@_file_argument
@click.option("--format", "layout", required=True, type=click.Choice(["diffusers", "kohya"]), help="Whose files to write.")
@_output_options("Folder for the files.")
@click.option("--bin", "pickled", is_flag=True, help="diffusers: .bin files (pickles) in place of .safetensors.")
@click.option("--rank", type=int, help="kohya: every layer's rank; by default what keeps the error below 1e-3, 64 at most.")
@_base_option
@_json_option
def export_command(
    file: Path,
    layout: str,
    out: Path,
    overwrite: bool,
    pickled: bool,
    rank: int | None,
    base_name: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Write a concept as other programs read it.

    diffusers: the files of diffusers' Custom Diffusion script, and ClassDiffusion's. kohya: a LoRA and an embedding for A1111, ComfyUI and
    kohya's scripts, with the error that the LoRA's rank costs.

    \b
    Examples:
      cdvideo concept export concepts/bear.safetensors --format diffusers --out exported
      cdvideo concept export concepts/bear.safetensors --format kohya --rank 32 --out exported
    """
    from cdvideo.concept import read_header
    from cdvideo.errors import UserError

    if pickled and layout == "kohya":
        raise UserError("--bin is for --format diffusers", cause="the LoRA and the embedding are .safetensors for every program")
    if rank is not None and layout == "diffusers":
        raise UserError("--rank is for --format kohya", cause="diffusers' files hold whole matrices")
    header = read_header(file)
    _check_folder(out)
    from cdvideo.concept import Concept
    from cdvideo.interop import base_weights, export_diffusers, export_kohya
    from cdvideo.interop.compressing import check_rank

    concept = Concept.load(file)
    if rank is not None:
        check_rank(rank)
    if layout == "kohya":
        base = _load_base(base_name or header.base, offline)
        with _bar("taking matrices apart") as on_layer:
            written = export_kohya(base, concept, out, file.stem, rank=rank, overwrite=overwrite, on_layer=on_layer)
    else:
        if concept.is_compressed or base_name:
            concept = concept.expanded(base_weights(_load_base(base_name or header.base, offline), concept))
        written = export_diffusers(concept, out, pickled=pickled, overwrite=overwrite)
    details: dict[str, Any] = {"files": [str(path) for path in written.files], "tokens": dict(written.tokens)}
    if written.errors:
        details |= {"relative_error": written.relative_error, "layers": dict(written.errors)}
    _report(details, as_json)


@command.command("import")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--token", "tokens", multiple=True, help='What to call it here; "V*" by default, V1*, V2* for several. May be repeated.')
@click.option("--class", "class_words", multiple=True, metavar="WORD", help="What it is, in one common word. May be repeated.")
@click.option("--base", "base_name", help="The base it was tuned from; sd15 by default, what cdvideo exported knows its own.")
@_output_options("The concept file, NAME.safetensors.")
@offline_option
@_json_option
def import_command(
    path: Path,
    tokens: tuple[str, ...],
    class_words: tuple[str, ...],
    base_name: str | None,
    out: Path,
    overwrite: bool,
    offline: bool,
    as_json: bool,
) -> None:
    """Make a concept of what diffusers' Custom Diffusion script, ClassDiffusion or Custom Diffusion itself has trained.

    PATH is the folder with pytorch_custom_diffusion_weights.* and <new1>.*, or a delta*.bin or delta*.ckpt.

    \b
    Examples:
      cdvideo concept import trained-elsewhere --class bear --base sd15 --out concepts/bear.safetensors
      cdvideo concept import logs/delta.bin --token "V1*" --class cat --token "V2*" --class dog --out concepts/pets.safetensors
    """
    check_concept_path(out, overwrite=overwrite)
    from cdvideo.cli.progress import say_note
    from cdvideo.errors import UserError
    from cdvideo.interop import import_diffusers
    from cdvideo.interop.importing import check_kind, companion_header

    check_kind(path)
    own = companion_header(path)
    base = _load_base(base_name or "sd15", offline) if base_name or own is None else None
    if base is None and own and (tokens or class_words):
        try:
            base = _load_base(own.base, offline)
        except UserError as error:
            say_note(f"whether the base reads the new words is not known: {error.message}")
    imported = import_diffusers(path, base=base, tokens=tokens, class_words=class_words)
    imported.concept.save(out)
    details = {"concept": str(out), "layout": imported.layout, "names_in_files": dict(imported.tokens)}
    _report(details | _described(out, imported.concept.header), as_json)


@command.command("compress")
@_file_argument
@click.option("--rank", required=True, type=int, help="Rank of each matrix's change; 16 is a start, larger loses less.")
@_output_options("The smaller concept file, NAME.safetensors.")
@_base_option
@_json_option
def compress_command(file: Path, rank: int, out: Path, overwrite: bool, base_name: str | None, offline: bool, as_json: bool) -> None:
    """Make a concept's file smaller: keep the largest parts of what its training changed.

    \b
    Example:
      cdvideo concept compress concepts/bear.safetensors --rank 16 --out concepts/bear-16.safetensors
    """
    from cdvideo.concept import read_header

    header = read_header(file)
    check_concept_path(out, overwrite=overwrite)
    from cdvideo.cli.progress import say_note
    from cdvideo.concept import Concept
    from cdvideo.interop import compress
    from cdvideo.interop.compressing import check_rank

    check_rank(rank)
    before = file.stat().st_size
    with _bar("taking matrices apart") as on_layer:
        smaller = compress(_load_base(base_name or header.base, offline), Concept.load(file), rank, on_layer=on_layer)
    smaller.concept.save(out)
    details = {"concept": str(out), "bytes_before": before, "bytes_after": out.stat().st_size}
    if out.stat().st_size >= before:
        say_note(f"{out} is no smaller than {file}; a lower --rank makes it smaller")
    _report({**details, "relative_error": smaller.relative_error, "layers": dict(smaller.layers)}, as_json)


@command.command("merge")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), callback=_concepts_meant)
@_output_options("The merged concept file, NAME.safetensors.")
@click.option("--rename/--no-rename", default=True, show_default=True, help="Let tokens that several use become V1*, V2*; or refuse them.")
@_base_option
@_json_option
def merge_command(
    files: tuple[Path, ...], out: Path, overwrite: bool, rename: bool, base_name: str | None, offline: bool, as_json: bool
) -> None:
    """Join separately trained concepts, so that one picture can hold all of them.

    Custom Diffusion's closed form: at its own tokens the result does what each concept did, elsewhere what the base does, as nearly as
    possible. The report tells how nearly.

    \b
    Example:
      cdvideo concept merge concepts/bear.safetensors concepts/cat.safetensors --out concepts/both.safetensors
    """
    from cdvideo.concept import read_header

    headers = [read_header(file) for file in files]
    check_concept_path(out, overwrite=overwrite)
    from dataclasses import asdict

    from cdvideo.concept import Concept
    from cdvideo.interop import merge

    concepts = [Concept.load(file) for file in files]
    with _bar("reading captions") as on_step:
        merged = merge(_load_base(base_name or headers[0].base, offline), concepts, rename=rename, on_step=on_step)
    merged.concept.save(out)
    for file, outcome in zip(files, merged.concepts, strict=True):
        for old, new in outcome.renamed.items():
            click.echo(f"{file}: {old} is {new} now", err=True)
    details = {"concept": str(out), "tokens": merged.concept.header.tokens}
    concepts_said = [{"file": str(file), **asdict(outcome)} for file, outcome in zip(files, merged.concepts, strict=True)]
    base_said = {"base_held_out": merged.base_held_out, "base_layers": dict(merged.base_layers)}
    counts = {"num_captions": merged.num_captions, "num_held_out": merged.num_held_out}
    _report({**details, "concepts": concepts_said, **base_said, **counts}, as_json)


def _described(file: Path, header: ConceptHeader) -> dict[str, Any]:
    from dataclasses import asdict

    from cdvideo.concept import UNKNOWN

    values = {name: UNKNOWN if value is None else value for name, value in asdict(header).items()}
    return {"kind": "concept", "file": str(file), **values}


def _check_folder(out: Path) -> None:
    from cdvideo.errors import UserError

    if out.exists() and not out.is_dir():
        raise UserError(f"{out} cannot become a folder of files", cause="it is a file", remedy="give --out a folder")


def _load_base(name: str, offline: bool) -> Base:
    from cdvideo import base

    return base.load(name, device="cpu", dtype="fp32", offline=offline)


def _bar(description: str) -> Any:
    from cdvideo.cli.progress import steps_bar

    return steps_bar(description)


def _report(details: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(details, indent=2, default=str))
        return
    from cdvideo.cli.info import print_details

    print_details(_readable(details))


def _readable(value: Any) -> Any:
    """The same with its numbers cut to three digits."""
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return {name: _readable(entry) for name, entry in value.items()}
    return [_readable(entry) for entry in value] if isinstance(value, list) else value
