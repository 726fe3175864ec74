"""Films that are made while they are written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cdvideo.errors import UserError
from cdvideo.video import Cue, read, write, write_frames
from tests.video.scenes import LONG_RECORD, moving_clip, moving_scene

NAMES = ["film.mp4", "film.webm", "film.gif", "frames"]

_PEAK_OF_A_LONG_FILM = """
import resource, sys
import numpy as np
from cdvideo.video import write_frames

def frames(count):
    for index in range(count):
        yield np.full((256, 256, 3), index % 256, np.uint8)

write_frames(lambda: frames(20), sys.argv[1], num_frames=20, fps=8, record={})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_frames(lambda: frames(400), sys.argv[1], num_frames=400, fps=8, record={})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize("name", NAMES)
def test_streamed_frames_are_the_clips(tmp_path: Path, name: str) -> None:
    clip = moving_clip()
    (tmp_path / "streamed").mkdir()
    streamed = write_frames(lambda: iter(clip.frames), tmp_path / "streamed" / name, num_frames=12, fps=8, record=LONG_RECORD)
    whole = write(clip, tmp_path / name)
    assert np.array_equal(read(streamed).frames, read(whole).frames)
    assert read(streamed).record == LONG_RECORD
    assert read(streamed).fps == 8


@pytest.mark.parametrize(("suffix", "passes"), [("mp4", 1), ("webm", 1), ("gif", 2)])
def test_how_often_the_frames_are_made(tmp_path: Path, suffix: str, passes: int) -> None:
    made = 0

    def frames() -> Iterator[NDArray[np.uint8]]:
        nonlocal made
        for frame in moving_scene(6, 32, 32):
            made += 1
            yield frame

    write_frames(frames, tmp_path / f"film.{suffix}", num_frames=6, fps=8, record={})
    assert made == 6 * passes


@pytest.mark.parametrize("suffix", ["mp4", "webm", "gif"])
@pytest.mark.parametrize(("width", "height"), [(96, 64), (50, 34)])
def test_the_same_film_is_the_same_file(tmp_path: Path, suffix: str, width: int, height: int) -> None:
    frames = moving_scene(16, width, height)
    cues = [Cue(start=2, end=9, text="words")] if suffix != "gif" else []
    written = []
    for number in range(3):
        # Other things in memory in between.
        _ = np.random.default_rng(number).integers(0, 255, 2_000_000 + 77_777 * number)
        path = write_frames(lambda: frames, tmp_path / f"film.{suffix}", num_frames=16, fps=8, record={"a": 1}, cues=cues)
        written.append(path.read_bytes())
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize("name", NAMES[:3])
@pytest.mark.parametrize("promised", [5, 7])
def test_another_number_of_frames_than_promised(tmp_path: Path, name: str, promised: int) -> None:
    frames = moving_scene(6, 32, 32)
    with pytest.raises(ValueError, match=f"6 frames came where {promised} were promised"):
        write_frames(lambda: frames, tmp_path / name, num_frames=promised, fps=8, record={})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_frames_that_cannot_be_made_leave_the_earlier_film(tmp_path: Path, name: str) -> None:
    path = write(moving_clip(num_frames=3), tmp_path / name)
    before = {str(entry): entry.read_bytes() for entry in sorted(tmp_path.rglob("*")) if entry.is_file()}

    def frames() -> Iterator[NDArray[np.uint8]]:
        yield from moving_scene(4)
        raise UserError("The fifth frame is lost.")

    with pytest.raises(UserError, match="The fifth frame is lost"):
        write_frames(frames, path, num_frames=9, fps=8, record={})
    assert {str(entry): entry.read_bytes() for entry in sorted(tmp_path.rglob("*")) if entry.is_file()} == before


@pytest.mark.parametrize("suffix", ["mp4", "webm", "gif"])
def test_a_film_of_any_length_needs_the_memory_of_a_short_one(tmp_path: Path, suffix: str) -> None:
    command = [sys.executable, "-c", _PEAK_OF_A_LONG_FILM, str(tmp_path / f"film.{suffix}")]
    grown = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert grown < 0.2 * 400 * 256 * 256 * 3
