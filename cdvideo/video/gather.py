"""Frames that come one by one, as one array; many of them lie on disk, so that a long clip takes no more memory than a short one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdvideo.files import explained

Frame = NDArray[np.uint8]
MOST_IN_MEMORY = 2**26
"""Bytes: some 80 frames of 512x512."""


def gathered(frames: Iterable[Frame]) -> NDArray[np.uint8]:
    """(F, H, W, 3) of frames (H, W, 3) of one size, each of which is let go once the next one comes.

    What is more than `MOST_IN_MEMORY` is an array in a temporary file without a name, which is read where it is looked at and is gone with
    the array. Raises ValueError where there is no frame or one has another shape than the first, UserError where the disk has no room.
    """
    kept: list[Frame] = []
    size = 0
    coming = iter(frames)
    for frame in coming:
        kept.append(frame)
        size += frame.nbytes
        if frame.shape != kept[0].shape:
            raise ValueError(f"a frame is {frame.shape}, the first one {kept[0].shape}")
        if size > MOST_IN_MEMORY:
            return _on_disk(kept, coming)
    if not kept:
        raise ValueError("there is no frame")
    return np.stack(kept)


def _on_disk(first: list[Frame], more: Iterable[Frame]) -> NDArray[np.uint8]:
    shape, count = first[0].shape, 0
    with explained(Path(tempfile.gettempdir()) / "frames"), tempfile.TemporaryFile(prefix="cdvideo-") as file:
        while first:
            file.write(np.ascontiguousarray(first.pop(0)).data)
            count += 1
        for frame in more:
            if frame.shape != shape:
                raise ValueError(f"a frame is {frame.shape}, the first one {shape}")
            file.write(np.ascontiguousarray(frame).data)
            count += 1
        file.flush()
        return np.memmap(file, dtype=np.uint8, mode="r", shape=(count, *shape))
