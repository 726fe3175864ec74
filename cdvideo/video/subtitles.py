"""Captions as text that a player shows: .srt, WebVTT, and the track inside an MP4 or WebM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from cdvideo.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Cue:
    """A text that is seen in the frames [start, end) of a film, counted from its first. Blank lines in it are dropped.

    Raises UserError where the text is blank or the cue lasts no frame.
    """

    start: int
    end: int
    text: str

    def __post_init__(self) -> None:
        lines = [line.strip() for line in self.text.splitlines()]
        object.__setattr__(self, "text", "\n".join(line for line in lines if line))
        if not self.text:
            raise UserError("A caption is blank.", remedy="leave it out, or give it words")
        if not 0 <= self.start < self.end:
            raise UserError(f"The caption {self.text!r} lasts no frame.", cause=f"from frame {self.start} to {self.end}")


def to_srt(cues: Sequence[Cue], fps: float) -> str:
    """The text of an .srt file, UTF-8 when written; times are rounded to the millisecond."""
    return "".join(
        f"{number}\n{_time(cue.start, fps, ',')} --> {_time(cue.end, fps, ',')}\n{cue.text}\n\n" for number, cue in enumerate(cues, 1)
    )


def to_webvtt(cues: Sequence[Cue], fps: float) -> str:
    """The text of a WebVTT file, for an HTML <track>; what the format would read as markup is escaped."""
    blocks = (f"{_time(cue.start, fps, '.')} --> {_time(cue.end, fps, '.')}\n{escape(cue.text, quote=False)}\n" for cue in cues)
    return "\n".join(["WEBVTT\n", *blocks])


def _time(frame: int, fps: float, point: str) -> str:
    milliseconds = round(1000 * frame / fps)
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{point}{milliseconds:03d}"
