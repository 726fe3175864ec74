"""`cdvideo train --check`: the report on a folder of photos, for a terminal."""

from __future__ import annotations

import shlex
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cdvideo.train.check import PhotoEntry, PhotoReport
    from cdvideo.train.cost import Cost

_LABEL_WIDTH = 10
_NAME_WIDTH, _CAPTION_WIDTH = 40, 26


def check_images(images: Path, *, base_name: str | None, device: str, dtype: str, offline: bool, given: dict[str, Any]) -> int:
    """Prints the report on a folder (or a training's YAML file) and returns the exit code: 0 where it can be trained on, 2 where not."""
    from cdvideo.config import TrainConfig, is_yaml, load_yaml
    from cdvideo.train.cost import Recipe

    options = {name: value for name, value in {**given, "base": base_name}.items() if value is not None and value != ()}
    config = load_yaml(images, TrainConfig) if is_yaml(images) else None
    settings = {**(config.model_dump(exclude_unset=True) if config else {}), **options}
    named = {"cache_latents": "cached_views"}
    kept = ("method", "steps", "batch_size", "accumulate", "prior_weight", "cache_latents", "gradient_checkpointing", "optimizer")
    recipe = {named.get(name, name): settings[name] for name in kept if settings.get(name) is not None}
    shared = {"base": settings.get("base"), "device": device, "dtype": dtype}
    asked = {"device": device, "dtype": dtype, "offline": offline}
    command = _command(images, {**options, **{name: value for name, value in asked.items() if value not in ("auto", False)}})
    if config is None:
        words = {"class_word": settings.get("class_word"), "token": settings.get("token")}
        return _check_one(images, command, {**shared, **words, "recipe": Recipe(**recipe)})
    subjects = config.subjects
    shared["recipe"] = Recipe(**recipe, num_concepts=len(subjects))
    codes = []
    for number, subject in enumerate(subjects):
        words = {"class_word": options.get("class_word") or subject.class_word, "token": options.get("token") or subject.token}
        one = {**shared, **words, "number": number, "initializer": subject.initializer}
        codes.append(_check_one(subject.images, command, one))
    return max(codes)


def _check_one(folder: Path, command: list[str], settings: dict[str, Any]) -> int:
    from tqdm import tqdm

    from cdvideo.train.check import check_photos

    chosen = {name: value for name, value in settings.items() if value is not None}
    with tqdm(desc="looking at", bar_format="{desc}", leave=False, disable=None) as bar:
        report = check_photos(folder, on_step=lambda what: bar.set_description_str(f"looking at {what}"), **chosen)
    for line in render(report, command):
        click.echo(line)
    return 0 if report.ready else 2


def _command(images: Path, options: dict[str, Any]) -> list[str]:
    """The words of the command that trains as the options say."""
    words = ["cdvideo", "train", f"./{images}" if str(images).startswith("-") else str(images)]
    for name, value in options.items():
        option = f"--{name.removesuffix('_word').replace('_', '-')}"
        for one in value if isinstance(value, tuple) else (value,):
            words += [option] if one is True else [option, str(one)]
    return words


def render(report: PhotoReport, command: Sequence[str]) -> list[str]:
    """The report in lines, styled; `command` are the words of the training's command, which lacks the class where it was not named."""
    lines = [click.style(f"{_shown(report.folder)}: {_count(report.photos)}", bold=True), ""]
    lines += _table(report.photos)
    lines.append("")
    lines += _fact("base", _base_text(report))
    lines += _fact("class", _class_text(report))
    lines += _fact("token", _token_text(report))
    lines += _fact("training", _cost_text(report))
    lines += [line for note in report.notes for line in _fact("note", note)]
    if report.warnings:
        lines += ["", *(line for warning in report.warnings for line in _fact("warning", warning, fg="yellow"))]
    lines.append("")
    if report.mend:
        return lines + [line for problem in report.mend for line in _fact("mend", problem, fg="red")]
    return [*lines, *_fact("ready", _ready(report, command), fg="green", wrap=False)]


def _count(photos: Sequence[PhotoEntry]) -> str:
    bad = sum(entry.problem is not None for entry in photos)
    return f"{len(photos)} photo{'s' * (len(photos) != 1)}" + (f", {bad} of them not usable" if bad else "")


