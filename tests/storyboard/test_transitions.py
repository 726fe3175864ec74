"""Blends are compared with the sRGB formula in floating point and with numbers worked out by hand; films with their frames counted."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from typing import cast, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from cdvideo.errors import UserError
from cdvideo.storyboard.timing import CUT, Transition, TransitionKind, timeline
from cdvideo.storyboard.transitions import film_frames

Frames = NDArray[np.uint8]


def flat(colour: int | tuple[int, int, int], num_frames: int, width: int = 8, height: int = 6) -> Frames:
    return np.broadcast_to(np.array(colour, np.uint8), (num_frames, height, width, 3)).copy()


def numbered(first: int, num_frames: int) -> Frames:
    """Frames that tell themselves apart: all pixels of the first are `first`, of the next one more."""
    return np.concatenate([flat(first + index, 1) for index in range(num_frames)])


def film(clips: list[Frames], transitions: list[Transition]) -> Frames:
    return np.stack(list(film_frames(clips, transitions)))


def to_light(code: float) -> float:
    part = code / 255
    return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4


def to_code(light: float) -> float:
    return 255 * (light * 12.92 if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055)


def test_cuts_are_the_shots_one_after_the_other() -> None:
    clips = [numbered(0, 3), numbered(50, 1), numbered(100, 4)]
    assert np.array_equal(film(clips, [CUT] * 3), np.concatenate(clips))


def test_a_crossfade_overlaps_and_mixes_light() -> None:
    before, after = numbered(10, 6), numbered(200, 5)
    frames = film([before, after], [CUT, Transition(kind="crossfade", num_frames=3)])
    assert len(frames) == 6 + 5 - 3
    assert np.array_equal(frames[:3], before[:3]) and np.array_equal(frames[6:], after[3:])
    for step in range(3):
        share = (step + 1) / 4
        wanted = to_code((1 - share) * to_light(13 + step) + share * to_light(200 + step))
        assert np.abs(frames[3 + step].astype(float) - wanted).max() <= 0.51


def test_half_of_black_and_half_of_white_is_half_the_light() -> None:
    frames = film([flat(0, 1), flat(255, 1)], [CUT, Transition(kind="crossfade", num_frames=1)])
    assert frames.shape[0] == 1 and (frames == 188).all()


def test_a_crossfade_of_equal_frames_changes_no_value() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3).repeat(9, axis=0)
    assert np.array_equal(film([every, every], [CUT, Transition(kind="crossfade", num_frames=7)]), every.repeat(2, axis=0)[:11])


@pytest.mark.parametrize(
    ("num_frames", "brightness"),
    [(1, [0]), (2, [0, 0]), (3, [0.5, 0, 0.5]), (4, [0.5, 0, 0, 0.5]), (6, [2 / 3, 1 / 3, 0, 0, 1 / 3, 2 / 3])],
)
def test_a_dip_reaches_black_in_even_steps_and_overlaps_nothing(num_frames: int, brightness: list[float]) -> None:
    frames = film([flat(200, 5), flat(120, 5)], [CUT, Transition(kind="dip", num_frames=num_frames)])
    assert len(frames) == 10
    wanted = np.array([200.0] * 5 + [120.0] * 5)
    first = 5 - (num_frames + 1) // 2
    wanted[first : first + num_frames] *= brightness
    assert np.abs(frames[:, 0, 0, 0] - wanted).max() <= 0.5


def test_the_first_shot_can_brighten_from_black() -> None:
    dip = Transition(kind="dip", num_frames=6)
    alone = film([flat(90, 5)], [dip])
    after_another = film([flat(30, 5), flat(90, 5)], [CUT, dip])
    assert np.array_equal(alone, after_another[5:])
    assert list(alone[:, 0, 0, 0]) == [0, 30, 60, 90, 90]


@pytest.mark.parametrize(("kind", "axis", "reverse"), [("right", 1, False), ("left", 1, True), ("down", 0, False), ("up", 0, True)])
def test_a_wipe_uncovers_the_new_shot_from_the_side_its_edge_leaves(kind: str, axis: int, reverse: bool) -> None:
    wipe = Transition(kind=cast(TransitionKind, f"wipe-{kind}"), num_frames=3)
    frames = film([flat((0, 0, 0), 4, 64, 48), flat((255, 255, 255), 4, 64, 48)], [CUT, wipe])
    assert len(frames) == 5
    middle = frames[2, :, :, 0]
    line = middle[0] if axis == 1 else middle[:, 0]
    assert (middle == (line[None] if axis == 1 else line[:, None])).all(), "the edge is straight"
    line = line[::-1] if reverse else line
    side = len(line)
    assert (line[: side // 2 - side // 16] == 255).all() and (line[side // 2 + side // 16 :] == 0).all(), "half way at half time"
    assert (np.diff(line.astype(int)) <= 0).all()
    covered = [float(frame.mean()) for frame in frames]
    assert covered == sorted(covered) and covered[0] == 0 and covered[-1] == 255 and 0 < covered[1] < covered[3] < 255


def test_places_in_a_film_worked_out_by_hand() -> None:
    transitions = [
        CUT,
        Transition(kind="crossfade", num_frames=4),
        Transition(kind="dip", num_frames=5),
        Transition(kind="wipe-up", num_frames=3),
        CUT,
    ]
    places = timeline([10, 16, 8, 12, 1], transitions)
    assert [(place.start, place.end) for place in places] == [(0, 10), (6, 22), (22, 30), (27, 39), (39, 40)]
    assert [(place.rules_from, place.rules_until) for place in places] == [(0, 8), (8, 22), (22, 28), (28, 39), (39, 40)]


def test_the_timeline_is_that_of_the_frames() -> None:
    draw = random.Random(5)
    for _ in range(60):
        num_shots = draw.randint(1, 6)
        lengths = [draw.randint(1, 12) for _ in range(num_shots)]
        kinds = [draw.choice(get_args(TransitionKind)) for _ in lengths]
        transitions = [CUT if kind == "cut" else Transition(kind=kind, num_frames=draw.randint(1, 6)) for kind in kinds]
        clips = [numbered(20 * index, length) for index, length in enumerate(lengths)]
        try:
            places = timeline(lengths, transitions)
        except UserError as error:
            with pytest.raises(UserError, match=error.message.replace("(", r"\(")):
                film(clips, transitions)
            continue
        frames = film(clips, transitions)
        assert len(frames) == places[-1].end
        assert [place.rules_until for place in places] == [*(place.rules_from for place in places[1:]), len(frames)]
        for place, clip, transition, following in zip(places, clips, transitions, [*transitions[1:], CUT], strict=True):
            own = slice(transition.num_after, place.num_frames - following.num_before)
            assert np.array_equal(frames[place.start : place.end][own], clip[own])


@pytest.mark.parametrize(
    ("lengths", "transitions", "words"),
    [
        ([4], [Transition(kind="crossfade", num_frames=2)], "cannot begin with a crossfade"),
        ([4], [Transition(kind="wipe-left", num_frames=1)], "cannot begin with a wipe-left"),
        ([4, 9], [CUT, Transition(kind="crossfade", num_frames=5)], "Shot 1 is too short"),
        ([9, 4], [CUT, Transition(kind="crossfade", num_frames=5)], "Shot 2 is too short"),
        ([9, 4, 9], [CUT, Transition(kind="crossfade", num_frames=3), Transition(kind="dip", num_frames=4)], "Shot 2 is too short"),
        ([], [], "at least one shot"),
    ],
)
def test_what_does_not_fit_is_said_with_the_way_out(lengths: list[int], transitions: list[Transition], words: str) -> None:
    for attempt in (lambda: timeline(lengths, transitions), lambda: film([numbered(0, length) for length in lengths], transitions)):
        with pytest.raises(UserError, match=words) as caught:
            attempt()
        assert caught.value.remedy


def test_both_ends_of_a_shot_may_meet() -> None:
    crossfade = Transition(kind="crossfade", num_frames=3)
    assert timeline([5, 6, 5], [CUT, crossfade, crossfade])[-1].end == 10
    with pytest.raises(UserError, match="Shot 2 is too short for its transitions: it has 5 frames") as caught:
        timeline([5, 5, 5], [CUT, crossfade, crossfade])
    assert "its crossfade in takes 3 and the crossfade to shot 3 takes 3" in caught.value.cause
    assert "at least 6" in caught.value.remedy


def test_impossible_transitions() -> None:
    for kind, num_frames in [("cut", 1), ("crossfade", 0), ("dip", -1), ("dissolve", 3)]:
        with pytest.raises(UserError):
            Transition(kind=cast(TransitionKind, kind), num_frames=num_frames)


def test_another_size_and_another_number_of_shots() -> None:
    with pytest.raises(UserError, match="Shot 2 does not fit") as caught:
        film([flat(0, 2), flat(0, 2, width=16)], [CUT, CUT])
    assert "16x6 pixels, the one before 8x6" in caught.value.cause
    for clips in ([flat(0, 2)], [flat(0, 2)] * 3):
        with pytest.raises(ValueError, match="transitions"):
            film(clips, [CUT, CUT])


def test_at_most_two_shots_are_held_however_long_the_film() -> None:
    def shots() -> Iterator[Frames]:
        for index in range(60):
            yield flat(index, 32, 128, 128)

    transitions = [CUT, *[Transition(kind="crossfade", num_frames=4)] * 59]
    film([flat(0, 4), flat(0, 4)], transitions[:2])  # its tables take memory once
    tracemalloc.start()
    count = sum(1 for _ in film_frames(shots(), transitions))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 60 * 32 - 59 * 4
    assert peak < 2.5 * 32 * 128 * 128 * 3
