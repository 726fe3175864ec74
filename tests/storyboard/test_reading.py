"""From a file to values and places: YAML's own traps, and other people's files."""

import itertools
import json
from pathlib import Path

import pytest

from cdvideo.errors import UserError
from cdvideo.storyboard.mistakes import BrokenStoryboard
from cdvideo.storyboard.reading import MAX_BYTES, read_source

SHOTS = "title: t\nshots: [{prompt: a}]\n"


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Reads this text, or these bytes, as film.yaml in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def read_it(content: str | bytes, **others: str):
        for name, text in others.items():
            Path(f"{name}.yaml").write_text(text)
        Path("film.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
        return read_source(Path("film.yaml"))

    return read_it


def mistake_of(call, *arguments, **others) -> str:
    with pytest.raises(BrokenStoryboard) as refused:
        call(*arguments, **others)
    (mistake,) = refused.value.mistakes
    return str(mistake)


def test_scalars_are_those_of_yaml_1_2(read):
    text = "a: no\nb: on\nc: 2020-01-01\nd: 0:1.0\ne: 12:30\nf: 1e3\ng: true\nh: ~\ni:\nj: '7'\nk: 007\nl: .inf\nm: 1_000\n"
    expected = ["no", "on", "2020-01-01", "0:1.0", "12:30", 1000.0, True, None, None, "7", 7, float("inf"), "1_000"]
    assert list(read(text).content.values()) == expected


def test_json_is_yaml(read):
    content = {"title": "t", "shots": [{"prompt": "a", "seed": 3, "camera": ["x"], "burn": False, "start": None}]}
    assert read(json.dumps(content)).content == content


def test_keys_and_values_have_places(read):
    source = read("title: t\nshots:\n  - prompt: a\n    seed: 3\n")
    assert str(source.place(("shots", 0, "seed"))) == "film.yaml:4:11"
    assert str(source.place(("shots", 0, "seed"), key=True)) == "film.yaml:4:5"
    assert str(source.place(("shots", 0, "frames"))) == "film.yaml:3:5", "what is missing is in its shot"


def test_anchors_and_merge_keys(read):
    source = read("x-night: &night {seed: 3, camera: zoom-in}\nshots:\n  - {prompt: a, <<: *night}\n  - {<<: *night, seed: 4, prompt: b}\n")
    assert source.content == {"shots": [{"prompt": "a", "seed": 3, "camera": "zoom-in"}, {"seed": 4, "prompt": "b", "camera": "zoom-in"}]}
    assert not source.mistakes
    assert source.place(("shots", 0, "seed")).line == 1 and source.place(("shots", 1, "seed")).line == 4


def test_a_byte_order_mark_is_no_part_of_the_title(read):
    assert read(b"\xef\xbb\xbf" + SHOTS.encode()).content["title"] == "t"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"title: caf\xe9\n", "film.yaml:1:11: the byte 0xe9 is no UTF-8"),
        (SHOTS.encode("utf-16"), "UTF-16; save it as UTF-8"),
        ("title: t\nlook: \x00\n", "film.yaml:2:7: a character here is no text"),
        ("", "the file is empty"),
        ("- a\n", "is no list of `key: value` lines"),
        ("shots:\n\t- prompt: a\n", "film.yaml:2:1: a tab"),
        ("shots:\n  - prompt: {bear} reading\n", 'film.yaml:2:20: text that begins with { needs quotes; write prompt: "{bear} reading"'),
        ('shots:\n  - {bear} says "no"\n', r'write "{bear} says \"no\""'),
        ("shots:\n  - {prompt: a {bear}}\n", "needs quotes inside [ ] and { }"),
        ("shots:\n  - prompt: the bear: a story\n", 'write prompt: "the bear: a story"'),
        ("shots:\n  - prompt: @home\n", 'write prompt: "@home"'),
        ("shots:\n  - prompt: *bear reads\n", 'needs quotes: prompt: "*bear reads"'),
        ('title: "t\nshots:\n  - prompt: a\n', "film.yaml:1:8: the quote that begins here is never closed"),
        ("shots:\n  - prompt: a\n     seed: 3\n", "film.yaml:3:10: a key is not expected here; check the indentation"),
        ("shots:\n  - prompt: a\n   seed: 3\n", "film.yaml:3:4: the line does not fit to those before"),
        ("title: t\n---\nshots: []\n", "film.yaml:2:1: a second document"),
        ('title: "\\d"\n', "no such escape"),
        ("title: " + "[" * 5000, "nested too deeply"),
    ],
)
def test_what_is_no_yaml_says_what_to_write(read, content, said):
    assert said in mistake_of(read, content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("title: t\ntitle: u\n", "film.yaml:2:1: title: is there twice, first in line 1"),
        ("shots: &s\n  - *s\n", "holds an alias of itself"),
        ("x-a: &a {b: &b {c: *a}}\n", "holds an alias of itself"),
        ("x-a: &a\n  b: 1\n  <<: *a\n", "holds an alias of itself"),
        ("x-a: &a [1]\ntitle: t\nlook: {<<: *a}\n", "<< takes an alias of a mapping"),
        ("title: !!python/object/apply:os.system [echo]\n", "film.yaml:1:8: title: the tag !!python/object/apply:os.system is not read"),
        ("title: !mine x\n", "the tag !mine is not read"),
        ("{a: b}: c\n", "a key is a word"),
        ("include: ../film.yaml\n", "lies outside the storyboard's folder"),
        ('include: "a\\0b"\n', "named by its path"),
        (f"include: {'a' * 5000}\n", "there is no file"),
        ("include: /etc/hostname\n", "lies outside the storyboard's folder"),
        ("include: [none.yaml]\n", "include[0]: there is no file none.yaml"),
        ("include: [3]\n", "named by its path"),
        ("include: film.yaml\n", "the files include each other: film.yaml -> film.yaml"),
    ],
)
def test_what_is_yaml_but_no_storyboard_is_noted_and_reading_goes_on(read, content, said):
    (mistake,) = read(content + "audio: a.mp3\n").mistakes
    assert said in str(mistake)


