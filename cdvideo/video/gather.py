"""Frames that come one by one, as one array; many of them lie on disk, so that a long clip takes no more memory than a short one."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import IO

import numpy as np
from numpy.typing import NDArray

from cdvideo.errors import UserNote

Frame = NDArray[np.uint8]
MOST_IN_MEMORY = 2**26
"""Bytes: some 80 frames of 512x512."""


def gathered(frames: Iterable[Frame]) -> NDArray[np.uint8]:
    """(F, H, W, 3) of frames (H, W, 3) of one size, each of which is let go once the next one comes.

    What is more than `MOST_IN_MEMORY` is an array in a temporary file without a name, which is read where it is looked at and is gone with
    the array. Where there is no room for that file, which is said, all stay in memory. Raises ValueError where there is no frame or one has
    another shape than the first.
    """
    kept: list[Frame] = []
    num_bytes = 0
    coming = _of_one_shape(frames)
    for frame in coming:
        kept.append(frame)
        num_bytes += frame.nbytes
        if num_bytes > MOST_IN_MEMORY:
            return _on_disk(kept, coming)
    if not kept:
        raise ValueError("there is no frame")
    return np.stack(kept)


def _of_one_shape(frames: Iterable[Frame]) -> Iterator[Frame]:
    shape = None
    for frame in frames:
        shape = shape or frame.shape
        if frame.shape != shape:
            raise ValueError(f"a frame is {frame.shape}, the first one {shape}")
        yield frame


def _on_disk(first: list[Frame], more: Iterable[Frame]) -> NDArray[np.uint8]:
    shape, num_written = first[0].shape, 0
    in_memory: list[Frame] = []
    with _temporary_file() as file:
        for frame in chain(_emptied(first), more):
            if in_memory or not _is_written(file, frame):
                in_memory.append(frame)
            else:
                num_written += 1
        written = [np.memmap(file, dtype=np.uint8, mode="r", shape=(num_written, *shape))] if num_written else []
        if not in_memory:
            return written[0]
        warnings.warn(
            f"there is no room for a long clip's frames in {tempfile.gettempdir()}: they stay in memory; TMPDIR names another folder",
            UserNote,
            stacklevel=2,
        )
        return np.concatenate([*written, np.stack(in_memory)])


def _temporary_file() -> IO[bytes]:
    return tempfile.TemporaryFile(prefix="cdvideo-", buffering=0)


def _emptied(frames: list[Frame]) -> Iterator[Frame]:
    while frames:
        yield frames.pop(0)


def _is_written(file: IO[bytes], frame: Frame) -> bool:
    rest = np.ascontiguousarray(frame).data.cast("B")
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        return False
    return True
