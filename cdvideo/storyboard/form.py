"""A storyboard's form: its values as models, and what of them is no such value, in words. Imports no torch."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from cdvideo.storyboard.casting import Trouble
from cdvideo.storyboard.mistakes import meant
from cdvideo.storyboard.script import (
    MAX_SHOTS,
    NO_PROMPT,
    OLDER_PLACES,
    UNKNOWN_KEY,
    Audio,
    Caption,
    Card,
    CastMember,
    Defaults,
    EndCard,
    KeyPath,
    Look,
    Shot,
    Storyboard,
    TransitionIn,
)

IS_MISSING = "is missing"
_MAX_ROUNDS = 6
_PLACEHOLDERS: Mapping[str, Any] = {"title": "-", "shots": [{"prompt": "-"}], "concept": "-", "prompt": "-"}
_HEADS = ("kind", "text", "file")
"""Without these their section says nothing."""
_MISSING: Mapping[str, str] = {
    "prompt": "write prompt: and what is seen",
    "title": "write title: and what the film is called",
    "shots": "write shots: and below it a list of - prompt: ...",
    "concept": "write concept: and the file that cdvideo train made",
    "text": "write text: and the words",
    "file": "write file: and the sound file",
    "kind": "write kind: crossfade, or another transition",
}
_SECTIONS: Mapping[str, type[BaseModel]] = {
    "shots": Shot,
    "cast": CastMember,
    "look": Look,
    "defaults": Defaults,
    "title_card": Card,
    "end_card": EndCard,
    "audio": Audio,
    "transition": TransitionIn,
    "caption": Caption,
}


def formed(values: Mapping[str, Any]) -> tuple[Storyboard | None, list[Trouble], list[KeyPath]]:
    """The storyboard of values in today's form, all that is wrong with them, and the paths of which nothing more should be said.

    What does not fit is left out and the rest tried again, so that the storyboard can be looked at further. None where little is left.
    """
    troubles: dict[KeyPath, Trouble] = {}
    changed: list[KeyPath] = []
    storyboard = None
    for _ in range(_MAX_ROUNDS):
        try:
            storyboard = Storyboard.model_validate(values)
            break
        except ValidationError as refused:
            rest = copy.deepcopy(dict(values))
            for error, path in _located(refused, values):
                at_key = error["type"] == UNKNOWN_KEY or error["loc"][-1:] == ("[key]",)
                emptied = error["type"] == "too_short" and any(one[: len(path)] == path for one in changed)
                if path not in changed and not emptied:
                    troubles.setdefault(path, Trouble(path, *_worded(error, path), at_key=at_key))
                if path:
                    changed.append(_mend(rest, path, at_key=at_key))
            values = rest
    # Of a key that is missing since it is misspelt, one mistake is enough.
    misspelt = {(*path[:-1], _nearest(path)) for path, trouble in troubles.items() if trouble.at_key}
    return storyboard, [trouble for path, trouble in troubles.items() if path not in misspelt or trouble.message != IS_MISSING], changed


def _located(refused: ValidationError, values: Mapping[str, Any]) -> list[tuple[Any, KeyPath]]:
    """What pydantic found, and the path of each in the values."""
    found = []
    for error in refused.errors(include_url=False):
        path = _existing(error["loc"], values)
        if error["type"] == "missing":
            path = (*path, error["loc"][-1])
        elif error["type"] == NO_PROMPT:
            path = (*path, "prompt")
        found.append((error, path))
    return found


def _nearest(path: KeyPath) -> str:
    return next(iter(difflib.get_close_matches(str(path[-1]), _keys(_section(path[:-1])), n=1)), "")


def _existing(location: tuple[str | int, ...], values: Any) -> KeyPath:
    """The part of a location that is a path in the values; pydantic's go on with the names of types."""
    for length, part in enumerate(location):
        inside: Any = values if isinstance(values, dict | list) else {}
        try:
            values = inside[part]
        except (KeyError, IndexError, TypeError):
            return location[:length]
    return location


def _mend(values: dict[str, Any], path: KeyPath, *, at_key: bool) -> KeyPath:
    """Takes out of the values what stands at a path, or puts something harmless there. Returns the path that is no longer as written."""
    *above, last = path
    if len(_existing(tuple(above), values)) < len(above):
        return path
    inside: Any = values
    for part in above:
        inside = inside[part]
    if isinstance(inside, list) and isinstance(last, int):
        if above == ["shots"]:
            inside[last] = {"prompt": "-"}
            return path
        return _mend(values, tuple(above), at_key=False)
    if above and last in _HEADS:
        return _mend(values, tuple(above), at_key=False)
    if isinstance(inside, dict):
        if at_key:
            inside.pop(last, None)
        elif last == "prompts" and "prompt" not in inside:
            inside[last] = {"0": "-"}
        elif last in _PLACEHOLDERS:
            inside[last] = copy.deepcopy(_PLACEHOLDERS[str(last)])
        elif above == ["cast"] and last in inside:
            inside[last] = {"concept": "-"}
        else:
            inside.pop(last, None)
    return path


