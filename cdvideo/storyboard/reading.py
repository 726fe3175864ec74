"""A storyboard's YAML as plain values, with the file, line and column of each, and every mistake that can be seen without knowing keys.

Scalars are read as YAML 1.2 does: `no` and `2020-01-01` are text, and so is `0:1.0`. Anchors, aliases and merge keys work; entries at the
top level that begin with `x-` are there for their anchors only. `include` names files of the same folder, or below it, that are read as
if they stood there: their shots come first, and what the file says itself goes before what they say. Imports no torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cdvideo.errors import UserError
from cdvideo.storyboard.mistakes import BrokenStoryboard, Mistake, Place, spelled
from cdvideo.storyboard.script import KeyPath

MAX_BYTES = 1_000_000
MAX_ENTRIES = 50_000
"""Of all files of a storyboard together, each alias counted with all that it stands for."""
MAX_DEPTH = 50
"""Of lists and mappings in one another; and of merged anchors in one another."""
MAX_INCLUDES = 8
"""Files that include one another in a row."""
MERGED_SECTIONS = ("cast", "look", "defaults")
"""What an including and an included file may both say something of."""
_PREFIX = "tag:yaml.org,2002:"
_TAGS = {_PREFIX + tag for tag in ("str", "int", "float", "bool", "null", "map", "seq")}


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Composes with YAML 1.2's scalars."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - PyYAML's own name, a class attribute there too


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]{1,100}", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(_PREFIX + _tag, re.compile(f"^(?:{_pattern})$"), list(_first))


@dataclass(frozen=True)
class Source:
    """What the files of a storyboard say. `keys` and `values` are where the key and the value of each path stand.

    `notes` name what looks as if it were meant otherwise; `lines` are the file's own.
    """

    file: Path
    content: dict[str, Any] = field(default_factory=dict)
    keys: dict[KeyPath, Place] = field(default_factory=dict)
    values: dict[KeyPath, Place] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    notes: dict[Place, str] = field(default_factory=dict)
    lines: Sequence[str] = ()

    def place(self, path: KeyPath, *, key: bool = False) -> Place:
        """Where a path stands, its key or else its value; of one that is nowhere, what it would be in."""
        for length in range(len(path), 0, -1):
            for places in (self.keys, self.values) if key else (self.values, self.keys):
                if path[:length] in places:
                    return places[path[:length]]
        return Place(self.file, 1, 1)


def read_source(file: Path) -> Source:
    """What a storyboard's file and those that it includes say. Raises BrokenStoryboard where that cannot be told at all."""
    source = _Reader(file).read(file, ())
    if source is None:
        raise AssertionError("a file that cannot be read is an error")
    return source


