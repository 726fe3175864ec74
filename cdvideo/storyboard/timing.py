"""How one shot becomes the next, and where in the film every shot lies. Counts frames and holds none.

A transition belongs to the shot that comes in, and lasts a number of frames:

- a cut takes none;
- a crossfade and a wipe of n frames show the last n frames of one shot together with the first n of the next, so the film gets n
  frames shorter;
- a dip to black of n frames overlaps nothing: it darkens the last (n + 1) // 2 frames of one shot and brightens the first n // 2
  of the next. Of the film's first shot it brightens these, as if a black shot went before.

No two transitions touch the same frame, so a shot has at least as many frames as they take from its two ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeVar, get_args

from cdvideo.errors import UserError

TransitionKind = Literal["cut", "crossfade", "dip", "wipe-left", "wipe-right", "wipe-up", "wipe-down"]
TRANSITION_KINDS: tuple[TransitionKind, ...] = get_args(TransitionKind)

Part = TypeVar("Part")


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
    for index, (length, transition, following) in enumerate(with_neighbours(num_frames, transitions)):
        check_fit(index, length, transition, following)
        starts.append(position - transition.overlap)
        position = starts[-1] + length
    if not starts:
        raise nothing_to_show()
    rulers = [start + transition.overlap // 2 for start, transition in zip(starts, transitions, strict=True)]
    return [
        Placement(start=start, num_frames=length, rules_from=begin, rules_until=until)
        for start, length, (begin, until) in zip(starts, num_frames, pairwise([*rulers, position]), strict=True)
    ]


def with_neighbours(shots: Iterable[Part], transitions: Sequence[Transition]) -> Iterator[tuple[Part, Transition, Transition]]:
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


def check_fit(index: int, length: int, transition: Transition, following: Transition) -> None:
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


def nothing_to_show() -> UserError:
    return UserError("A film has at least one shot.", remedy="add a shot")
