import os
import re
from pathlib import Path

import pytest

from cdvideo.errors import UserError
from cdvideo.storyboard.checking import check
from cdvideo.storyboard.starter import newest_cast, write_starter
from tests.storyboard.headers import header, write_concept, write_silence

FILE = Path("film.yaml")


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def concept(name: str, *class_words: str, age: int, **changes) -> None:
    path = write_concept(Path("concepts") / f"{name}.safetensors", header(*class_words, **changes))
    os.utime(path, (1_000_000 - age, 1_000_000 - age))


def test_without_concepts_a_subject_of_pockets_plays():
    assert write_starter(FILE) == []
    found = check(FILE)
    assert not found.notes and not any(shot.starring for shot in found.plan.shots) and "panda" in found.plan.shots[0].prompt


def test_the_newest_concepts_are_the_cast():
    concept("old", "bear", age=9)
    concept("new", "bear", age=1)
    concept("glasses", "sunglasses", age=2)
    concept("third", "owl", age=3)
    write_starter(FILE)
    found = check(FILE)
    assert [str(member.concept) for member in found.storyboard.cast.values()] == [
        "concepts/new.safetensors",
        "concepts/glasses.safetensors",
    ]
    assert not found.notes and found.plan.shots[2].prompt == "V1* bear and V2* sunglasses on the stage"


def test_what_cannot_play_together_is_passed_over():
    concept("bear", "bear", age=1)
    concept("other", "owl", age=2, fingerprint="0" * 16)
    concept("pair", "cat", "dog", age=3)
    Path("concepts/broken.safetensors").write_bytes(b"x")
    assert [found.name for found in newest_cast(Path("concepts"))] == ["bear"]


SUGGESTED = "style negative size camera transition caption prompts continue takes title_card end_card audio"


@pytest.mark.parametrize("key", SUGGESTED.split())
def test_every_suggestion_in_the_starter_is_right(key, monkeypatch):
    monkeypatch.setattr("cdvideo.storyboard.checking.resource", lambda *_: None)
    concept("bear", "bear", age=1)
    write_silence(Path("music.mp3"))
    write_starter(FILE)
    wanted = "look|style|negative" if key in ("style", "negative") else key
    text, count = re.subn(rf"^( *)# ( *(?:{wanted}):.*)$", r"\1\2", FILE.read_text(), flags=re.MULTILINE)
    assert count
    FILE.write_text(text.replace('- prompt: "{bear} on the stage"', "- frames: 16") if key == "prompts" else text)
    check(FILE)


def test_nothing_is_overwritten():
    FILE.write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        write_starter(FILE)
    assert FILE.read_text() == "mine"
    with pytest.raises(UserError, match="no folder"):
        write_starter(Path("none/film.yaml"))
