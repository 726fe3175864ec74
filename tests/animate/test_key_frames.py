"""Courses over a clip, by hand."""

import pytest
import torch

from cdvideo.animate.key_frames import check_key_frames, key_frame_weights, parse_values, values_by_frame
from cdvideo.errors import UserError


def test_between_key_frames_both_count():
    weights = key_frame_weights([1, 5], 7)
    assert weights[:, 1].tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 1]
    assert torch.allclose(weights.sum(1), torch.ones(7))


def test_smooth_is_slow_at_both_ends_and_hold_waits():
    assert key_frame_weights([0, 4], 6, curve="smooth")[:, 1].tolist() == pytest.approx([0, 5 / 32, 0.5, 27 / 32, 1, 1])
    assert key_frame_weights([0, 4], 6, curve="hold")[:, 1].tolist() == [0, 0, 0, 0, 1, 1]


def test_a_loop_turns_back_into_its_first_key_frame():
    """From frame 4 to frame 0 of the next round there are 4 frames."""
    assert key_frame_weights([0, 4], 8, loop=True)[:, 0].tolist() == [1, 0.75, 0.5, 0.25, 0, 0.25, 0.5, 0.75]
    assert key_frame_weights([2, 4], 8, loop=True)[:, 0].tolist() == pytest.approx([4 / 6, 5 / 6, 1, 0.5, 0, 1 / 6, 2 / 6, 3 / 6])


@pytest.mark.parametrize("loop", [False, True])
def test_one_key_frame_is_everywhere(loop):
    assert key_frame_weights([3], 5, loop=loop).tolist() == [[1.0]] * 5


def test_values_lie_on_straight_lines():
    assert values_by_frame({0: 1.0, 4: 0.2}, 6).tolist() == pytest.approx([1, 0.8, 0.6, 0.4, 0.2, 0.2])


def test_a_course_as_it_is_written():
    assert parse_values("0:1.0, 12:0.3") == {0: 1.0, 12: 0.3}
    for text in ("", "1.0", "0:x", "x:1", "0:inf", "0:1,"):
        with pytest.raises(UserError, match="no course"):
            parse_values(text)
    with pytest.raises(UserError, match="two values at frame 0"):
        parse_values("0:1, 0:2")
    with pytest.raises(UserError, match="-11 is no strength"):
        parse_values("0:1, 2:-11")


@pytest.mark.parametrize(("frames", "said"), [([16], "frame 16"), ([-1], "frame -1"), ([], "no frame")])
def test_key_frames_lie_in_the_clip(frames, said):
    with pytest.raises(UserError, match=said):
        check_key_frames(frames, 16, "the prompt")
