"""The storyboard's JSON Schema, by which editors complete and check the file as it is typed. Imports no torch."""

from __future__ import annotations

import json
from typing import Any

from cdvideo.storyboard.script import Storyboard

_INCLUDE = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    "description": "files of the same folder, or below it, that are read as if they stood here; their shots come first",
}
_INCLUDED = "The storyboard of a film. A file that another includes may leave title and shots out."


def schema() -> dict[str, Any]:
    """The schema of today's form; files of cdvideo 0.1 are read all the same."""
    whole = Storyboard.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_without_titles(whole),
        "title": "cdvideo storyboard",
        "description": _INCLUDED,
        "properties": {"include": _INCLUDE, **_without_titles(whole["properties"])},
        "patternProperties": {"^x-": {"description": "holds anchors (&name) for use elsewhere; otherwise passed over"}},
        "required": [],
    }


def schema_text() -> str:
    """The schema as it lies in `configs/storyboards/schema.json`."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _without_titles(part: Any) -> Any:
    """The schema without pydantic's titles, which only repeat the keys."""
    if isinstance(part, list):
        return [_without_titles(one) for one in part]
    if isinstance(part, dict):
        return {key: _without_titles(value) for key, value in part.items() if not (key == "title" and isinstance(value, str))}
    return part
