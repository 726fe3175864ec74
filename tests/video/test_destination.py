"""Places that cannot be written, disks that fill up, and writes that are interrupted: nothing finished is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cdvideo.errors import UserError
from cdvideo.video import Clip, check_destination, read, write
from cdvideo.video.encode import encode_png
from tests.video.scenes import moving_clip

NAMES = ["clip.mp4", "clip.webm", "clip.gif", "frames"]
_NOBODY = 65534


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def noisy_clip() -> Clip:
    """A clip of far more than a small disk holds, in every format."""
    frames = np.random.default_rng(0).integers(0, 256, (8, 128, 128, 3), dtype=np.uint8)
    return Clip(frames=frames, fps=8, record={"new": True})


@contextlib.contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """As somebody whom file permissions bind, which they do not where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("name", ["", "."])
def test_a_clip_does_not_lie_about_in_the_working_folder(name: str) -> None:
    with pytest.raises(UserError, match="to no name"):
        check_destination(name)
    with pytest.raises(UserError, match="to no name"):
        moving_clip(num_frames=1).save(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_keeps_the_earlier_clip(small_disk: Path, name: str) -> None:
    path = write(moving_clip(num_frames=2, width=32, height=16), small_disk / name)
    before = contents(small_disk)
    with pytest.raises(UserError, match="the disk is full") as caught:
        write(noisy_clip(), path)
    assert str(path) in caught.value.message and caught.value.remedy
    assert contents(small_disk) == before


def test_a_full_disk_shows_before_the_render(small_disk: Path) -> None:
    with contextlib.suppress(OSError):
        (small_disk / "filler").write_bytes(bytes(1 << 20))
    with pytest.raises(UserError, match="the disk is full"):
        check_destination(small_disk / "clip.mp4")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_size_limit_keeps_the_earlier_clip(tmp_path: Path, name: str) -> None:
    path = write(moving_clip(num_frames=2, width=32, height=16), tmp_path / name)
    before = contents(tmp_path)
    with largest_file(8192), pytest.raises(UserError, match="ulimit"):
        write(noisy_clip(), path)
    assert contents(tmp_path) == before


def test_a_failure_removes_the_folders_it_made(tmp_path: Path) -> None:
    with largest_file(8192), pytest.raises(UserError):
        write(noisy_clip(), tmp_path / "new" / "deep" / "clip.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_reports_full_only_when_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(moving_clip(num_frames=2), tmp_path / "clip.gif")
    before = contents(tmp_path)
    calls: list[int] = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:  # the check, the GIF, then the record beside it
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match="the disk is full"):
        write(moving_clip(num_frames=3), path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", NAMES)
def test_ctrl_c_keeps_the_earlier_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = write(moving_clip(num_frames=2), tmp_path / name)
    before = contents(tmp_path)

    def fsync(_: int) -> None:
        if any(tmp_path.rglob("*.partial")):
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(KeyboardInterrupt):
        write(moving_clip(num_frames=5), path)
    assert contents(tmp_path) == before
    assert read(path).num_frames == 2


def test_a_folder_without_write_permission(tmp_path: Path) -> None:
    write(moving_clip(num_frames=2), tmp_path / "warm-up.mp4")  # what is imported late must be readable
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    with without_privileges():
        for path in (locked / "clip.mp4", locked / "new" / "clip.gif", locked / "frames"):
            with pytest.raises(UserError, match="permission denied") as caught:
                check_destination(path)
            assert str(path) in caught.value.message and caught.value.remedy
            with pytest.raises(UserError, match="permission denied"):
                write(moving_clip(num_frames=2), path)
    assert list(locked.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("clip.avi", '".avi" is no format'),
        ("clip.jpg", "NAME.mp4"),
        ("folder.mp4", "it is a folder"),
        ("beside.mp4", "beside.mp4.json cannot be written"),
        ("file", "it is a file"),
        ("file/clip.mp4", "is a file, not a folder"),
        ("file/more/clip.mp4", "is a file, not a folder"),
        ("file/frames", "is a file, not a folder"),
        ("x" * 300 + ".mp4", "too long"),
        ("x" * 250 + ".mp4", "too long"),
    ],
)
def test_a_destination_that_cannot_be(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "beside.mp4.json").mkdir()
    (tmp_path / "file").write_text("mine")
    for attempt in (lambda: check_destination(tmp_path / name), lambda: write(moving_clip(num_frames=2), tmp_path / name)):
        with pytest.raises(UserError) as caught:
            attempt()
        assert words in str(caught.value) and caught.value.remedy
    assert (tmp_path / "file").read_text() == "mine"


def test_a_format_that_cannot_hold_the_clip_is_refused_before_the_render(tmp_path: Path) -> None:
    check_destination(tmp_path / "one.png", num_frames=1)
    check_destination(tmp_path / "clip.gif", fps=50)
    with pytest.raises(UserError, match="a PNG is one picture"):
        check_destination(tmp_path / "many.png", num_frames=2)
    with pytest.raises(UserError, match="at most 50"):
        check_destination(tmp_path / "clip.gif", fps=60)


def test_a_good_destination_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "v1.5").mkdir()
    for name in ("clip.mp4", "new/deep/clip.WEBM", "frames", "v1.5", "v1.6/"):
        check_destination(f"{tmp_path}/{name}")
    assert [path.name for path in tmp_path.iterdir()] == ["v1.5"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    link = tmp_path / "clip.gif"
    link.symlink_to(real / "target.gif")
    write(moving_clip(num_frames=2), link)
    assert link.is_symlink() and (real / "target.gif").stat().st_size > 0
    assert read(link).num_frames == 2


@pytest.mark.parametrize("name", ["frame_0003.png", "record.json"])
def test_frames_of_somebody_else_are_not_lost(tmp_path, name):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / name).write_bytes(encode_png(moving_clip().frames[0], 8)[:40])
    before = contents(folder)
    with pytest.raises(UserError, match="cannot become a folder of frames") as refused:
        write(moving_clip(), folder)
    assert name in refused.value.cause and contents(folder) == before


def test_frames_of_an_earlier_clip_and_other_files_may_be_there(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for _ in range(2):
        write(moving_clip(), tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine" and read(tmp_path).num_frames == moving_clip().num_frames
