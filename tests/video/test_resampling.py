"""More frames and more pixels: what was there stays, what comes in between lies in between."""

import numpy as np
import pytest
from PIL import Image

from cdvideo.errors import UserError
from cdvideo.video import Clip
from cdvideo.video.resampling import resampled


def moving(num_frames: int = 6, step: int = 6, loop: bool = False, width: int = 128) -> Clip:
    frames = np.full((num_frames, 96, width, 3), 40, np.uint8)
    for number, frame in enumerate(frames):
        frame[30:70, 20 + step * number : 60 + step * number] = (200, 80, 60)
    return Clip(frames=frames, fps=8, record={"prompt": "a square", "loop": loop})


def left_edge(frame: np.ndarray) -> int:
    return int(np.flatnonzero(frame[50, :, 0] > 120)[0])


def test_frames_in_between_show_the_subject_in_between():
    clip = moving()
    smooth = resampled(clip, interpolate=24)
    assert smooth.num_frames == 18 and smooth.fps == 24 and smooth.duration == clip.duration
    assert np.abs(smooth.frames[::3].astype(int) - clip.frames).max() <= 3
    edges = [left_edge(frame) for frame in smooth.frames[:16]]
    assert edges == sorted(edges) and all(abs(edge - (20 + 2 * number)) <= 2 for number, edge in enumerate(edges))
    assert smooth.record == {**clip.record, "resampled": {"interpolate": 24, "upscale": 1}}


@pytest.mark.parametrize(("num_frames", "fps", "expected"), [(1, 24, 3), (2, 10, 2), (6, 30, 22), (16, 60, 120)])
def test_the_duration_stays(num_frames, fps, expected):
    assert resampled(moving(num_frames, step=2), interpolate=fps).num_frames == expected


def test_a_loops_last_frames_lead_to_its_first():
    """The subject goes forth and back; after its last frame, 6 pixels out, it is on its way to where it began."""
    frames = moving(7).frames[[0, 1, 2, 3, 2, 1]]
    ends = {loop: resampled(Clip(frames=frames, fps=8, record={"loop": loop}), interpolate=24).frames[-1] for loop in (False, True)}
    assert left_edge(ends[False]) == 26 and left_edge(ends[True]) in (21, 22, 23)


def test_pixels_are_lanczos():
    clip = Clip(
        frames=np.random.default_rng(0).integers(60, 200, (2, 32, 48, 3), dtype=np.uint8).repeat(2, 1).repeat(2, 2), fps=8, record={}
    )
    large = resampled(clip, upscale=2)
    assert large.frames.shape == (2, 128, 192, 3) and large.fps == 8
    theirs = np.asarray(Image.fromarray(clip.frames[0]).resize((192, 128), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(large.frames[0].astype(int) - theirs).mean() < 1.5


def test_nothing_asked_is_nothing_done():
    clip = moving()
    assert resampled(clip) is clip


@pytest.mark.parametrize(
    ("settings", "said"), [({"interpolate": 8}, "from 8 to 8"), ({"interpolate": 500}, "500"), ({"upscale": 0}, "0 times")]
)
def test_what_cannot_be_is_refused(settings, said):
    with pytest.raises(UserError, match=said):
        resampled(moving(), **settings)