class _Reader:
    """Reads a storyboard's files, with one count of entries over all of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.num_entries = 0

    def read(self, file: Path, including: tuple[Path, ...]) -> Source:
        text = _read_text(file)
        source = Source(file, lines=text.splitlines())
        try:
            node = yaml.compose(text, Loader=_Loader)
        except (yaml.YAMLError, RecursionError) as error:
            raise BrokenStoryboard(self.root, [syntax_mistake(error, file, text)]) from None
        if not isinstance(node, yaml.MappingNode):
            place = Place(file, 1, 1)
            what = "is empty" if node is None else "is no list of `key: value` lines"
            raise BrokenStoryboard(
                self.root, [Mistake(place, "", f"the file {what}", "make one that is right with: cdvideo storyboard init")]
            )
        source.content.update(self._mapping(node, (), source, set()))
        for key in [key for key in source.content if key.startswith("x-")]:
            del source.content[key]
        return self._with_includes(source, including)

    def _mistaken(self, source: Source, node: yaml.Node, path: KeyPath, message: str, suggestion: str = "") -> None:
        source.mistakes.append(Mistake(_place(source.file, node), spelled(path), message, suggestion))

    def _count(self, node: yaml.Node, path: KeyPath, source: Source, depth: int) -> None:
        """Counts an entry. Raises BrokenStoryboard for one too many, and for one too deep."""
        self.num_entries += 1
        if self.num_entries > MAX_ENTRIES:
            message = f"the file unfolds into more than {MAX_ENTRIES:,} entries"
            mistake = Mistake(_place(source.file, node), spelled(path), message, "write fewer aliases (*name) of what holds many itself")
            raise BrokenStoryboard(self.root, [mistake])
        if depth > MAX_DEPTH:
            message = f"lists and mappings lie more than {MAX_DEPTH} deep in one another"
            mistake = Mistake(_place(source.file, node), spelled(path[:4]), message, "a storyboard needs five levels or so")
            raise BrokenStoryboard(self.root, [mistake])

    def _value(self, node: yaml.Node, path: KeyPath, source: Source, above: set[int]) -> Any:
        self._count(node, path, source, len(path))
        source.values.setdefault(path, _place(source.file, node))
        if id(node) in above:
            self._mistaken(source, node, path, "the anchor (&name) holds an alias of itself (*name)", "write out what is meant there")
            return None
        if node.tag not in _TAGS:
            self._mistaken(source, node, path, f"the tag {node.tag.replace(_PREFIX, '!!')} is not read here", "leave it out")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, source, above)
        if isinstance(node, yaml.SequenceNode):
            inside = above | {id(node)}
            return [self._value(child, (*path, number), source, inside) for number, child in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            _note_what_looks_otherwise(node, path, source)
        return _scalar(node.tag, node.value)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, source: Source, above: set[int]) -> dict[str, Any]:
        inside = above | {id(node)}
        own: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            own_path = (*path, key_node.value)
            if not isinstance(key_node, yaml.ScalarNode):
                self._mistaken(
                    source, key_node, path, "a key is a word", 'put quotes around text that begins with { or [: "{bear} reading"'
                )
            elif key_node.value == "<<" and not key_node.style:
                merged += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
            elif key_node.value in own:
                first = source.keys[own_path]
                self._mistaken(source, key_node, own_path, f"is there twice, first in line {first.line}", "leave one of them out")
            else:
                source.keys[own_path] = _place(source.file, key_node)
                own[key_node.value] = self._value(value_node, own_path, source, inside)
        for other in merged:
            if not isinstance(other, yaml.MappingNode):
                self._mistaken(source, other, path, "<< takes an alias of a mapping, such as <<: *night", "leave it out")
            elif id(other) in inside:
                self._mistaken(source, other, path, "the anchor (&name) holds an alias of itself (*name)", "write out what is meant there")
            else:
                self._count(other, path, source, len(inside))
                known = set(own)
                from_other = Source(source.file, mistakes=source.mistakes, notes=source.notes, lines=source.lines)
                values = self._mapping(other, path, from_other, inside)
                own |= {key: value for key, value in values.items() if key not in known}
                for ours, theirs in ((source.keys, from_other.keys), (source.values, from_other.values)):
                    ours.update({place: at for place, at in theirs.items() if place not in ours and place[len(path)] not in known})
        return own

    def _with_includes(self, source: Source, including: tuple[Path, ...]) -> Source:
        named = source.content.pop("include", [])
        names = named if isinstance(named, list) else [named]
        whole = Source(source.file, mistakes=source.mistakes, notes=source.notes)
        for number, name in enumerate(names):
            path: KeyPath = ("include", number) if isinstance(named, list) else ("include",)
            file = self._included(name, path, source, including)
            if file is not None:
                _append(whole, self.read(file, (*including, source.file)))
        _append(whole, source)
        return whole

    def _included(self, name: Any, path: KeyPath, source: Source, including: tuple[Path, ...]) -> Path | None:
        """The file that an `include` names, or None with a mistake noted."""
        folder = self.root.parent
        chain = [*including, source.file]
        file = folder / str(name)
        if not isinstance(name, str) or not name.isprintable():
            problem = ("an included file is named by its path", "write include: cast.yaml")
        elif not file.resolve().is_relative_to(folder.resolve()):
            problem = (f"{name} lies outside the storyboard's folder {folder.resolve()}", "move the file into it")
        elif not os.path.isfile(file):
            problem = (f"there is no file {name}", f"it is looked for in the storyboard's folder, {folder.resolve()}")
        elif file.resolve() in [other.resolve() for other in chain]:
            problem = ("the files include each other: " + " -> ".join(str(other) for other in [*chain, file]), "leave one out")
        elif len(chain) > MAX_INCLUDES:
            problem = (f"more than {MAX_INCLUDES} files include each other in a row", "include them from the storyboard itself")
        else:
            return file
        source.mistakes.append(Mistake(source.place(path), spelled(path), *problem))
        return None


def _append(whole: Source, part: Source) -> None:
    """Lets `whole` say what `part` says too: more shots, and for all else instead of what it said."""
    shots = whole.content.get("shots")
    offset = len(shots) if isinstance(shots, list) and isinstance(part.content.get("shots"), list) else 0
    for key, value in part.content.items():
        before = whole.content.get(key)
        if key in MERGED_SECTIONS and isinstance(before, Mapping) and isinstance(value, Mapping):
            whole.content[key] = {**before, **value}
        elif key == "shots" and offset:
            whole.content[key] = [*whole.content[key], *value]
        else:
            whole.content[key] = value
    for ours, theirs in ((whole.keys, part.keys), (whole.values, part.values)):
        ours.update({_shifted(path, offset): place for path, place in theirs.items()})
    if part.mistakes is not whole.mistakes:
        whole.mistakes.extend(part.mistakes)
        whole.notes.update(part.notes)


def _shifted(path: KeyPath, offset: int) -> KeyPath:
    if offset and path[:1] == ("shots",) and path[1:] and isinstance(path[1], int):
        return ("shots", path[1] + offset, *path[2:])
    return path


def _note_what_looks_otherwise(node: yaml.ScalarNode, path: KeyPath, source: Source) -> None:
    """Notes what people forget of a text without quotes: that YAML reads no further than ` #`, and knows straight quotes alone."""
    if node.style or node.tag not in (_PREFIX + "str", _PREFIX + "null"):
        return
    line = source.lines[node.end_mark.line] if node.end_mark.line < len(source.lines) else ""
    if swallowed := _COMMENT.match(line, node.end_mark.column):
        note = f"{swallowed[1]} is read as a comment; if it belongs to the text, put quotes around all of it"
    elif ("prompt" in path or "prompts" in path[-2:]) and re.fullmatch(r"[“”„‘’].*[“”‘’]", node.value):
        note = "the curly quotes are part of the prompt; write straight ones, or none"
    else:
        return
    # What aliases stand for is noted where it is said first.
    source.notes.setdefault(_place(source.file, node), f"{spelled(path)}: {note}")


def _scalar(tag: str, text: str) -> Any:
    try:
        match tag.removeprefix(_PREFIX):
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return int(text)
            case "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        return text
    return text


def _place(file: Path, node: yaml.Node) -> Place:
    return Place(file, node.start_mark.line + 1, node.start_mark.column + 1)


def _read_text(file: Path) -> str:
    try:
        if os.path.exists(file) and not os.path.isfile(file):
            raise UserError(f"{file} is no file", remedy="name a YAML file of shots")
        if os.path.isfile(file) and file.stat().st_size > MAX_BYTES:
            size = f"it is {file.stat().st_size / 1e6:.1f} MB large, and at most {MAX_BYTES / 1e6:g} MB are read"
            raise UserError(f"{file} is too large for a storyboard", cause=size, remedy="name a YAML file of shots, or split the film")
        content = file.read_bytes()
    except FileNotFoundError:
        remedy = f"check the name, or begin one with: cdvideo storyboard init {file}"
        raise UserError(f"no such file: {file}", cause=f"looked in {file.parent.resolve()}", remedy=remedy) from None
    except OSError as error:
        raise UserError(f"cannot read {file}", cause=error.strerror or str(error), remedy="name a YAML file of shots") from error
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BrokenStoryboard(file, [Mistake(Place(file, 1, 1), "", "the file is UTF-16", "save it as UTF-8")])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].rpartition(b"\n")
        place = Place(file, before[0].count(b"\n") + (2 if before[1] else 1), len(before[2].decode("utf-8", "replace")) + 1)
        message = f"the byte {content[error.start]:#04x} is no UTF-8"
        raise BrokenStoryboard(file, [Mistake(place, "", message, "save the file as UTF-8")]) from None


def syntax_mistake(error: Exception, file: Path, text: str) -> Mistake:
    """What a parser's error means to somebody who has made the usual mistake there."""
    if isinstance(error, RecursionError):
        return Mistake(Place(file, 1, 1), "", "lists are nested too deeply", "a storyboard needs four levels at most")
    if isinstance(error, yaml.reader.ReaderError):
        character = next(
            (match for match in re.finditer(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text)), None
        )
        start = character.start() if character else 0
        place = Place(file, text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start))
        return Mistake(place, "", "a character here is no text", "delete it; the file may be no YAML at all")
    problem, context = getattr(error, "problem", None) or "", getattr(error, "context", None) or ""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if "quoted scalar" in context and "end of" in problem:
        mark = error.context_mark  # type: ignore[attr-defined]
    if mark is None:
        return Mistake(Place(file, 1, 1), "", " ".join(str(error).split()), "")
    lines = text.splitlines() or [""]
    if "flow" in context and (opened := getattr(error, "context_mark", None)):
        for number in range(opened.line, min(mark.line + 1, len(lines))):
            # What is in quotes is no comment.
            bare = re.sub(r"'[^']*'|\"(?:[^\"\\]|\\.)*\"", lambda quoted: "x" * len(quoted[0]), lines[number])
            if (swallowed := _COMMENT.search(bare)) and re.search(r"[}\]]", swallowed[1]):
                told = f"{swallowed[1]} is read as a comment, and what is open before it is not closed"
                value = re.split(r"[\s,}\]]", swallowed[1])[0]
                return Mistake(Place(file, number + 1, swallowed.start(1) + 1), "", told, f'put quotes around it: "{value}"')
    line = lines[min(mark.line, len(lines) - 1)]
    message, suggestion = _explained(problem, context, line, line[mark.column : mark.column + 1])
    return Mistake(Place(file, mark.line + 1, mark.column + 1), "", message, suggestion)