def _table(photos: Sequence[PhotoEntry]) -> list[str]:
    head = ("photo", "size", "mode", "format", "mask", "used", "caption")
    rows = [_row(entry) for entry in photos]
    # Columns that no photo fills are left out.
    kept = [index for index in range(len(head)) if index == 0 or any(row[index] for row in rows)]
    widths = {index: max(_width(row[index]) for row in [head, *rows]) for index in kept}

    def joined(row: tuple[str, ...]) -> str:
        return "  " + "  ".join(_padded(row[index], widths[index]) for index in kept).rstrip()

    styled = [click.style(joined(head), dim=True)]
    for entry, row in zip(photos, rows, strict=True):
        styled.append(click.style(joined(row), fg="red") if entry.problem else joined(row))
    return styled


def _row(entry: PhotoEntry) -> tuple[str, ...]:
    name = _shown(entry.name)
    name = name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 13]}…{name[-12:]}"
    if entry.problem or entry.size is None:
        return name, "", "", "", "", "no", ""
    width, height = entry.size
    caption = entry.caption or ""
    caption = caption if len(caption) <= _CAPTION_WIDTH else f"{caption[: _CAPTION_WIDTH - 1]}…"
    use = "" if width == height else f"the central {min(entry.size)}x{min(entry.size)}"
    return name, f"{width}x{height}", entry.mode, entry.format, "yes" if entry.masked else "", use, caption


def _base_text(report: PhotoReport) -> str:
    parts = [report.base.name]
    if report.base.native_size:
        parts.append(f"{report.base.native_size}x{report.base.native_size} px")
    return ", ".join([*parts, report.base.note or "on this machine"])


def _class_text(report: PhotoReport) -> str:
    words = report.words
    if words.class_word is None:
        return "not named, and the folder's name suggests none: add --class WORD"
    origin = " (from the folder's name; --class names another)" if words.suggested else ""
    if words.class_id is not None:
        return f"{words.class_word}, token {words.class_id} of the base{origin}"
    if not words.pieces:
        return f"{words.class_word}{origin}"
    near = f"; near it: {', '.join(words.alternatives)}" if words.alternatives else ""
    return f"{words.class_word} is {len(words.pieces)} tokens to the base{near}{origin}"


def _token_text(report: PhotoReport) -> str:
    words = report.words
    if words.token_id is None:
        return words.token
    start = f", starts from the embedding of {words.initializer!r}" if words.initializer else ""
    return f"{words.token}, new token {words.token_id}{start}"


def _cost_text(report: PhotoReport) -> str:
    cost = report.cost
    if cost is None:
        return "its time and memory are not known" + ("; they need the class" if report.words.class_word is None else "")
    amount = f"{cost.steps} steps of {cost.batch_size} views, about {_duration(cost.total_seconds)} on {cost.device} in {cost.dtype}"
    memory = f", {cost.memory_bytes / 1e9:.1f} GB of memory" if cost.memory_bytes else ""
    of = f" of {cost.available_bytes / 1e9:.0f}" if memory and cost.available_bytes else ""
    return f"{amount}{memory}{of} {_how(cost)}"


def _how(cost: Cost) -> str:
    if cost.measured:
        return f"(measured: {cost.step_seconds:.2g} s a step)"
    return "(estimated from the operations of Stable Diffusion 1.5 and the speed of a matrix product here; not measured)"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def _ready(report: PhotoReport, command: Sequence[str]) -> str:
    words = list(command)
    if report.words.suggested:
        named = report.words.class_word if report.words.class_id is not None or report.words.token_id is None else None
        words[3:3] = ["--class", named or "WORD"]
    return " ".join(shlex.quote(_shown(word)) for word in words)


def _fact(label: str, text: str, *, fg: str | None = None, wrap: bool = True) -> list[str]:
    """A label and its text, wrapped beside it to the terminal's width; one line where the output is no terminal."""
    width = shutil.get_terminal_size().columns if wrap and sys.stdout.isatty() else 0
    text = _shown(text)
    rows = textwrap.wrap(text, max(40, width - _LABEL_WIDTH - 1), break_on_hyphens=False) if width else [text]
    first = click.style(f"{label:<{_LABEL_WIDTH}}", fg=fg, bold=fg is not None) + rows[0]
    return [first, *(" " * _LABEL_WIDTH + row for row in rows[1:])]


def _shown(text: object) -> str:
    """Text that any terminal takes: bytes of a file name that are no UTF-8 become question marks, control characters too."""
    readable = str(text).encode("utf-8", "replace").decode("utf-8")
    return "".join(character if character.isprintable() else "?" for character in readable)


def _width(text: str) -> int:
    """Columns in a terminal: East Asian characters take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
