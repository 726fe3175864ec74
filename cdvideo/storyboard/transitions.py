"""How one shot becomes the next: the frames of a film, streamed, and where in it every shot lies.

A transition belongs to the shot that comes in, and lasts a number of frames:

- a cut takes none;
- a crossfade and a wipe of n frames show the last n frames of one shot together with the first n of the next, so the film gets n
  frames shorter;
- a dip to black of n frames overlaps nothing: it darkens the last (n + 1) // 2 frames of one shot and brightens the first n // 2
  of the next. Of the film's first shot it brightens these, as if a black shot went before.

No two transitions touch the same frame, so a shot has at least as many frames as they take from its two ends.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from cdvideo.errors import UserError

TransitionKind = Literal["cut", "crossfade", "dip", "wipe-left", "wipe-right", "wipe-up", "wipe-down"]
TRANSITION_KINDS: tuple[TransitionKind, ...] = get_args(TransitionKind)

Shot = TypeVar("Shot")

_MAX_LIGHT = 65535
# The soft edge of a wipe, as a part of the frame's width or height; a hard one jumps at the few frames per second of a motion module.
_SOFT_EDGE = 1 / 8
_EDGE_LEVELS = 256


@dataclass(frozen=True, kw_only=True)
class Transition:
    """How a shot comes in. The direction of a wipe says where its edge travels; `num_frames` is 0 for a cut, else at least 1.

    Raises UserError for an unknown kind, and for a number of frames that the kind cannot have.
    """

    kind: TransitionKind = "cut"
    num_frames: int = 0

    def __post_init__(self) -> None:
        if self.kind not in TRANSITION_KINDS:
            raise UserError(f"There is no transition {self.kind!r}.", remedy=f"one of {', '.join(TRANSITION_KINDS)}")
        if self.kind == "cut" and self.num_frames != 0:
            raise UserError(f"A cut takes no frames, not {self.num_frames}.", remedy="leave its frames out, or choose a crossfade")
        if self.kind != "cut" and self.num_frames < 1:
            raise UserError(f"A {self.kind} takes at least one frame, not {self.num_frames}.", remedy="give it frames, or choose a cut")

    @property
    def overlap(self) -> int:
        """Frames in which both shots are seen, and by which the film gets shorter."""
        return 0 if self.kind == "dip" else self.num_frames

    @property
    def num_before(self) -> int:
        """Frames that it takes from the end of the shot before."""
        return (self.num_frames + 1) // 2 if self.kind == "dip" else self.num_frames

    @property
    def num_after(self) -> int:
        """Frames that it takes from the start of the shot that comes in."""
        return self.num_frames // 2 if self.kind == "dip" else self.num_frames


CUT = Transition()


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a shot lies in the film, in frames from the film's first.

    The shot fills [start, end). In an overlap two shots are seen; each rules one half of it, so that [rules_from, rules_until)
    of all shots cover the film without gap or overlap: the time for its caption, its chapter, its place on the page.
    """

    start: int
    num_frames: int
    rules_from: int
    rules_until: int

    @property
    def end(self) -> int:
        return self.start + self.num_frames


def timeline(num_frames: Sequence[int], transitions: Sequence[Transition]) -> list[Placement]:
    """The place of every shot in the film, from the shots' lengths in frames and their transitions in, one per shot.

    The film has as many frames as the last placement's `end`. Raises UserError where there is no shot and where a transition does
    not fit between its shots.
    """
    starts, position = [], 0
    for index, (length, transition, following) in enumerate(_with_neighbours(num_frames, transitions)):
        _check_fit(index, length, transition, following)
        starts.append(position - transition.overlap)
        position = starts[-1] + length
    if not starts:
        raise _nothing_to_show()
    rulers = [start + transition.overlap // 2 for start, transition in zip(starts, transitions, strict=True)]
    return [
        Placement(start=start, num_frames=length, rules_from=begin, rules_until=until)
        for start, length, (begin, until) in zip(starts, num_frames, pairwise([*rulers, position]), strict=True)
    ]


def film_frames(clips: Iterable[NDArray[np.uint8]], transitions: Sequence[Transition]) -> Iterator[NDArray[np.uint8]]:
    """The film's frames one by one, each (H, W, 3) uint8 RGB, from its shots' frames, each (F, H, W, 3), and their transitions in.

    `clips` is walked along with the film, and never more than two shots are held. A crossfade mixes
    light, as an optical printer does, so that two equally bright colours stay bright on the way; a dip scales the coded values,
    which the eye sees as even steps. All is integer arithmetic: the same shots give the same film on every machine.

    Raises UserError where a shot differs in size from the one before or a transition does not fit, ValueError where there are more or
    fewer clips than transitions.
    """
    tail: NDArray[np.uint8] | None = None
    for index, (frames, transition, following) in enumerate(_with_neighbours(clips, transitions)):
        if tail is None:
            tail = frames[:0]
        if frames.shape[1:] != tail.shape[1:]:
            raise _other_size(index, frames.shape, tail.shape)
        _check_fit(index, len(frames), transition, following)
        body_end = len(frames) - following.num_before
        yield from _transition(tail, frames[: transition.num_after], transition)
        yield from frames[transition.num_after : body_end]
        tail = frames[body_end:]
    if tail is None:
        raise _nothing_to_show()


def _with_neighbours(shots: Iterable[Shot], transitions: Sequence[Transition]) -> Iterator[tuple[Shot, Transition, Transition]]:
    """Every shot with the transition at its start and the one at its end."""
    count = 0
    # Not zip, which keeps hold of a shot that is over.
    for shot in shots:
        if count == len(transitions):
            raise ValueError(f"there are more shots than the {count} transitions")
        yield shot, transitions[count], transitions[count + 1] if count + 1 < len(transitions) else CUT
        count += 1
    if count < len(transitions):
        raise ValueError(f"{count} shots for {len(transitions)} transitions")


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


def _check_fit(index: int, length: int, transition: Transition, following: Transition) -> None:
    if index == 0 and transition.overlap:
        raise UserError(
            f"The film cannot begin with a {transition.kind}.",
            cause="there is no shot before its first",
            remedy="leave that transition out, or choose a dip, which brightens the film from black",
        )
    needed = transition.num_after + following.num_before
    if needed <= length:
        return
    ends = [
        f"its {transition.kind} in takes {transition.num_after}" if transition.num_after else "",
        f"the {following.kind} to shot {index + 2} takes {following.num_before}" if following.num_before else "",
    ]
    raise UserError(
        f"Shot {index + 1} is too short for its transitions: it has {length} frame{'s' if length > 1 else ''}.",
        cause=" and ".join(end for end in ends if end),
        remedy=f"give it at least {needed}, or shorten {'a transition' if all(ends) else 'the transition'}",
    )


def _nothing_to_show() -> UserError:
    return UserError("A film has at least one shot.", remedy="add a shot")


def _other_size(index: int, found: tuple[int, ...], first: tuple[int, ...]) -> UserError:
    return UserError(
        f"Shot {index + 1} does not fit into the film.",
        cause=f"it is {found[2]}x{found[1]} pixels, the one before {first[2]}x{first[1]}",
        remedy="render every shot with the same size",
    )
