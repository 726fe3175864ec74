from __future__ import annotations

import json
import subprocess
import warnings
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from cdvideo.errors import UserError, UserNote
from cdvideo.video import describe, read, read_record, write
from tests.video.scenes import LONG_RECORD, moving_clip, moving_scene, psnr

NAMES = ["clip.mp4", "clip.webm", "clip.gif", "frames", "still.png"]


@pytest.mark.parametrize(
    ("name", "codec", "bound"),
    [("clip.mp4", "h264", 33), ("clip.webm", "vp9", 33), ("clip.gif", "gif", 24), ("frames", "png", 400), ("still.png", "png", 400)],
)
def test_a_clip_comes_back(tmp_path: Path, name: str, codec: str, bound: float) -> None:
    clip = moving_clip(num_frames=1 if name == "still.png" else 12)
    path = write(clip, tmp_path / name)
    found = read(path)
    assert found.frames.shape == clip.frames.shape and found.fps == clip.fps and found.record == LONG_RECORD
    if bound == 400:
        assert np.array_equal(found.frames, clip.frames)
    else:
        assert psnr(found.frames, clip.frames) > bound
        assert np.abs(found.frames.mean(axis=(0, 1, 2)) - clip.frames.mean(axis=(0, 1, 2))).max() < 3

    facts = describe(path)
    assert facts["kind"] == {"frames": "folder", "still.png": "png"}.get(name, name.rpartition(".")[2])
    assert (facts["width"], facts["height"], facts["num_frames"], facts["fps"]) == (96, 64, clip.num_frames, 8.0)
    assert facts["duration"] == clip.duration and facts["codec"] == codec
    assert facts["record"] == LONG_RECORD and facts["bytes"] > 100


@pytest.mark.parametrize("name", NAMES)
def test_the_file_carries_its_record_alone(tmp_path: Path, name: str) -> None:
    path = write(moving_clip(num_frames=1), tmp_path / name)
    if path.is_file():
        moved = path.rename(tmp_path / f"moved{path.suffix}")
        assert read_record(moved) == LONG_RECORD
    else:
        assert read_record(path) == LONG_RECORD


def foreign_video(path: Path, *options: str, source: str = "testsrc=size=64x48:rate=10:duration=1") -> Path:
    """A video that another program made, without a record."""
    made = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-f", "lavfi", "-i", source]
    subprocess.run([*made, *options, str(path)], check=True, capture_output=True)
    return path


def test_a_foreign_video_has_no_record_until_one_lies_beside_it(tmp_path: Path) -> None:
    path = foreign_video(tmp_path / "clip.mp4", "-metadata", "comment=hello")
    assert read_record(path) is None and read(path).record == {}
    assert read(path).frames.shape == (10, 48, 64, 3)
    sidecar = tmp_path / "clip.mp4.json"
    sidecar.write_text(json.dumps({"seed": 1}))
    assert read_record(path) == {"seed": 1}
    sidecar.write_text("{")
    with pytest.raises(UserError, match=r"clip\.mp4\.json is no record"):
        read_record(path)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p", "yuv444p", "gbrp"])
