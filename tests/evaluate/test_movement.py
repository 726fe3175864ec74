"""Movement and flicker, by hand."""

import numpy as np
import pytest

from cdvideo.evaluate.movement import Movement, black_frames, flicker, motion_amount


def flat(*levels: int) -> np.ndarray:
    return np.stack([np.full((4, 5, 3), level, np.uint8) for level in levels])


def test_motion_is_the_mean_difference_of_brightness():
    assert motion_amount(flat(10, 20, 14)) == pytest.approx((10 + 6) / 2, abs=1e-4)
    red = np.zeros((2, 2, 2, 3), np.uint8)
    red[1, ..., 0] = 100
    assert motion_amount(red) == pytest.approx(21.26, abs=1e-3)


def test_flicker_is_what_jumps_forth_and_back():
    assert flicker(flat(10, 20, 10, 20)) == pytest.approx(10, abs=1e-4)
    assert flicker(flat(0, 50, 100, 150)) == 0, "a fade"
    assert flicker(flat(10, 14, 12)) == pytest.approx(3, abs=1e-4)


def test_a_still_neither_moves_nor_flickers():
    assert Movement(flat(7)).described() == {"motion": 0.0, "flicker": 0.0}
    assert flicker(flat(7, 9)) == 0


def test_black_frames_are_numbered():
    assert black_frames(flat(0, 100, 4, 5)) == [0, 2]
