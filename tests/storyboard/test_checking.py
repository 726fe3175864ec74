"""Every mistake of a storyboard at once: what is said, and where."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageFont

import cdvideo.storyboard
from cdvideo.resources import resource
from cdvideo.storyboard.checking import check, read_storyboard
from cdvideo.storyboard.mistakes import BrokenStoryboard
from tests.storyboard.headers import header, write_concept, write_silence

STORIES = sorted(resource("configs", "storyboards").glob("*.yaml"))


@pytest.fixture(autouse=True)
def in_a_folder_with_concepts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for word in ("bear", "sunglasses"):
        write_concept(Path(f"concepts/{word}.safetensors"), header(word))


def checked(text: str):
    Path("film.yaml").write_text(text)
    return check(Path("film.yaml"))


def mistakes_of(text: str) -> list[str]:
    with pytest.raises(BrokenStoryboard) as refused:
        checked(text)
    return [str(mistake) for mistake in refused.value.mistakes]


def film(shot: str, *, cast: str = "{bear: concepts/bear.safetensors}", more: str = "") -> str:
    return f"title: t\ncast: {cast}\n{more}shots:\n  - {shot}\n"


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.name)
def test_the_shipped_storyboards_are_right(path):
    found = check(path)
    assert len(found.plan.shots) >= 3 and not found.notes and all(shot.starring for shot in found.plan.shots)


def test_the_bears_journey_is_told_in_the_words_that_it_was_tuned_with():
    shots = check(resource("configs", "storyboards", "bear.yaml")).plan.shots
    assert [(shot.prompt, shot.seed) for shot in shots] == [
        ("a V* bear reading a book on the grass", 13),
        ("a V* bear using a laptop to write a book at night", 6),
        ("a V* bear wearing sunglasses on the beach", 3),
        ("a V* bear with a golden trophy on stage under moving lights", 2),
    ]


def test_all_mistakes_are_said_at_once_in_the_order_of_the_file():
    text = """\
titel: Two bears
cast:
  bear: concepts/baer.safetensors
fps: 0
defaults: {transition: crossfde}
shots:
  - prompt: a {baer} reading
    camra: zoom-in
    seed: -1
  - promt: x
  - {prompt: b, start: none.png, keep: 2}
  - just text
