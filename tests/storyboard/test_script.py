import pytest
from pydantic import ValidationError

from cdvideo.storyboard.script import Storyboard


def board(**changes):
    return Storyboard.model_validate({"title": "t", "shots": [{"prompt": "a"}], **changes})


def shot(**settings):
    return board(shots=[{"prompt": "a", **settings}]).shots[0]


def test_a_file_of_cdvideo_0_1_reads_as_before():
    older = {"concept": ["concepts/bear.safetensors", "bear.safetensors", "7.safetensors"], "fps": 4, "frames": 8, "negative": "x"}
    read = board(**older)
    assert [str(member.concept) for member in read.cast.values()] == older["concept"] and list(read.cast) == ["bear", "bear-2", "cast-7"]
    assert (read.defaults.fps, read.defaults.frames, read.look.negative) == (4, 8, "x")


def test_a_value_in_both_its_places_is_refused():
    with pytest.raises(ValidationError, match="fps"):
        board(fps=4, defaults={"fps": 4})


def test_short_forms_are_the_value_that_they_most_need():
    read = board(cast={"bear": "bear.safetensors"}, title_card="Hello", end_card={}, audio="a.mp3")
    assert str(read.cast["bear"].concept) == "bear.safetensors" and read.cast["bear"].strength == 1
    assert (read.title_card.text, read.end_card.text, str(read.audio.file)) == ("Hello", None, "a.mp3")
    one = shot(transition="crossfade", caption="Hi", camera="zoom-in", starring="bear")
    assert (one.transition.kind, one.transition.seconds, one.caption.text) == ("crossfade", None, "Hi")
    assert (one.camera, one.starring) == (("zoom-in",), ("bear",))


@pytest.mark.parametrize("written", ["0:1.0, 12:0.3", {0: 1, 12: 0.3}, {"0": "1", "12": "0.3"}])
def test_a_strength_may_change_over_the_frames(written):
    assert shot(strengths={"bear": written}).strengths["bear"] == {0: 1.0, 12: 0.3}


def test_a_strength_of_one_number_holds_from_the_first_frame():
    assert shot(strengths={"bear": 0.5}).strengths["bear"] == {0: 0.5}


def test_prompts_by_frame_are_in_the_order_of_frames():
    read = board(shots=[{"prompts": {"12": "b", "0": "a"}}, {"prompt": "c"}])
    assert [one.course for one in read.shots] == [{0: "a", 12: "b"}, {0: "c"}]


@pytest.mark.parametrize(
    "settings",
    [
        {"prompts": {0: "b"}},
        {"frames": 3, "seconds": 1},
        {"start": "a.png", "continue": True},
        {"transition": {"kind": "cut", "seconds": 1}},
        {"keep": "worst"},
        {"keep": 0},
        {"strengths": {"bear": "0:1, 0:2"}},
        {"strengths": {"bear": "much"}},
        {"strengths": {"bear": {}}},
        {"frames": 0},
        {"seconds": 0},
        {"prompt": " "},
    ],
    ids=str,
)
def test_contradictions_in_a_shot_are_refused(settings):
    with pytest.raises(ValidationError):
        shot(**settings)


@pytest.mark.parametrize("size", ["512", "500x300", "8x8", "512x9000", [512, 512]])
def test_sizes_are_width_and_height_that_a_base_can_render(size):
    with pytest.raises(ValidationError, match="size"):
        board(defaults={"size": size})


def test_a_number_may_be_a_title_but_a_truth_may_not():
    assert board(title=1984).title == "1984"
    with pytest.raises(ValidationError, match="title"):
        board(title=True)


def test_a_storyboard_does_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        board().title = "other"
