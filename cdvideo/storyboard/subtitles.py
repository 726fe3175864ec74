"""A film's captions over its time, from the captions of its shots."""

from __future__ import annotations

from collections.abc import Sequence

from cdvideo.storyboard.timing import Placement
from cdvideo.video import Cue


def caption_cues(placements: Sequence[Placement], captions: Sequence[str | None]) -> list[Cue]:
    """One cue for every shot that has a caption, while that shot rules the picture; no two overlap.

    The same caption on shots that follow each other is one cue, which does not blink at the cut. Raises UserError for a blank one.
    """
    cues: list[Cue] = []
    for placement, caption in zip(placements, captions, strict=True):
        if caption is None or placement.rules_from == placement.rules_until:
            continue
        cue = Cue(start=placement.rules_from, end=placement.rules_until, text=caption)
        if cues and cues[-1].text == cue.text and cues[-1].end == cue.start:
            cue = Cue(start=cues.pop().start, end=cue.end, text=cue.text)
        cues.append(cue)
    return cues
