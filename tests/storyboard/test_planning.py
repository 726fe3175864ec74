"""From a storyboard to all that decides its film."""

import time
from pathlib import Path

import pytest

from cdvideo.errors import UserError
from cdvideo.storyboard.planning import plan_film
from cdvideo.storyboard.script import Storyboard
from cdvideo.storyboard.timing import timeline
from tests.storyboard.headers import header, write_concept


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def plan(*shots, **board):
    values = {"title": "t", "shots": [{"prompt": "a", **shot} for shot in shots], **board}
    return plan_film(Storyboard.model_validate(values), Path("film.yaml"))


def said_of(*shots, **board) -> str:
    with pytest.raises(UserError) as refused:
        plan(*shots, **board)
    return str(refused.value)


def test_a_shot_is_as_the_defaults_unless_it_says_otherwise():
    common = {"fps": 10, "size": "128x64", "frames": 8, "seed": 7, "steps": 5, "guidance": 3, "camera": "zoom-in", "takes": 2}
    own = {"seed": 0, "frames": 4, "steps": 6, "guidance": 0, "negative": "", "camera": [], "takes": 1, "travel": "hold"}
    first, second = plan({}, own, defaults=common, look={"negative": "blurry"}).shots
    assert (first.num_frames, first.seed, first.num_inference_steps, first.guidance_scale, first.negative) == (8, 7, 5, 3, "blurry")
    assert (first.cameras, first.takes, first.keep, first.travel) == (("zoom-in",), 2, "best", "linear")
    assert (second.num_frames, second.seed, second.num_inference_steps, second.guidance_scale, second.negative) == (4, 0, 6, 0, "")
    assert (second.cameras, second.takes, second.travel) == ((), 1, "hold")
    assert {(shot.fps, shot.size) for shot in (first, second)} == {(10, (128, 64))}


def test_what_nobody_says_is_the_bases_own():
    (shot,) = plan({}).shots
    assert (shot.size, shot.negative, shot.guidance_scale, shot.num_inference_steps) == (None, None, None, None)
    assert (shot.num_frames, shot.fps, shot.seed, shot.number, shot.prompts) == (16, 8, 0, 1, {0: "a"})


@pytest.mark.parametrize(
    ("defaults", "shot", "frames"),
    [
        ({"seconds": 1.5}, {}, 12),
        ({"frames": 20}, {"seconds": 0.5}, 4),
        ({"seconds": 3}, {"frames": 5}, 5),
        ({"fps": 7, "seconds": 0.5}, {}, 4),
        ({"fps": 0.5}, {"seconds": 4}, 2),
    ],
)
def test_seconds_become_frames(defaults, shot, frames):
    assert plan(shot, defaults=defaults).shots[0].num_frames == frames


def test_a_film_is_shorter_by_what_its_transitions_overlap():
    film = plan(
        {},
        {"transition": {"kind": "crossfade", "seconds": 0.5}},
        {"transition": {"kind": "dip-to-black", "seconds": 0.75}},
        {"transition": "wipe"},
        title_card={"seconds": 1, "text": "Hello"},
        end_card={"transition": {"kind": "crossfade", "seconds": 0.25}},
    )
    kinds = [(transition.kind, transition.num_frames) for _, transition in film.parts]
    assert kinds == [("cut", 0), ("cut", 0), ("crossfade", 4), ("dip", 6), ("wipe-right", 4), ("crossfade", 2)]
    assert film.num_frames == 8 + 4 * 16 + 16 - 4 - 4 - 2 and film.seconds == film.num_frames / 8
    dip = film.shots[2].transition
    assert (dip.num_before, dip.num_after, dip.overlap) == (3, 3, 0)


def test_a_film_is_as_long_as_its_timeline():
    film = plan({}, {"transition": "crossfade"}, {"transition": {"kind": "dip-to-black", "seconds": 0.6}}, {"transition": "wipe-up"})
    lengths, transitions = zip(*film.parts, strict=True)
    assert timeline(lengths, transitions)[-1].end == film.num_frames


def test_the_default_transition_leaves_the_films_beginning_alone():
    crossfades = {"transition": "crossfade"}
    assert [shot.transition.num_frames for shot in plan({}, {}, defaults=crossfades).shots] == [0, 4]
    carded = plan({}, {}, defaults=crossfades, title_card={}, end_card="Bye")
    assert [transition.num_frames for _, transition in carded.parts] == [0, 4, 4, 4]
    assert (carded.title_card.text, carded.end_card.text) == ("t", "Bye")


