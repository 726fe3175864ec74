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


def check_images(images: Path, *, base_name: str | None, device: str, dtype: str, given: dict[str, Any]) -> int:
    """Prints the report on a folder (or a training's YAML file) and returns the exit code: 0 where it can be trained on, 2 where not."""
    settings = {name: given.get(name) for name in ("class_word", "token", "steps", "batch_size")} | {"base": base_name}
    if images.suffix not in (".yaml", ".yml"):
        return _check_one(images, images, settings, device=device, dtype=dtype)
    from cdvideo.config import TrainConfig, load_yaml

    config = load_yaml(images, TrainConfig)
    shared = {name: getattr(config, name) if settings[name] is None else settings[name] for name in ("steps", "batch_size", "base")}
    codes = []
    for subject in config.subjects:
        words = {"class_word": settings["class_word"] or subject.class_word, "token": settings["token"] or subject.token}
        codes.append(_check_one(subject.images, images, {**shared, **words}, device=device, dtype=dtype))
    return max(codes)


def _check_one(folder: Path, command_for: Path, settings: dict[str, Any], *, device: str, dtype: str) -> int:
    from tqdm import tqdm

    from cdvideo.train.check import check_photos

    chosen = {name: value for name, value in settings.items() if value is not None}
    with tqdm(desc="looking at", bar_format="{desc}", leave=False, disable=None) as bar:
        report = check_photos(
            folder, device=device, dtype=dtype, on_step=lambda what: bar.set_description_str(f"looking at {what}"), **chosen
        )
    for line in render(report, command_for=command_for):
        click.echo(line)
    return 0 if report.ready else 2


def render(report: PhotoReport, command_for: Path | None = None) -> list[str]:
    """The report in lines, styled; `command_for` is what the user will name to `cdvideo train`, by default the report's folder."""
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
    return [*lines, *_fact("ready", _command(report, command_for or report.folder), fg="green", wrap=False)]


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
        return "its time and memory are not known"
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


def _command(report: PhotoReport, images: Path) -> str:
    words = ["cdvideo", "train", str(images)]
    named = report.words.class_word if report.words.class_id is not None or report.words.token_id is None else None
    if images.suffix not in (".yaml", ".yml"):
        words += ["--class", named or "WORD"]
        words += ["--token", report.words.token] if report.words.token != "V*" else []
        words += ["--base", report.base.name] if report.base.name != "pocket" else []
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
