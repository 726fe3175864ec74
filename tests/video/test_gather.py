"""Frames gathered in memory and on disk: the same array, and few of them alive at once."""

import weakref

import numpy as np
import pytest

from cdvideo.errors import UserError, UserNote
from cdvideo.video import Clip, gather, read
from cdvideo.video.gather import gathered
from cdvideo.video.resampling import resampled

FRAMES = np.random.default_rng(0).integers(0, 256, (50, 16, 24, 3), dtype=np.uint8)


@pytest.fixture
def small_memory(monkeypatch, tmp_path):
    """Three frames may be in memory; returns the folder of temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(gather, "MOST_IN_MEMORY", 3 * FRAMES[0].nbytes)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_in_memory_and_on_disk_it_is_the_same_array(small_memory):
    few, many = gathered(iter(FRAMES[:3])), gathered(frame[:, ::-1] for frame in FRAMES)
    assert type(few) is np.ndarray and np.array_equal(few, FRAMES[:3])
    assert isinstance(many, np.memmap) and np.array_equal(many, FRAMES[:, :, ::-1])
    assert not list(small_memory.iterdir()), "the file has no name"


def test_frames_are_let_go_as_they_come(small_memory):
    alive, most = weakref.WeakSet(), 0

    class Frame(np.ndarray):
        pass

    def frames():
        nonlocal most
        for frame in FRAMES:
            alive.add(made := frame.copy().view(Frame))
            most = max(most, len(alive))
            yield made

    # An ndarray hashes by nothing, and a set of weak references wants it to.
    Frame.__hash__ = object.__hash__
    Frame.__eq__ = object.__eq__
    gathered(frames())
    assert most <= 6


def test_a_clip_on_disk_is_written_read_and_resampled_like_one_in_memory(small_memory, tmp_path):
    in_memory = Clip(frames=FRAMES, fps=8, record={"prompt": "noise"})
    on_disk = Clip(frames=gathered(FRAMES), fps=8, record={"prompt": "noise"})
    for suffix in ("mp4", "gif"):
        in_memory.save(tmp_path / f"memory.{suffix}")
        on_disk.save(tmp_path / f"disk.{suffix}")
        assert (tmp_path / f"memory.{suffix}").read_bytes() == (tmp_path / f"disk.{suffix}").read_bytes()
        again = read(tmp_path / f"disk.{suffix}")
        assert isinstance(again.frames.base, np.memmap) and again.num_frames == 50
    on_disk.save(tmp_path / "frames")
    assert np.array_equal(read(tmp_path / "frames").frames, FRAMES)
    twice = resampled(on_disk, interpolate=16, upscale=2)
    assert twice.frames.shape == (100, 32, 48, 3)
    assert np.array_equal(twice.frames, resampled(in_memory, interpolate=16, upscale=2).frames)


@pytest.mark.parametrize("at", [1, 40], ids=["in memory", "on disk"])
def test_a_frame_of_another_size_and_none_at_all_are_errors(small_memory, at):
    frames = [*FRAMES[:at], FRAMES[0, :8], *FRAMES[at:]]
    with pytest.raises(ValueError, match="a frame is"):
        gathered(frames)
    with pytest.raises(ValueError, match="no frame"):
        gathered([])


def test_where_the_disk_is_full_frames_stay_in_memory(small_memory, monkeypatch):
    class Small:
        """A disk with room for seven frames and a half."""

        def __init__(self, file):
            self.file, self.room = file, 7.5 * FRAMES[0].nbytes

        def write(self, data):
            if self.room <= 0:
                raise OSError(28, "No space left on device")
            written = self.file.write(data[: int(self.room)])
            self.room -= written
            return written

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

    make = gather._temporary_file
    monkeypatch.setattr(gather, "_temporary_file", lambda: Small(make()))
    with pytest.warns(UserNote, match="TMPDIR") as said:
        assert np.array_equal(gathered(FRAMES), FRAMES)
    assert str(small_memory) in str(said[0].message)


def test_what_is_wrong_with_a_late_frame_is_not_the_disks_fault(small_memory, tmp_path):
    Clip(frames=FRAMES, fps=8, record={}).save(tmp_path / "frames")
    damaged = tmp_path / "frames" / "frame_0040.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(UserError, match="frames cannot be read as a clip"):
        read(tmp_path / "frames")