def _section(path: KeyPath) -> type[BaseModel]:
    """The model whose keys may stand in the mapping at a path."""
    for part in reversed(path):
        if part in _SECTIONS:
            return _SECTIONS[str(part)]
    return Storyboard


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _worded(error: Any, path: KeyPath) -> tuple[str, str]:
    """What pydantic found, and the way out."""
    kind, given, context = error["type"], error.get("input"), error.get("ctx", {})
    last = str(path[-1]) if path else ""
    if kind == UNKNOWN_KEY:
        return "there is no such key", _way_out(path)
    if kind in ("missing", NO_PROMPT):
        return IS_MISSING, _MISSING.get(last, "")
    if path == ("shots",) and not given:
        return "there is no shot", "a film has at least one"
    if path and last == "prompt" and not given:
        return "is empty", "say what is seen"
    if given is None:
        return "is empty", "give it a value, or leave the key out"
    if kind == "value_error":
        message, _, suggestion = error["msg"].removeprefix("Value error, ").partition("; ")
        return message, suggestion
    if isinstance(given, Mapping) and len(given) == 1:
        ((key, value),) = given.items()
        if value is None:
            return f"{{{key}}} without quotes is a mapping", f'write "{{{key}}}"'
        if "camera" in path and isinstance(value, int | float):
            return "is a mapping, because of the space behind the colon", f'write "{key}:{value:g}"'
    shown = _shown(given)
    match kind.rpartition("_")[0] if kind.startswith(("int_", "float_", "bool_")) else kind:
        case "int" | "int_from":
            return f"{shown} is no whole number", ""
        case "float":
            return f"{shown} is no number", ""
        case "bool":
            return f"{shown} is neither true nor false", ""
        case "finite_number":
            return f"{shown} is no finite number", ""
        case "string_type":
            return f"{shown} is no text", "" if isinstance(given, Mapping | list) else "put quotes around it"
        case "greater_than_equal":
            return f"{shown} is too small", f"write at least {context['ge']:g}"
        case "greater_than":
            return f"{shown} is too small", f"write more than {context['gt']:g}"
        case "less_than_equal":
            return f"{shown} is too large", f"write at most {context['le']:g}"
        case "less_than":
            return f"{shown} is too large", f"write less than {context['lt']:g}"
        case "literal_error":
            return f"there is no {shown}", meant(str(given), re.findall(r"'([^']*)'", context["expected"]))
        case "string_pattern_mismatch":
            if "cast" in path:
                return f"{last!r} is no name", "a name is one word that begins with a letter, and has letters, digits, - and _ only"
            return f"{shown} is no colour", 'write it in quotes, such as "#ff8800"'
        case "string_too_short" | "too_short":
            return "is empty", "give it something, or leave it out"
        case "too_long":
            return f"more than {MAX_SHOTS} shots", f"a film has at most {MAX_SHOTS}; split it into several"
        case "list_type" | "tuple_type":
            return f"{shown} is no list", "begin every entry with - in a line of its own"
        case "dict_type" if path == ("cast",):
            return f"{shown} is no cast", "write names, and behind each a colon and its concept file"
        case "dict_type" | "model_type" | "model_attributes_type":
            return f"{shown} is no mapping", f"its keys are: {', '.join(_keys(_section(path)))}" if path else ""
        case "path_type":
            return f"{shown} is no path", "write the name of a file"
    return error["msg"], ""


def _way_out(path: KeyPath) -> str:
    """What may have been meant by a key that is none."""
    *above, last = path
    key, section = str(last), _section(tuple(above))
    if section is Storyboard:
        if key == "concept":
            return "who plays is named in cast"
        if key in OLDER_PLACES:
            return f"{'.'.join(map(str, OLDER_PLACES[key]))} is there already; keep one of them"
        if key in _keys(Defaults):
            return "it belongs under defaults"
        if key in _keys(Look):
            return "it belongs under look"
        if key in _keys(Shot):
            return "it belongs to a shot"
    if section is Shot:
        if key in ("fps", "size"):
            return "it is the same in the whole film; write it under defaults"
        if key == "concept":
            return "name who plays in cast, and in the prompt as {name}"
        if key in _keys(Look):
            return "it is the same in the whole film; write it under look"
        if key == "burn":
            return "write it into the caption: {text: ..., burn: true}"
    if section in (Shot, Defaults) and key in _keys(Storyboard):
        return "it belongs to the top level"
    return meant(key, _keys(section)).replace("there are:", "the keys are:")


def _shown(given: Any) -> str:
    text = "a list" if isinstance(given, list) else "a mapping" if isinstance(given, Mapping) else str(given)
    return text if len(text) <= 40 else f"{text[:39]}…"