def test_aliases_that_unfold_without_end_are_refused(read):
    letters = "abcdefghij"
    bomb = "x-a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"x-{after}: &{after} [{','.join([f'*{before}'] * 10)}]\n" for before, after in itertools.pairwise(letters)
    )
    assert "unfolds into more than 50,000 entries" in mistake_of(read, bomb)


def test_merges_that_unfold_without_end_are_refused(read):
    letters = "abcdefg"
    bomb = "x-a: &a {one: 1}\n" + "".join(
        f"x-{after}: &{after} {{<<: [{','.join([f'*{before}'] * 20)}]}}\n" for before, after in itertools.pairwise(letters)
    )
    assert "unfolds into more than 50,000 entries" in mistake_of(read, bomb)


@pytest.mark.parametrize(
    "content",
    ["x: " + "[" * 90 + "]" * 90 + "\n", "x-0: &a0 {one: 1}\n" + "".join(f"x-{n}: &a{n} {{<<: *a{n - 1}}}\n" for n in range(1, 90))],
    ids=["lists", "merges"],
)
def test_what_lies_too_deep_is_refused(read, content):
    assert "more than 50 deep" in mistake_of(read, content)


def test_the_limit_of_entries_is_that_of_all_files_together(read, monkeypatch):
    monkeypatch.setattr("cdvideo.storyboard.reading.MAX_ENTRIES", 100)
    some = "shots: [" + "{prompt: a}," * 20 + "]\n"
    read("include: [a.yaml, a.yaml]\n", a=some)
    with pytest.raises(BrokenStoryboard, match="unfolds"):
        read("include: [a.yaml, a.yaml, a.yaml]\n", a=some)


def test_files_of_an_absurd_size_are_not_even_parsed(read):
    with pytest.raises(UserError, match="too large"):
        read("# " + "x" * MAX_BYTES)


@pytest.mark.parametrize("name", ["none.yaml", ".", "/dev/null"])
def test_what_is_no_file_is_said(name):
    with pytest.raises(UserError, match=r"no such file|is no file"):
        read_source(Path(name))


def test_included_files_come_first_and_give_way(read):
    source = read(
        "include: [cast.yaml, act.yaml]\ntitle: mine\ndefaults: {fps: 4}\nshots:\n  - prompt: last\n",
        cast="title: theirs\ncast: {bear: bear.safetensors}\ndefaults: {fps: 8, steps: 5}\n",
        act="cast: {owl: owl.safetensors}\nshots:\n  - prompt: first\n  - prompt: second\n",
    )
    assert source.content == {
        "title": "mine",
        "cast": {"bear": "bear.safetensors", "owl": "owl.safetensors"},
        "defaults": {"fps": 4, "steps": 5},
        "shots": [{"prompt": "first"}, {"prompt": "second"}, {"prompt": "last"}],
    }
    assert [str(source.place(("shots", number, "prompt"))) for number in range(3)] == ["act.yaml:3:13", "act.yaml:4:13", "film.yaml:5:13"]
    assert str(source.place(("defaults", "steps"))) == "cast.yaml:3:27" and str(source.place(("defaults", "fps"))) == "film.yaml:3:17"


def test_an_included_file_may_include_another_but_not_in_a_circle(read):
    assert read("include: a.yaml\n", a="include: b.yaml\n", b="title: far\n").content == {"title": "far"}
    (mistake,) = read("include: a.yaml\n", a="include: b.yaml\n", b="include: a.yaml\n").mistakes
    assert "a.yaml -> b.yaml -> a.yaml" in str(mistake) and mistake.place.file == Path("b.yaml")


def test_a_long_row_of_includes_is_cut(read):
    files = {f"f{number}": f"include: f{number + 1}.yaml\n" for number in range(20)}
    (mistake,) = read("include: f0.yaml\n", **files).mistakes
    assert "more than 8 files" in str(mistake)


def test_a_link_out_of_the_folder_is_not_followed(read, tmp_path_factory):
    secret = tmp_path_factory.mktemp("other") / "secret.yaml"
    secret.write_text("title: secret\n")
    Path("link.yaml").symlink_to(secret)
    source = read("include: link.yaml\n")
    assert "lies outside" in str(source.mistakes[0]) and not source.content


def test_a_mistake_in_an_included_file_has_its_place_there(read):
    assert "a.yaml:2:1: a tab" in mistake_of(read, "include: a.yaml\n", a="x:\n\t- y\n")
