from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from cdvideo.errors import UserError
from cdvideo.video import Clip, concatenate
from tests.video.scenes import moving_clip


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"frames": np.zeros((2, 8, 8, 3), np.float32)}, TypeError),
        ({"frames": [[1]]}, TypeError),
        ({"frames": np.zeros((8, 8, 3), np.uint8)}, ValueError),
        ({"frames": np.zeros((2, 8, 8, 4), np.uint8)}, ValueError),
        ({"frames": np.zeros((0, 8, 8, 3), np.uint8)}, ValueError),
        ({"fps": 0.0}, ValueError),
        ({"fps": math.nan}, ValueError),
        ({"fps": math.inf}, ValueError),
        ({"record": []}, TypeError),
        ({"record": {"model": object()}}, TypeError),
        ({"record": {"loss": math.nan}}, ValueError),
    ],
)
def test_an_impossible_clip_is_refused(changed: dict[str, Any], error: type[Exception]) -> None:
    possible: dict[str, Any] = {"frames": np.zeros((2, 8, 8, 3), np.uint8), "fps": 8.0, "record": {}}
    Clip(**possible)
    with pytest.raises(error):
        Clip(**(possible | changed))


def test_a_clip_knows_its_measures_and_keeps_its_frames() -> None:
    clip = moving_clip(num_frames=12, width=96, height=64, fps=8)
    assert (clip.num_frames, clip.width, clip.height, clip.duration) == (12, 96, 64, 1.5)
    with pytest.raises(ValueError, match="read-only"):
        clip.frames[0] = 0


def test_concatenate_keeps_order_and_rate() -> None:
    first, second = moving_clip(num_frames=3), moving_clip(num_frames=2)
    film = concatenate([first, second], {"title": "film"})
    assert film.num_frames == 5 and film.fps == 8 and film.record == {"title": "film"}
    assert np.array_equal(film.frames[3:], second.frames)


@pytest.mark.parametrize(
    ("other", "words"),
    [(moving_clip(width=80), "80x64"), (moving_clip(fps=12), "12 frames per second")],
)
def test_concatenate_says_which_clip_differs(other: Clip, words: str) -> None:
    with pytest.raises(UserError, match="Clip 2") as caught:
        concatenate([moving_clip(), other], {})
    assert words in str(caught.value)


def test_concatenate_needs_a_clip() -> None:
    with pytest.raises(UserError):
        concatenate([], {})


def test_import_loads_no_heavy_library() -> None:
    code = "import sys, cdvideo.video; print(sorted({'torch', 'av', 'PIL', 'diffusers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_clip_is_shown_in_a_line():
    clip = Clip(frames=np.zeros((3, 16, 24, 3), np.uint8), fps=7.5, record={"prompt": "a bear"})
    assert repr(clip) == "Clip(3 frames of 24x16, 7.5 a second)"