_COMMENT = re.compile(r"\s+(#\S.*)")
"""One that may be none: those that people write to explain begin with a space."""
_ENTRY = re.compile(r"^(\s*(?:- +)*)(?:([\w-]+):\s+)?(.*)$")


def _explained(problem: str, context: str, line: str, character: str) -> tuple[str, str]:
    entry = _ENTRY.match(line)
    key, written = (entry[2], entry[3].strip()) if entry else (None, line.strip())
    quoted = f"{key}: " if key else ""
    quoted += '"' + written.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if "nesting" in problem:
        return "lists are nested too deeply", "a storyboard needs four levels at most"
    if character == "\t":
        return "a tab; YAML is indented with spaces only", "put spaces in its place"
    if "quoted scalar" in context and "end of" in problem:
        return "the quote that begins here is never closed", "close it at the end of the text"
    if re.match(r"\{[\w -]*\}\s*\S", written) and "expected" in problem:
        return "text that begins with { needs quotes", f"write {quoted}"
    if re.search(r"[\[{,:]\s*[^\[{,:\"']*\{\w+\}", written[1:]) and "expected" in problem:
        return "text with { and } in it needs quotes inside [ ] and { }", "put quotes around it"
    if "undefined alias" in problem:
        return "an alias (*name) of an anchor (&name) that is nowhere before it", f"text that begins with * needs quotes: {quoted}"
    if written[:1] in ("@", "`", "%", "&", "!", "|", ">") and ("cannot start" in problem or "expected" in problem):
        return f"text that begins with {written[0]} needs quotes", f"write {quoted}"
    if "mapping values are not allowed" in problem:
        if ": " in written:
            return "text with a colon and a space in it needs quotes", f"write {quoted}"
        return "a key is not expected here", "check the indentation: keys of the same shot begin in the same column"
    if "another document" in problem:
        return "a second document (---) begins here", "a storyboard is one document; leave the line out"
    if "escape" in problem:
        return "no such escape in double quotes", "use single quotes, or write \\\\ for a backslash"
    if "expected" in problem:
        return "the line does not fit to those before", "check the indentation, and that quotes, [ and { are closed"
    return problem or "this is no valid YAML", "mend that line"