audio: none.mp3
"""
    assert [mistake.partition(";")[0] for mistake in mistakes_of(text)] == [
        "film.yaml:1:1: titel: there is no such key",
        "film.yaml:3:9: cast.bear.concept: there is no concept concepts/baer.safetensors",
        "film.yaml:4:6: fps: 0 is too small",
        "film.yaml:5:24: defaults.transition: there is no crossfde",
        "film.yaml:7:13: shots[0].prompt: the cast has no {baer}",
        "film.yaml:8:5: shots[0].camra: there is no such key",
        "film.yaml:9:11: shots[0].seed: -1 is too small",
        "film.yaml:10:5: shots[1].promt: there is no such key",
        "film.yaml:11:24: shots[2].start: there is no picture none.png",
        "film.yaml:11:40: shots[2].keep: take 2 is kept of one take",
        "film.yaml:12:5: shots[3]: just text is no mapping",
        "film.yaml:13:8: audio.file: there is no sound none.mp3",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (film("{prompt: a, camra: zoom-in}"), "film.yaml:4:17: shots[0].camra: there is no such key; did you mean camera?"),
        (film("{prompt: a, fps: 4}"), "it is the same in the whole film; write it under defaults"),
        (film("{prompt: a, style: b}"), "write it under look"),
        (film("{prompt: a, burn: true}"), "write it into the caption"),
        (film("{prompt: a, concept: b}"), "name who plays in cast, and in the prompt as {name}"),
        (film("{prompt: a, audio: b}"), "it belongs to the top level"),
        (film("{prompt: a}", more="seed: 1\n"), "seed: there is no such key; it belongs under defaults"),
        (film("{prompt: a}", more="style: x\n"), "it belongs under look"),
        (film("{prompt: a}", more="prompt: x\n"), "it belongs to a shot"),
        (film("{prompt: a}", more="concept: x\n"), "who plays is named in cast"),
        (film("{prompt: a}", more="fps: 8\ndefaults: {fps: 8}\n"), "fps: there is no such key; defaults.fps is there already"),
        (film("{prompt: a}", more="colour: red\n"), "the keys are: title, cast"),
        (film("prompt:"), "shots[0].prompt: is missing; write prompt:"),
        (film("prompt: {bear}"), 'shots[0].prompt: {bear} without quotes is a mapping; write "{bear}"'),
        (film("{prompt: a, camera: [pan-left: 0.6]}"), 'because of the space behind the colon; write "pan-left:0.6"'),
        (film("{prompt: a, camera: zoom-inn}"), "there is no camera move called 'zoom-inn'; did you mean 'zoom-in'?"),
        (film('{prompt: a, camera: "zoom-in:inf"}'), "inf is no strength of a camera move"),
        (film("{prompt: a, seed: many}"), "many is no whole number"),
        (film("{prompt: a, guidance: .nan}"), "nan is no finite number"),
        (film("{prompt: a, frames: 5000}"), "5000 is too large; write at most 4096"),
        (film("{prompt: a, continue: maybe}"), "maybe is neither true nor false"),
        (film("{prompt: a, strengths: {bear: much}}"), "write one number, or frames and values"),
        (film("{prompt: a, strengths: {bear: 9}}"), "9 is too large"),
        (film("{prompt: a, frames: 3, seconds: 2}"), "shots[0].seconds: there is frames already; leave one of them out"),
        (film("{prompt: a, transition: {kind: cut, seconds: 1}}"), "a cut takes no time; leave the seconds out"),
        (film("{prompt: a, transition: {seconds: 1}}"), "shots[0].transition.kind: is missing; write kind: crossfade"),
        (film("{prompts: {x: a}}"), "shots[0].prompts.x: x is no whole number"),
        (film("{prompt: a, start: film.yaml}"), "film.yaml is no picture; give a PNG"),
        (film("{prompt: a, start: concepts}"), "concepts is no file; name the picture itself"),
        (film("{prompt: a, start: /etc/hostname}"), "/etc/hostname lies outside the project"),
        (film("prompt: a", cast="{bear: ../bear.safetensors}"), "../bear.safetensors lies outside the project"),
        (film("prompt: a", cast='{bear: "con\\0cepts\\e[2J"}'), "there is no concept con?cepts?[2J"),
        (film("prompt: a", cast=f"{{bear: {'a' * 5000}}}"), "there is no concept a"),
        (film("prompt: a", cast="{bear: film.yaml}"), "film.yaml is not a safetensors file"),
        (film("prompt: a", cast="{bear: {concept: concepts/bear.safetensors, class: owl}}"), "cast.bear.class: concepts/bear.safetensors"),
        (film("prompt: a", cast='{"a bear": concepts/bear.safetensors}'), "'a bear' is no name; a name is one word"),
        (film("prompt: a", more="base: pokket\n"), "there is no base called 'pokket'; did you mean 'pocket'?"),
        (film("prompt: a", more="motion: v9\n"), "there is no motion module called 'v9'"),
        (film("prompt: a", more="title_card: {colour: red}\n"), 'red is no colour; write it in quotes, such as "#ff8800"'),
        (film("prompt: a", more="font: none.ttf\n"), "film.yaml:3:7: font: there is no font none.ttf"),
        (film("prompt: a", more="font: film.yaml\n"), "film.yaml:3:7: font: film.yaml cannot be used as a font: it is no font"),
        (film("prompt: a", more="font: ../x.ttf\n"), "film.yaml:3:7: font: ../x.ttf lies outside the project"),
        (film("prompt: a", more="look: {lora: ink.safetensors}\n"), "3:14: look.lora[0]: there is no LoRA ink.safetensors; it is"),
        (film("prompt: a", more="look: {lora: [../ink.safetensors]}\n"), "look.lora[0]: ../ink.safetensors lies outside the project"),
        (film("prompt: a", more='look: {lora: ["concepts/bear.safetensors:inf"]}\n'), "look.lora[0]: inf is no strength of a LoRA"),
        (film("prompt: a", more="look: {lora: animatelm}\n"), "there is no LoRA called 'animatelm'; did you mean 'animatelcm'?"),
        (film("prompt: a", more="defaults: {size: 500x300}\n"), "is no multiple of 8 on both sides; write 496x304"),
        (film("prompt: a {bear}", cast="concepts/bear.safetensors"), "cast: concepts/bear.safetensors is no cast; write names"),
        ("title: t\nshots: []\n", "film.yaml:2:8: shots: there is no shot; a film has at least one"),
        ("title: t\nshots:\n", "shots: there is no shot"),
        ("title: t\n", "film.yaml:1:1: shots: is missing; write shots:"),
        ("title: t\nshots: {prompt: a}\n", "a mapping is no list; begin every entry with -"),
        ("title: true\nshots: [{prompt: a}]\n", "title: True is no text; put quotes around it"),
        ("title: t\nshots: [" + "{prompt: a}," * 1001 + "]\n", "more than 1000 shots; a film has at most 1000; split it"),
        ("title: t\nconcept: [concepts/bear.safetensors, x]\nshots: [{prompt: a V1* bear}]\n", "film.yaml:2:38: concept[1]: there is no"),
    ],
)  # fmt: skip
def test_a_mistake_has_one_message_with_the_way_out(text, said):
    (mistake,) = mistakes_of(text)
    assert said in mistake


def test_a_start_picture_that_ends_early_is_found():
    Image.effect_noise((64, 64), 50).save("whole.png")
    Path("half.png").write_bytes(Path("whole.png").read_bytes()[:1500])
    (found,) = mistakes_of(film("{prompt: a, start: half.png}"))
    assert "half.png is damaged" in found
    checked(film("{prompt: a, start: whole.png}"))


def test_control_characters_are_refused():
    found = mistakes_of('title: "Red \\e[31m"\nshots:\n  - {prompt: "a\\tbear", caption: "one\\ntwo"}\n  - prompt: "a bear \\a"\n')
    assert [mistake.partition(": ")[2][:10] for mistake in found] == ["title: no ", "shots[1].p"] and "U+001B" in found[0]


def test_the_usual_short_forms_are_right():
    Image.new("RGB", (8, 8)).save("start.png")
    write_silence(Path("music.mp3"))
    found = checked(
        film(
            "{prompt: 'a {bear}', start: start.png, caption: Hi, camera: [a/hub-id, 'a/hub-id:0.5']}\n  - {prompt: b, transition: wipe}",
            more="audio: music.mp3\ntitle_card: Hello\n",
        )
    )
    assert found.plan.shots[0].start == Path("start.png") and found.plan.num_frames == 16 + 16 + 16 - 4


def test_a_camera_move_that_is_too_strong_is_said():
    (found,) = mistakes_of(film("{prompt: a, camera: zoom-in:12}"))
    assert "12 is no strength of a camera move" in found


def test_a_sound_that_cannot_be_read_is_said():
    Path("music.mp3").write_text("echo hello")
    (found,) = mistakes_of(film("{prompt: a}", more="audio: music.mp3\n"))
    assert "audio.file" in found and "cannot be read as a sound" in found


@pytest.mark.parametrize("words", ["title_card: Ünï ⿿\n", "title_card: Hello\n"])
def test_words_that_no_font_at_hand_draws_are_said(words, monkeypatch):
    monkeypatch.setattr("cdvideo.storyboard.cards._SYSTEM_FONTS", ())
    text = film("{prompt: a}", more=words)
    if words.isascii():
        checked(text)
    else:
        (found,) = mistakes_of(text)
        assert "no font at hand has" in found and "U+2FFF" in found


def test_the_films_own_font_draws_its_words():
    own = ImageFont.load_default(20)
    assert isinstance(own, ImageFont.FreeTypeFont)
    Path("own.ttf").write_bytes(own.font_bytes)
    found = checked(film("prompt: a", more="font: own.ttf\ntitle_card: Hello\n"))
    assert found.plan.font == Path("own.ttf") and found.plan.drawn_texts == ["Hello", ""]
    (mistake,) = mistakes_of(film("{prompt: a, caption: {text: 漢, burn: true}}", more="font: own.ttf\n"))
    assert "film.yaml:3:7: font: own.ttf cannot draw the titles and captions: it has no 漢 (U+6F22)" in mistake


def test_concepts_of_different_bases_cannot_meet():
    write_concept(Path("concepts/owl.safetensors"), header("owl", fingerprint="0" * 16, base="sd15"))
    (mistake,) = mistakes_of(film("prompt: a", cast="{bear: concepts/bear.safetensors, owl: concepts/owl.safetensors}"))
    assert "cast.owl.concept: concepts/owl.safetensors was made for another base (sd15) than that of bear (pocket)" in mistake


def test_concepts_and_motion_modules_are_of_the_films_base():
    (concept, motion) = mistakes_of(film("prompt: a {bear}", more="base: sd15\nmotion: pocket\n"))
    assert "cast.bear.concept: concepts/bear.safetensors was trained on pocket, and the film's base is sd15" in concept
    assert "motion: pocket is a motion module for pocket, and the film's base is sd15" in motion
    (motion,) = mistakes_of(film("prompt: a {bear}", more="motion: v3\n"))
    assert "v3 is a motion module for sd15" in motion
    assert not checked(film("prompt: a bear", cast="{}", more="base: sd15\nmotion: v3\n")).notes


def test_a_concept_that_tunes_the_whole_unet_plays_alone():
    write_concept(Path("concepts/owl.safetensors"), header("owl"), weights=("conv_in.weight",))
    cast = "{bear: concepts/bear.safetensors, owl: concepts/owl.safetensors}"
    assert checked(film("prompt: an {owl}", cast=cast)).plan.shots[0].starring
    (mistake,) = mistakes_of(film("prompt: an {owl} and a {bear}", cast=cast))
    assert "shots[0]: owl cannot share a picture with another" in mistake


def test_what_looks_forgotten_is_a_note_and_no_mistake():
    cast = "{bear: concepts/bear.safetensors, glasses: concepts/sunglasses.safetensors}"
    notes = checked(film("prompt: a {bear} bear\n  - {prompt: a beach, starring: bear}", cast=cast)).notes
    assert notes == (
        "glasses plays in no shot; name it in a prompt as {glasses}",
        "shots[0] says bear twice: {bear} becomes V* bear",
        "shots[1] stars bear, whom its prompt does not name",
    )


def test_text_that_yaml_reads_otherwise_is_a_note():
    text = film('{prompt: "a bear", seed: 3} #three', more="title_card:\n  text: Chapter #1 # of two\n  background: #000000\n")
    text += "  - prompt: “a fox”  # a fox\n  - prompt: 'a cat #1'\n    caption: “A fox!”\n"
    assert [note.partition(";")[0] for note in checked(text).notes if "film.yaml" in note] == [
        "film.yaml:4:9: title_card.text: #1 # of two is read as a comment",
        "film.yaml:5:14: title_card.background: #000000 is read as a comment",
        "film.yaml:8:13: shots[1].prompt: the curly quotes are part of the prompt",
    ]
    (mistake,) = mistakes_of(film("prompt: a", more="title_card: {text: a, background: #000000}\n"))
    assert mistake.startswith("film.yaml:3:35: #000000} is read as a comment") and '"#000000"' in mistake


@pytest.mark.parametrize(
    ("shot", "said"),
    [
        ('prompt: a\n    caption: "Take #1"\n   seed: 3', "check the indentation"),
        ('prompt: a\n    caption: "Take #1', "never closed"),
        ("prompt: a   #first shot\n   seed: 3", "check the indentation"),
        ("{prompt: 'a #1 day', seed 3: 4, : 5", "check the indentation"),
    ],
)
def test_other_mistakes_are_not_blamed_on_a_number_sign(shot, said):
    (mistake, *_) = mistakes_of(film(shot))
    assert said in mistake and "comment" not in mistake


def test_notes_of_what_stands_once_are_said_once():
    text = film("&shot {prompt: a bear}") + "  - &card\n    prompt: b\n    caption: Take #1\n  - *card\n  - <<: *card\n    seed: 3\n"
    assert [note.partition(": ")[0] for note in checked(text).notes if "comment" in note] == ["film.yaml:7:14"]


def test_a_card_that_never_stands_is_a_note():
    more = "defaults: {transition: {kind: crossfade, seconds: 0.5}}\nend_card: {text: Fin, seconds: %s}\n"
    never, stands = (checked(film("prompt: a {bear}", more=more % seconds)).notes for seconds in ("0.5", "0.75"))
    assert [note.partition(":")[0] for note in never] == ["the end card never stands"] and not stands


def test_a_bare_name_is_a_concept_of_the_folder():
    Path("bear").mkdir()
    (role,) = checked(film("prompt: a {bear}", cast="{bear: bear}")).plan.shots[0].starring
    assert role.concept == Path("concepts/bear.safetensors")
    (mistake,) = mistakes_of(film("prompt: a {fox}", cast="{fox: fox}"))
    assert "there is no concept fox" in mistake and "--out concepts/fox.safetensors" in mistake


def test_a_caption_that_no_font_draws_is_said_at_the_caption():
    (mistake,) = mistakes_of(film("prompt: a") + "  - prompt: b\n    caption: {text: \U000fffff, burn: true}\n")
    assert mistake.startswith("film.yaml:6:14: shots[1].caption: ")


def test_one_mistake_is_not_said_twice():
    assert len(mistakes_of("title: !x t\nshots: [{prompt: a}]\n")) == 1
    assert len(mistakes_of("titel: t\nshots: [{prompt: a}]\n")) == 1
    assert len(mistakes_of("title: t\nshots: [{promt: a}]\n")) == 1


def test_of_many_mistakes_the_first_are_shown():
    with pytest.raises(BrokenStoryboard) as refused:
        checked("title: t\nshots:\n" + "  - {prompt: a, x: 1}\n" * 80)
    assert len(refused.value.mistakes) == 80 and str(refused.value).endswith("and 30 more")


def test_a_storyboard_is_read_without_what_it_names():
    Path("film.yaml").write_text(film("prompt: a {bear}", cast="{bear: none.safetensors}"))
    assert read_storyboard(Path("film.yaml")).cast["bear"].concept == Path("none.safetensors")
    Path("film.yaml").write_text(film("promt: a"))
    with pytest.raises(BrokenStoryboard):
        read_storyboard(Path("film.yaml"))


def test_checking_imports_nothing_that_renders():
    heavy = {"torch", "numpy", "diffusers", "transformers", "av", "PIL", "einops", "tqdm", "safetensors", "huggingface_hub"}
    code = (
        "import sys\nfrom cdvideo.cli import main\n"
        f"try: main(['storyboard', 'check', {str(STORIES[0])!r}])\nexcept SystemExit as end: assert not end.code\n"
        f"assert not {heavy!r} & set(sys.modules), {heavy!r} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_every_mistake_of_a_long_film_is_found():
    shots = "".join(f"  - {{prompt: 'a {{bear}} {number}', camra: zoom-in}}\n" for number in range(300))
    assert len(mistakes_of(f"title: t\ncast: {{bear: concepts/bear.safetensors}}\nshots:\n{shots}")) == 300


def test_the_example_that_is_explained_is_right():
    text = re.search(r"```yaml\n(.*?)```", Path(cdvideo.storyboard.__file__).with_name("README.md").read_text(), re.DOTALL)
    write_silence(Path("sea.mp3"))
    plan = checked(text[1]).plan
    assert len(plan.shots) == 3 and plan.shots[2].continues and plan.num_frames == 16 + 3 * 16 - 4 * 4 + 16
