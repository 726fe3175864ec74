"""The schema that editors check storyboards by."""

import json
import re

import pytest
import yaml

from cdvideo.resources import resource
from cdvideo.storyboard.schema import schema, schema_text

STORIES = sorted(resource("configs", "storyboards").glob("*.yaml"))
KINDS = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict, "null": type(None)}


def fits(value, part, root) -> bool:
    """Whether a value is what a part of the schema says, as far as storyboards need it."""
    if "$ref" in part:
        return fits(value, root["$defs"][part["$ref"].rpartition("/")[2]], root)
    if "anyOf" in part and not any(fits(value, one, root) for one in part["anyOf"]):
        return False
    if "type" in part and (not isinstance(value, KINDS[part["type"]]) or (isinstance(value, bool) and part["type"] != "boolean")):
        return False
    if "enum" in part and value not in part["enum"]:
        return False
    if isinstance(value, list) and "items" in part:
        return all(fits(one, part["items"], root) for one in value)
    if isinstance(value, dict) and part.get("type") == "object":
        named, patterns, others = part.get("properties", {}), part.get("patternProperties", {}), part.get("additionalProperties", True)
        if not set(part.get("required", [])) <= set(value):
            return False
        for key, inside in value.items():
            wanted = named.get(key) or next((one for pattern, one in patterns.items() if re.search(pattern, key)), others)
            if wanted is False or (isinstance(wanted, dict) and not fits(inside, wanted, root)):
                return False
    return True


def test_the_file_is_what_the_models_say():
    written = resource("configs", "storyboards", "schema.json").read_text(encoding="utf-8")
    assert json.loads(written) == schema(), "write it again: cdvideo storyboard schema > configs/storyboards/schema.json"
    assert written == schema_text()


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.name)
def test_the_shipped_storyboards_name_it_and_fit_it(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")
    assert fits(yaml.safe_load(text), schema(), schema())


@pytest.mark.parametrize(
    ("board", "right"),
    [
        ({"title": "t", "shots": [{"prompt": "a"}], "include": "b.yaml", "x-night": {"any": 1}}, True),
        ({"title": "t", "shots": [{"prompt": "a", "camera": "zoom-in", "transition": "wipe", "caption": {"text": "a"}}]}, True),
        ({"title": "t", "shots": [{"prompt": "a", "strengths": {"bear": "0:1.0, 4:0.5"}, "keep": 2}]}, True),
        ({"title": "t", "cast": {"bear": {"concept": "a", "class": "b"}}, "audio": "a.mp3", "end_card": "Bye"}, True),
        ({"title": "t", "shots": [{"prompt": "a", "camra": "zoom-in"}]}, False),
        ({"title": "t", "shots": [{"prompt": "a", "seed": "many"}]}, False),
        ({"title": "t", "shots": [{"prompt": "a", "travel": "fast"}]}, False),
        ({"title": "t", "colour": "red"}, False),
    ],
    ids=str,
)
def test_it_tells_right_from_wrong(board, right):
    assert fits(board, schema(), schema()) is right


def test_every_key_is_described():
    def lacking(part):
        return [key for key, one in part.get("properties", {}).items() if not one.get("description")]

    models = [one for part in schema()["$defs"].values() for one in [part, *part.get("anyOf", [])]]
    assert not [key for part in [schema(), *models] for key in lacking(part)]
