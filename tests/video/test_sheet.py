from __future__ import annotations

import numpy as np
import pytest

from cdvideo.video import contact_sheet
from cdvideo.video.sheet import evenly_picked
from tests.video.scenes import moving_clip, moving_scene


def test_frames_are_picked_from_first_to_last() -> None:
    assert evenly_picked(16, 4) == [0, 5, 10, 15]
    assert evenly_picked(3, 5) == [0, 1, 2]
    assert evenly_picked(16, 1) == [8]


def test_cells_hold_the_frames_in_order() -> None:
    clip = moving_clip(num_frames=16, width=240, height=160)
    sheet = contact_sheet([clip, moving_scene(2, 120, 160)], columns=4)
    gap = 10
    assert sheet.size == (gap + 4 * (240 + gap), gap + 160 + gap + 320 + gap)
    pixels = np.asarray(sheet)
    for column, index in enumerate([0, 5, 10, 15]):
        left = gap + column * (240 + gap)
        assert np.array_equal(pixels[gap : gap + 160, left : left + 240], clip.frames[index])
    assert (pixels[-330:-10, gap + 2 * (240 + gap) :] == 255).all(), "a short clip leaves its last cells empty"


def test_labels_are_drawn_and_wrapped() -> None:
    clip = moving_clip(num_frames=2)
    bare = contact_sheet([clip], 2)
    short = contact_sheet([clip], 2, ["a V* bear"])
    long = contact_sheet([clip], 2, ["a V* bear reading a book under a tree " * 3])
    assert bare.height < short.height < long.height and bare.width == short.width == long.width
    label = np.asarray(short)[: short.height - bare.height]
    assert label.min() < 80 and label.shape[0] >= 13


def test_what_cannot_be_a_sheet() -> None:
    with pytest.raises(ValueError, match="at least one clip"):
        contact_sheet([], 4)
    with pytest.raises(ValueError, match="at least one clip"):
        contact_sheet([moving_clip()], 0)
    with pytest.raises(ValueError, match="2 labels for 1 clips"):
        contact_sheet([moving_clip()], 2, ["a", "b"])
