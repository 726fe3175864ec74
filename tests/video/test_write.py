"""What is written is opened here by readers that did not write it: the ffmpeg program of imageio-ffmpeg, and Pillow."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from cdvideo.errors import UserError
from cdvideo.video import Clip, write
from tests.video.scenes import LONG_RECORD, moving_clip, psnr


def ffmpeg_read(path: Path) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    reader = imageio_ffmpeg.read_frames(str(path))
    facts = next(reader)
    width, height = facts["size"]
    return facts, np.stack([np.frombuffer(raw, np.uint8).reshape(height, width, 3) for raw in reader])


def ffmpeg_output(*arguments: str) -> str:
    done = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", *arguments], capture_output=True)
    return (done.stdout + done.stderr).decode("utf-8")


def ffmpeg_comment(path: Path) -> str:
    text = ffmpeg_output("-loglevel", "error", "-i", str(path), "-f", "ffmetadata", "-")
    found = re.search(r"^comment=((?:\\.|[^\n\\])*)", text, flags=re.MULTILINE | re.DOTALL | re.IGNORECASE)
    assert found
    return re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL)


def assert_alive(frames: NDArray[np.uint8]) -> None:
    values = frames.astype(float)
    assert values.std(axis=(1, 2)).min() > 20, "a frame is almost one colour"
    assert (values.max(axis=-1) - values.min(axis=-1)).mean() > 30, "grey"
    assert np.abs(np.diff(values, axis=0)).mean(axis=(1, 2, 3)).min() > 2, "still"


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
@pytest.mark.parametrize("fps", [8.0, 23.976])
def test_video_decodes_with_another_reader(tmp_path: Path, suffix: str, fps: float) -> None:
    clip = moving_clip(fps=fps)
    facts, frames = ffmpeg_read(write(clip, tmp_path / f"clip.{suffix}"))
    assert frames.shape == clip.frames.shape
    assert facts["fps"] == pytest.approx(fps, abs=0.01)
    assert facts["duration"] == pytest.approx(clip.duration, abs=0.011)
    assert psnr(frames, clip.frames) > 31
    assert_alive(frames)


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "h264"), ("webm", "vp9")])
def test_video_is_tagged_as_every_player_wants_it(tmp_path: Path, suffix: str, codec: str) -> None:
    path = write(moving_clip(num_frames=4), tmp_path / f"clip.{suffix}")
    stream = next(line for line in ffmpeg_output("-i", str(path)).splitlines() if "Video:" in line)
    assert codec in stream
    assert re.search(r"yuv420p\(tv, bt709\b", stream), stream


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_flat_colours_come_back_within_a_few_levels(tmp_path: Path, suffix: str) -> None:
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [128, 128, 128], [200, 100, 50]], np.uint8)
    frames = np.broadcast_to(colours[:, None, None], (len(colours), 32, 32, 3)).copy()
    path = write(Clip(frames=frames, fps=4, record={}), tmp_path / f"clip.{suffix}")
    _, found = ffmpeg_read(path)
    assert np.abs(found.astype(int) - frames).max() <= 4


def test_mp4_starts_before_it_is_loaded(tmp_path: Path) -> None:
    data = write(moving_clip(), tmp_path / "clip.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize(("width", "height"), [(33, 47), (1, 1)])
def test_odd_sizes(tmp_path: Path, width: int, height: int) -> None:
    clip = moving_clip(num_frames=3, width=width, height=height)
    _, evened = ffmpeg_read(write(clip, tmp_path / "clip.mp4"))
    assert evened.shape == (3, height + height % 2, width + width % 2, 3)
    _, kept = ffmpeg_read(write(clip, tmp_path / "clip.webm"))
    assert kept.shape == clip.frames.shape
    with Image.open(write(clip, tmp_path / "clip.gif")) as image:
        assert image.size == (width, height)


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_video_metadata_in_another_reader(tmp_path: Path, suffix: str) -> None:
    path = write(moving_clip(num_frames=2), tmp_path / f"clip.{suffix}")
    assert json.loads(ffmpeg_comment(path)) == LONG_RECORD
    assert json.loads((tmp_path / f"clip.{suffix}.json").read_text("utf-8")) == LONG_RECORD


def test_gif_in_pillow(tmp_path: Path) -> None:
    clip = moving_clip(fps=8)
    with Image.open(write(clip, tmp_path / "clip.gif")) as image:
        assert json.loads(image.info["comment"]) == LONG_RECORD
        assert image.info["loop"] == 0
        pictures = [(np.asarray(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(image)]
    frames = np.stack([pixels for pixels, _ in pictures])
    assert frames.shape == clip.frames.shape
    assert sum(delay for _, delay in pictures) == 1500
    assert {delay for _, delay in pictures} == {120, 130}
    assert psnr(frames, clip.frames) > 24
    assert_alive(frames)


def test_gif_noise_does_not_crawl_where_the_picture_stands_still(tmp_path: Path) -> None:
    frames = moving_clip().frames.copy()
    frames[:, :, :48] = frames[:1, :, :48]
    with Image.open(write(Clip(frames=frames, fps=8, record={}), tmp_path / "clip.gif")) as image:
        found = np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])
    assert np.array_equal(found[1:, :, :48], found[:-1, :, :48])


@pytest.mark.parametrize("suffix", ["mp4", "webm", "gif"])
@pytest.mark.parametrize("num_frames", [1, 5])
def test_a_still_scene_keeps_every_frame(tmp_path: Path, suffix: str, num_frames: int) -> None:
    frames = np.repeat(moving_clip().frames[:1], num_frames, axis=0)
    path = write(Clip(frames=frames, fps=10, record={}), tmp_path / f"still.{suffix}")
    if suffix == "gif":
        with Image.open(path) as image:
            delays = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
        assert delays == [100] * num_frames
    else:
        assert len(ffmpeg_read(path)[1]) == num_frames


def test_png_holds_one_frame_and_its_record(tmp_path: Path) -> None:
    clip = moving_clip(num_frames=1)
    with Image.open(write(clip, tmp_path / "STILL.PNG")) as image:
        assert np.array_equal(np.asarray(image), clip.frames[0])
        assert json.loads(image.info["cdvideo"]) == LONG_RECORD


def test_png_refuses_a_clip_and_names_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot hold a clip") as caught:
        write(moving_clip(), tmp_path / "still.png")
    assert str(tmp_path / "still") in caught.value.remedy
    assert not list(tmp_path.iterdir())


def test_folder_holds_every_frame_and_forgets_a_longer_clip(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "frames"
    write(moving_clip(num_frames=6), folder)
    (folder / "notes.txt").write_text("mine")
    clip = moving_clip(num_frames=4, width=64)
    write(clip, folder)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["frame_0000.png", "frame_0001.png", "frame_0002.png", "frame_0003.png", "notes.txt", "record.json"]
    for index, frame in enumerate(clip.frames):
        with Image.open(folder / f"frame_{index:04d}.png") as image:
            assert np.array_equal(np.asarray(image), frame)
    assert json.loads((folder / "record.json").read_text("utf-8")) == LONG_RECORD


def test_a_badly_decoded_prompt_is_recorded_all_the_same(tmp_path: Path) -> None:
    record = {"prompt": "caf\udce9"}
    path = write(Clip(frames=moving_clip(num_frames=2).frames, fps=8, record=record), tmp_path / "clip.mp4")
    assert json.loads((tmp_path / "clip.mp4.json").read_text("utf-8")) == record
    assert json.loads(ffmpeg_comment(path)) == record


def test_an_mp4_depends_on_no_machines_cores(tmp_path):
    """x264 writes its settings into what it encodes; by default its threads are as many as cores, and each encodes a part of a frame."""
    moving_clip().save(tmp_path / "clip.mp4")
    written = (tmp_path / "clip.mp4").read_bytes()
    assert b" threads=16 " in written and b" sliced_threads=0 " in written
