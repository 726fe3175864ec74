"""The frames of a film, streamed: its shots, and the transitions between them. `timing` says what each transition is."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cdvideo.errors import UserError
from cdvideo.storyboard.timing import Transition, TransitionKind, check_fit, nothing_to_show, with_neighbours

_MAX_LIGHT = 65535
# The soft edge of a wipe, as a part of the frame's width or height; a hard one jumps at the few frames per second of a motion module.
_SOFT_EDGE = 1 / 8
_EDGE_LEVELS = 256


def film_frames(clips: Iterable[NDArray[np.uint8]], transitions: Sequence[Transition]) -> Iterator[NDArray[np.uint8]]:
    """The film's frames one by one, each (H, W, 3) uint8 RGB, from its shots' frames, each (F, H, W, 3), and their transitions in.

    `clips` is walked along with the film, and never more than two shots are held. A crossfade mixes
    light, as an optical printer does, so that two equally bright colours stay bright on the way; a dip scales the coded values,
    which the eye sees as even steps. All is integer arithmetic: the same shots give the same film on every machine.

    Raises UserError where a shot differs in size from the one before or a transition does not fit, ValueError where there are more or
    fewer clips than transitions.
    """
    tail: NDArray[np.uint8] | None = None
    for index, (frames, transition, following) in enumerate(with_neighbours(clips, transitions)):
        if tail is None:
            tail = frames[:0]
        if frames.shape[1:] != tail.shape[1:]:
            raise _other_size(index, frames.shape, tail.shape)
        check_fit(index, len(frames), transition, following)
        body_end = len(frames) - following.num_before
        yield from _transition(tail, frames[: transition.num_after], transition)
        yield from frames[transition.num_after : body_end]
        tail = frames[body_end:]
    if tail is None:
        raise nothing_to_show()


def _transition(before: NDArray[np.uint8], after: NDArray[np.uint8], transition: Transition) -> Iterator[NDArray[np.uint8]]:
    count = transition.num_frames
    if transition.kind == "dip":
        # The first shot has nothing before it, but its frames are as bright as if it had.
        first = 0 if len(before) else transition.num_before
        for index, frame in enumerate([*before, *after], start=first):
            yield _dimmed(frame, index, count)
        return
    for index, (old, new) in enumerate(zip(before, after, strict=True), start=1):
        if transition.kind == "crossfade":
            yield _mixed(old, new, np.array(index, np.int32), count + 1)
        else:
            yield _mixed(old, new, _wipe_mask(old.shape, transition.kind, index, count), _EDGE_LEVELS)


def _dimmed(frame: NDArray[np.uint8], index: int, count: int) -> NDArray[np.uint8]:
    """Frame `index` of a dip of `count` frames: even steps down to black, which the middle frame or the middle two have, and up."""
    away = abs(2 * index + 1 - count) - (1 - count % 2)
    whole = count + count % 2
    dimmed: NDArray[np.uint8] = ((frame.astype(np.int32) * away + whole // 2) // whole).astype(np.uint8)
    return dimmed


def _mixed(old: NDArray[np.uint8], new: NDArray[np.uint8], share: NDArray[np.int32], whole: int) -> NDArray[np.uint8]:
    to_light, to_code = _light_tables()
    light = (to_light[old] * (whole - share) + to_light[new] * share + whole // 2) // whole
    return to_code[light]


@functools.cache
def _light_tables() -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """From sRGB values to linear light in [0, 65535] and back, IEC 61966-2-1; there and back is exact."""
    code = np.arange(256) / 255
    to_light = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    light = np.arange(_MAX_LIGHT + 1) / _MAX_LIGHT
    to_code = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(to_light * _MAX_LIGHT).astype(np.int32), np.rint(to_code * 255).astype(np.uint8)


def _wipe_mask(shape: tuple[int, ...], kind: TransitionKind, index: int, count: int) -> NDArray[np.int32]:
    """How much of the new shot is seen at every column or row, out of 256; its soft edge enters and leaves the frame as a whole."""
    horizontal = kind in ("wipe-left", "wipe-right")
    length = shape[1] if horizontal else shape[0]
    soft = max(1, round(length * _SOFT_EDGE))
    # In units of 1 / (2 (count + 1)) of a pixel, so that pixel centres and edge positions are whole numbers.
    unit = 2 * (count + 1)
    edge = (length + soft) * 2 * index
    centres = (2 * np.arange(length, dtype=np.int64) + 1) * (count + 1)
    mask = np.clip((edge - centres) * _EDGE_LEVELS // (soft * unit), 0, _EDGE_LEVELS).astype(np.int32)
    if kind in ("wipe-left", "wipe-up"):
        mask = mask[::-1]
    return mask[None, :, None] if horizontal else mask[:, None, None]


def _other_size(index: int, found: tuple[int, ...], first: tuple[int, ...]) -> UserError:
    return UserError(
        f"Shot {index + 1} does not fit into the film.",
        cause=f"it is {found[2]}x{found[1]} pixels, the one before {first[2]}x{first[1]}",
        remedy="render every shot with the same size",
    )
