"""`cdvideo storyboard` up to the point where pictures are made."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cdvideo.cli import main
from cdvideo.storyboard import slug
from cdvideo.storyboard.schema import schema
from tests.storyboard.headers import header, write_concept

BROKEN = "title: t\nshots:\n  - prompt: a {baer}\n    camra: zoom-in\n"


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def call(*arguments: str):
    result = CliRunner().invoke(main, ["storyboard", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result


def test_from_nothing_to_a_storyboard_that_is_right():
    made = call("init")
    assert made.exit_code == 0 and "wrote storyboard.yaml" in made.output
    said = call("check", "storyboard.yaml")
    assert said.exit_code == 0 and "3 shots, 6 s, 48 frames at 8 a second, base pocket" in said.output
    assert call("init").exit_code == 2


def test_init_says_who_plays():
    write_concept(Path("concepts/bear.safetensors"), header("bear"))
    assert "bear (concepts/bear.safetensors)" in call("init", "film.yaml").output
    assert "with bear" in call("check", "film.yaml").output


@pytest.mark.parametrize("verb", ["check", "render"])
def test_a_broken_storyboard_is_refused_with_all_its_mistakes(verb):
    Path("film.yaml").write_text(BROKEN)
    result = call(verb, "film.yaml")
    assert result.exit_code == 2 and "film.yaml has 2 mistakes" in result.output
    assert "film.yaml:3:13: shots[0].prompt: the cast has no {baer}" in result.output
    assert "film.yaml:4:5: shots[0].camra: there is no such key; did you mean camera?" in result.output
    assert sorted(path.name for path in Path().iterdir()) == ["film.yaml"], "something was made of it"


def test_check_shows_what_is_special_about_a_shot():
    write_concept(Path("concepts/bear.safetensors"), header("bear"))
    Path("film.yaml").write_text(
        "title: A film\ncast: {bear: concepts/bear.safetensors}\ndefaults: {size: 128x64}\ntitle_card: Hello\nshots:\n"
        '  - {prompt: "a {bear}", seed: 3, takes: 2}\n  - {prompt: night, camera: own/move, transition: crossfade, continue: true}\n'
    )
    output = call("check", "film.yaml").output
    assert "A film: 2 shots, 5.5 s, 44 frames at 8 a second, 128x64 pixels, base pocket" in output
    assert "seed 3  with bear" in output and "a V* bear  (2 takes)" in output
    assert "(crossfade of 4, own/move, continues)" in output and "title card: Hello (16 frames)" in output


def test_schema_is_json():
    assert json.loads(call("schema").output) == schema()


def test_a_long_title_makes_no_long_name():
    Path("film.yaml").write_text(f"title: {'é' * 300}\nshots: [prompt: a bear]\n")
    assert slug("é" * 300) == "é" * 60 and slug("…") == "film" and slug("A bear's day") == "a-bear-s-day"
    assert call("check", "film.yaml").exit_code == 0


@pytest.mark.parametrize(("only", "words"), [("", "these are no shots"), ("two", "these are no shots"), ("1,7", "there is no shot 7")])
def test_shots_that_there_are_not(only, words):
    call("init", "film.yaml")
    result = call("render", "film.yaml", "--only", only)
    assert result.exit_code == 2 and words in result.output and "--only" in result.output
