"""The mistakes of a storyboard, each with its place, and the error that says them all."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdvideo.errors import UserError
from cdvideo.storyboard.script import KeyPath

MAX_SHOWN = 50


@dataclass(frozen=True, order=True)
class Place:
    """A place in a file; lines and columns count from 1."""

    file: Path
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, order=True)
class Mistake:
    """What is wrong where; `where` is the setting, such as "shots[2].seed", or empty for the file as a whole."""

    place: Place
    where: str
    message: str
    suggestion: str = ""

    def __str__(self) -> str:
        said = ": ".join(part for part in (str(self.place), self.where, self.message) if part)
        return printable(f"{said}; {self.suggestion}" if self.suggestion else said)


class BrokenStoryboard(UserError):
    """A storyboard with mistakes: all of them, in the order of their places."""

    def __init__(self, file: Path, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = sorted(dict.fromkeys(mistakes))
        count = f"{len(self.mistakes)} mistakes" if len(self.mistakes) > 1 else "a mistake"
        shown = [f"  {mistake}" for mistake in self.mistakes[:MAX_SHOWN]]
        if len(self.mistakes) > MAX_SHOWN:
            shown.append(f"  and {len(self.mistakes) - MAX_SHOWN} more")
        super().__init__("\n".join([f"{file} has {count}:", *shown]))


def printable(text: str) -> str:
    """Text that any terminal takes, on one line: control characters become question marks."""
    return "".join(character if character.isprintable() else "?" for character in text)


def spelled(path: KeyPath) -> str:
    """A path as people write it: shots[2].camera."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def meant(word: str, known: Sequence[str]) -> str:
    """ "did you mean camera?" where a known word is close to this one, else all of the known words."""
    near = difflib.get_close_matches(word, known, n=1) or difflib.get_close_matches(word.lower(), known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}" if known else ""