def test_a_cards_colours_are_red_green_and_blue():
    card = plan({}, title_card={"colour": "#ff8800", "subtitle": "by me"}).title_card
    assert (card.colour, card.background, card.subtitle, card.num_frames) == ((255, 136, 0), None, "by me", 16)


def test_captions_and_sound():
    Path("a.mp3").write_bytes(b"x")
    film = plan(
        {"caption": "Hi"}, {"caption": {"text": "Ho", "burn": False}}, {}, defaults={"burn": True}, audio={"file": "a.mp3", "gain": -3}
    )
    assert [shot.caption and (shot.caption.text, shot.caption.burn) for shot in film.shots] == [("Hi", True), ("Ho", False), None]
    assert (film.audio.path, film.audio.gain, film.audio.offset) == (Path("a.mp3"), -3, 0)


def test_concepts_lie_beside_the_storyboard_or_in_the_working_folder():
    write_concept(Path("boards/bear.safetensors"), header("bear", base="beside"))
    write_concept(Path("bear.safetensors"), header("bear", base="here"))
    write_concept(Path("owl.safetensors"), header("owl", base="here"))
    values = {"title": "t", "cast": {"bear": "bear.safetensors", "owl": "owl.safetensors"}, "shots": [{"prompt": "{bear} {owl}"}]}
    film = plan_film(Storyboard.model_validate(values), Path("boards/film.yaml"))
    assert film.shots[0].concepts == (Path("boards/bear.safetensors"), Path("owl.safetensors")) and film.base == "beside"


def test_a_missing_concept_says_where_it_was_looked_for():
    with pytest.raises(UserError, match=r"none\.safetensors") as refused:
        plan_film(
            Storyboard.model_validate({"title": "t", "concept": "none.safetensors", "shots": [{"prompt": "a"}]}), Path("x/board.yaml")
        )
    assert str(Path("x/none.safetensors")) in refused.value.cause


@pytest.mark.parametrize(
    ("shots", "board", "said"),
    [
        ([{"transition": "crossfade"}], {}, "shots[0].transition: the film's beginning cannot come in by a crossfade"),
        (
            [{}, {"frames": 3, "transition": "crossfade"}],
            {},
            "shots[1]: a length of 3 is too short for the transitions",
        ),
        ([{}, {"frames": 7}, {}], {"defaults": {"transition": "crossfade"}}, "shots[1]: a length of 7 is too short"),
        ([{}, {"transition": {"kind": "wipe", "seconds": 0.01}}], {}, "shots[1].transition: the wipe lasts no frame"),
        ([{"seconds": 0.01}], {}, "shots[0].seconds: 0 frames at 8 a second"),
        ([{"seconds": 3000}], {}, "shots[0].seconds: 24000 frames"),
        ([{}], {"defaults": {"seconds": 0.01}}, "defaults.seconds: 0 frames"),
        ([{}], {"title_card": {"seconds": 0.01}}, "title_card.seconds: the card lasts no frame"),
        ([{}, {"continue": True, "steps": 1}], {}, "shots[1].steps: a shot that starts from a picture"),
        ([{}, {"continue": True}], {"defaults": {"steps": 1}}, "defaults.steps: a shot that starts from a picture"),
        ([{"continue": True}], {}, "shots[0].continue: the first shot has none before it"),
        ([{"keep": 2}], {}, "shots[0].keep: take 2 is kept of one take"),
        ([{"takes": 2}], {"defaults": {"takes": 4, "keep": 3}}, "defaults.keep: take 3 is kept of 2 takes"),
    ],
)
def test_what_contradicts_itself_is_said(shots, board, said):
    assert said in said_of(*shots, **board)


def test_key_frames_lie_in_their_shot():
    values = {"title": "t", "shots": [{"prompts": {0: "a", 16: "b"}}]}
    with pytest.raises(UserError, match=r"shots\[0\]\.prompts\.16: the shot ends with frame 15"):
        plan_film(Storyboard.model_validate(values), Path("film.yaml"))


def test_a_dip_may_open_the_film():
    assert plan({"transition": "dip-to-black"}).num_frames == 16


def test_planning_takes_next_to_no_time():
    for name in ("bear", "owl"):
        write_concept(Path(f"{name}.safetensors"), header(name))
    shots = [{"prompt": f"a {{bear}} and an {{owl}} {number}", "seed": number} for number in range(200)]
    board = Storyboard.model_validate({"title": "t", "cast": {"bear": "bear.safetensors", "owl": "owl.safetensors"}, "shots": shots})
    begun = time.perf_counter()
    film = plan_film(board, Path("film.yaml"))
    assert time.perf_counter() - begun < 200 * 0.05 and film.shots[199].prompt == "a V1* bear and an V2* owl 199"