def test_colours_of_foreign_videos(tmp_path: Path, pix_fmt: str) -> None:
    """Without a tag, BT.601 is meant; with full range and with RGB inside, nothing is stretched."""
    bars = "smptebars=size=128x96:rate=10:duration=0.3"
    options = ["-c:v", "libx264rgb", "-pix_fmt", "rgb24"] if pix_fmt == "gbrp" else ["-c:v", "libx264", "-pix_fmt", pix_fmt]
    path = foreign_video(tmp_path / "clip.mp4", *options, "-crf", "1", source=bars)
    reader = imageio_ffmpeg.read_frames(str(path))
    next(reader)
    wanted = np.stack([np.frombuffer(raw, np.uint8).reshape(96, 128, 3) for raw in reader])
    found = read(path).frames
    assert np.abs(found.astype(float) - wanted).mean() < 4


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.9])
@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "clip.gif", "still.png"])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, name: str, keep: float) -> None:
    path = write(moving_clip(num_frames=1 if name == "still.png" else 12), tmp_path / name)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(UserError) as caught:
        read(path)
    assert name in caught.value.message and caught.value.cause and caught.value.remedy


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm"])
def test_a_truncated_video_is_described_as_far_as_it_goes(tmp_path: Path, name: str) -> None:
    path = write(moving_clip(num_frames=12), tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert describe(path)["num_frames"] == 12
    path.write_bytes(path.read_bytes()[: int(0.9 * path.stat().st_size)])
    with pytest.warns(UserNote, match=rf"{name} ends early: \d+ of 12 frames are there"):
        facts = describe(path)
    assert 0 < facts["num_frames"] < 12 and facts["record"]


@pytest.mark.parametrize("seconds", [0.7, 1.3], ids=["within the first pictures", "behind a later key frame"])
def test_a_video_cut_without_being_encoded_again_begins_where_it_was_cut(tmp_path: Path, seconds: float) -> None:
    whole = foreign_video(tmp_path / "whole.mp4", "-g", "10", "-bf", "0", source="testsrc=size=64x48:rate=10:duration=3")
    path = tmp_path / "cut.mp4"
    cut = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-ss", str(seconds), "-i", str(whole), "-c", "copy"]
    subprocess.run([*cut, "-movflags", "+faststart", str(path)], check=True, capture_output=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        facts, clip = describe(path), read(path)
    left = round(30 - 10 * seconds)
    assert facts["num_frames"] == clip.num_frames == left and facts["duration"] == left / 10
    assert np.array_equal(clip.frames, read(whole).frames[-left:])
    path.write_bytes(path.read_bytes()[: int(0.7 * path.stat().st_size)])
    with pytest.warns(UserNote, match=f"of {left} frames are there"):
        describe(path)
    with pytest.raises(UserError, match="cannot be read as a clip"):
        read(path)


@pytest.mark.parametrize(
    "options",
    [
        ["-output_ts_offset", "1", "-movflags", "+frag_keyframe+empty_moov"],
        ["-vf", "setpts='if(gt(N,8),3*N,N)/10/TB'", "-fps_mode", "vfr"],
        ["-vf", "setpts='(N+0.4*mod(N,3))/10/TB'", "-fps_mode", "vfr", "-bf", "2"],
    ],
    ids=["in fragments, the first ones gone", "its last picture stays", "uneven"],
)
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_videos_of_uneven_times_do_not_end_early(tmp_path: Path, options: list[str], cut: bool) -> None:
    path = foreign_video(tmp_path / "whole.mp4", *options)
    if cut:
        whole, path = path, tmp_path / "cut.mp4"
        remux = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-ss", "0.35", "-i", str(whole), "-c", "copy", str(path)]
        subprocess.run(remux, check=True, capture_output=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        facts, clip = describe(path), read(path)
    assert 5 <= facts["num_frames"] == clip.num_frames <= 10


@pytest.mark.parametrize(("content", "words"), [(b"", "it is empty"), (b"just a text\n" * 9, "does not start as")])
@pytest.mark.parametrize("question", [read, read_record, describe])
def test_another_kind_of_file_is_refused(tmp_path: Path, question: object, content: bytes, words: str) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    assert callable(question)
    with pytest.raises(UserError) as caught:
        question(path)
    assert words in caught.value.cause


def test_noise_behind_a_good_start_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(4000)
    for name in ("clip.mp4", "clip.webm", "clip.gif", "still.png"):
        path = write(moving_clip(num_frames=1), tmp_path / name)
        path.write_bytes(path.read_bytes()[:40] + noise)
        with pytest.raises(UserError):
            read(path)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no"):
        read(tmp_path / "clip.mp4")
    with pytest.raises(UserError, match="cannot be read") as caught:
        read(tmp_path)
    assert "frame_0000.png" in caught.value.cause


def test_a_folder_with_a_gap_or_two_sizes_is_refused(tmp_path: Path) -> None:
    path = write(moving_clip(num_frames=4), tmp_path / "frames")
    Image.fromarray(moving_scene(1, 32, 32)[0]).save(path / "frame_0002.png")
    with pytest.raises(UserError, match=r"frame_0002\.png has another size"):
        read(path)
    (path / "frame_0002.png").unlink()
    with pytest.raises(UserError, match=r"missing before frame_0003\.png"):
        read(path)


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    path = write(moving_clip(num_frames=3), tmp_path / "clip.gif").rename(tmp_path / "clip.mp4")
    assert describe(path)["kind"] == "gif" and read(path).num_frames == 3


def test_a_video_in_an_unknown_format_is_refused(tmp_path: Path) -> None:
    path = write(moving_clip(num_frames=2), tmp_path / "clip.mp4")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    for question in (read, describe):
        with pytest.raises(UserError, match=r"clip\.mp4 cannot be read"):
            question(path)
