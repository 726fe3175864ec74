"""What the report has found, before it is written down. Pictures and clips are paths; a page shows them from where they lie."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdvideo.pocket.report.figures import Figure
from cdvideo.pocket.report.prompts import Prompt

Label = str | None
PARTS = ("subject", "worn", "held", "place")


@dataclass(frozen=True, kw_only=True)
class JudgedStill:
    """A picture, and what the judge sees in it by label."""

    prompt: Prompt
    path: Path
    seen: dict[str, Label]

    def right(self, part: str) -> bool:
        return self.seen[part] == self.prompt.expected[part]

    @property
    def all_right(self) -> bool:
        return all(self.right(part) for part in self.prompt.named)


@dataclass(frozen=True, kw_only=True)
class JudgedClip:
    prompt: Prompt
    path: Path
    seen: Label
    cosine_to_first: float | None
    cosine_to_neighbour: float | None

    @property
    def right(self) -> bool:
        return self.seen == self.prompt.expected["motion"]


@dataclass(frozen=True, kw_only=True)
class JudgedCamera:
    """A clip with a MotionLoRA; `drift` is the content's motion with it, `without` that of the same prompt and noise without it."""

    camera: str
    prompt: str
    path: Path
    drift: dict[str, float]
    without: dict[str, float]
    right: bool


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A measure over training steps for one method: value and interval at each number of steps."""

    method: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A paired difference of means over the same subjects, prompts and noise, with its interval."""

    measure: str
    steps: int
    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        return "higher" if self.low > 0 else "lower" if self.high < 0 else "not told apart"


@dataclass(frozen=True, kw_only=True)
class Example:
    """One prompt of one subject: the picture of each method at each number of steps."""

    prompt: str
    pictures: dict[str, dict[int, Path]]


@dataclass(frozen=True, kw_only=True)
class Phenomenon:
    subjects: tuple[str, ...]
    num_prompts: int
    guidance: float
    learning_rate: float
    curves: dict[str, list[Curve]]
    ceiling: dict[str, Figure]
    differences: list[Difference]
    """ClassDiffusion minus Custom Diffusion, at each number of steps."""
    photos: list[Path]
    """What the first subject was learnt from."""
    examples: list[Example]
    wording: list[str]


@dataclass(kw_only=True)
class Results:
    about: dict[str, str]
    figures: dict[str, Figure]
    stills: list[JudgedStill] = field(default_factory=list)
    clips: list[JudgedClip] = field(default_factory=list)
    cameras: list[JudgedCamera] = field(default_factory=list)
    judge_accuracy: dict[str, float] = field(default_factory=dict)
    logs: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    phenomenon: Phenomenon | None = None

    def by_subject(self) -> dict[str, tuple[int, int]]:
        """(right, all) for each class that was asked for."""
        asked = Counter(still.prompt.expected["subject"] or "" for still in self.stills)
        right = Counter(still.prompt.expected["subject"] or "" for still in self.stills if still.right("subject"))
        return {name: (right[name], asked[name]) for name in sorted(asked)}

    def confusions(self, part: str) -> list[tuple[str, str, int]]:
        """(asked, seen, times), the most frequent first, of the prompts that name the part."""
        wrong = (still for still in self.stills if part in still.prompt.named and not still.right(part))
        pairs = Counter((str(still.prompt.expected[part]), str(still.seen[part] or "nothing")) for still in wrong)
        return [(asked, seen, times) for (asked, seen), times in pairs.most_common()]

    def json_extra(self) -> dict[str, Any]:
        extra: dict[str, Any] = {"about": self.about, "judge_accuracy": self.judge_accuracy}
        extra["subjects"] = {name: {"right": right, "count": count} for name, (right, count) in self.by_subject().items()}
        extra["motions"] = _tally((clip.prompt.expected["motion"] or "", clip.right) for clip in self.clips)
        extra["cameras"] = _tally((clip.camera, clip.right) for clip in self.cameras)
        if self.phenomenon:
            found = self.phenomenon
            extra["phenomenon"] = {
                "subjects": found.subjects,
                "prompts": found.num_prompts,
                "guidance": found.guidance,
                "learning_rate": found.learning_rate,
                "curves": {measure: [vars(curve) for curve in curves] for measure, curves in found.curves.items()},
                "base": {measure: vars(figure) for measure, figure in found.ceiling.items()},
                "classdiffusion_minus_custom_diffusion": [{**vars(one), "verdict": one.verdict} for one in found.differences],
                "wording": found.wording,
            }
        return extra


def _tally(outcomes: Any) -> dict[str, dict[str, int]]:
    tally: dict[str, dict[str, int]] = {}
    for name, right in outcomes:
        entry = tally.setdefault(name, {"right": 0, "count": 0})
        entry["right"] += right
        entry["count"] += 1
    return tally
