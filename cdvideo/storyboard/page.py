"""A film's page: one HTML file that plays the film beside it and says how every shot was made. It opens from the disk, without network."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from cdvideo.video import Cue, to_webvtt

Frame = NDArray[np.uint8]

_TYPES = {".mp4": "video/mp4", ".webm": "video/webm"}
_POSTER_WIDTH, _THUMBNAIL_WIDTH = 320, 112
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E%3Crect width='32' height='32' rx='8' "
    "fill='%232460c8'/%3E%3Cpath d='M12 9l12 7-12 7z' fill='white'/%3E%3C/svg%3E"
)


@dataclass(frozen=True, kw_only=True)
class TakeOnPage:
    """A take that was not kept: its file (.mp4, .webm or a picture such as .gif), a frame to show of it, and its scores by name."""

    number: int
    seed: int
    clip: Path
    poster: Frame | None = None
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ShotOnPage:
    """A shot: where it rules the film, in frames [start, end), and how it was made.

    `clip` is its file (.mp4, .webm or a picture such as .gif), `poster` a frame to show of it before it plays; `transition` and
    `camera` in words, empty where there is none; `command` renders it again.
    """

    number: int
    prompt: str
    start: int
    end: int
    num_frames: int
    clip: Path
    seed: int
    command: str
    record: Mapping[str, Any]
    poster: Frame | None = None
    camera: str = ""
    transition: str = ""
    caption: str = ""
    starring: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    take: int | None = None
    other_takes: Sequence[TakeOnPage] = ()


@dataclass(frozen=True, kw_only=True)
class FilmOnPage:
    """A film: its files, the first that a browser can play is played; `downloads` by the words of their links.

    `cues` are the captions that the player shows; leave out those that are burnt in. `facts` are for the page's end: base, motion
    module, concepts, versions.
    """

    title: str
    videos: Sequence[Path]
    width: int
    height: int
    num_frames: int
    fps: float
    shots: Sequence[ShotOnPage]
    poster: Frame | None = None
    downloads: Mapping[str, Path] = field(default_factory=dict)
    cues: Sequence[Cue] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


def film_page(film: FilmOnPage, folder: Path) -> str:
    """The whole page, for an `index.html` in `folder`; films and clips are named relative to it, everything else is inside."""
    here = Path(__file__).parent
    style, script = ((here / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    shots = "".join(_shot(shot, film, folder) for shot in film.shots)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(film.title)}</title><link rel="icon" href="{_ICON}"><style>{style}</style></head><body><main>'
        f'<header><h1>{escape(film.title)}</h1><p class="lead">{_lead(film)}</p></header>'
        f'<div class="stage" style="--ratio:{film.width / film.height:.4f}">{_player(film, folder)}{_chapters(film)}</div>'
        f"{_downloads(film, folder)}"
        f'<section aria-labelledby="shots"><h2 id="shots">Shots</h2>{shots}</section>{_facts(film)}</main>'
        f'<p id="said" class="unseen" role="status"></p><script>{script}</script></body></html>\n'
    )


def _lead(film: FilmOnPage) -> str:
    count, seconds = len(film.shots), film.num_frames / film.fps
    parts = [
        f"{count} shot{'s' if count != 1 else ''}",
        f"{seconds:.3g} seconds" if seconds < 60 else f"{_clock(seconds)} minutes",
        f"{film.width} × {film.height} pixels",
        f"{film.fps:g} frames per second",
    ]
    return " · ".join(parts)


def _player(film: FilmOnPage, folder: Path) -> str:
    shape = f"aspect-ratio:{film.width}/{film.height}"
    if not film.videos:
        moving = [path for path in film.downloads.values() if path.suffix == ".gif"]
        return "".join(f'<img id="film" src="{_link(path, folder)}" style="{shape}" alt="{escape(film.title)}">' for path in moving)
    sources = "".join(f'<source src="{_link(path, folder)}" type="{_TYPES[path.suffix.lower()]}">' for path in film.videos)
    track = ""
    if film.cues:
        # Inside the page: browsers refuse to load a track beside a page that is opened from the disk.
        text = base64.b64encode(to_webvtt(film.cues, film.fps).encode()).decode()
        track = f'<track kind="captions" label="Captions" default src="data:text/vtt;base64,{text}">'
    poster = f' poster="{_picture(film.poster, _POSTER_WIDTH)}"' if film.poster is not None else ""
    return (
        f'<video id="film" controls playsinline preload="metadata" style="{shape}"{poster} aria-label="{escape(film.title)}">'
        f"{sources}{track}</video>"
    )


def _chapters(film: FilmOnPage) -> str:
    entries = "".join(
        f'<li><button type="button" data-start="{_seconds(shot.start, film)}" data-end="{_seconds(shot.end, film)}">'
        f"{_thumbnail(shot)}<span><b>{shot.number}</b> {escape(shot.prompt)}</span>"
        f"<time>{_clock(shot.start / film.fps)}</time></button></li>"
        for shot in film.shots
    )
    return f'<nav aria-label="Shots in the film"><ol id="chapters">{entries}</ol></nav>'


def _thumbnail(shot: ShotOnPage) -> str:
    return f'<img alt="" src="{_picture(shot.poster, _THUMBNAIL_WIDTH)}">' if shot.poster is not None else '<i class="blank"></i>'


def _downloads(film: FilmOnPage, folder: Path) -> str:
    if not film.downloads:
        return ""
    links = "".join(f'<a href="{_link(path, folder)}">{escape(words)}</a>' for words, path in film.downloads.items())
    return f'<p class="downloads">{links}</p>'


def _shot(shot: ShotOnPage, film: FilmOnPage, folder: Path) -> str:
    name = f"shot-{shot.number}"
    caption = f'<p class="caption">“{escape(shot.caption)}”</p>' if shot.caption else ""
    return (
        f'<article class="shot" id="{name}" aria-labelledby="{name}-prompt">'
        f'{_clip(shot.clip, folder, shot.poster, film, f"shot {shot.number}")}<div class="about">'
        f'<h3 id="{name}-prompt"><span class="number">{shot.number}</span>{escape(shot.prompt)}</h3>{caption}'
        f"<dl>{_pairs(_shot_facts(shot, film))}</dl>{_scores(shot)}{_takes(shot, film, folder)}"
        f'<div class="redo"><code id="{name}-command">{escape(shot.command)}</code>'
        f'<button type="button" data-copy="{name}-command" aria-label="Copy the command for shot {shot.number}">Copy</button></div>'
        f'<p class="more"><button type="button" class="plain" data-start="{_seconds(shot.start, film)}">Play in the film</button></p>'
        f"<details><summary>Record of shot {shot.number}</summary>"
        f'<pre tabindex="0">{escape(json.dumps(shot.record, indent=2, ensure_ascii=False))}</pre></details></div></article>'
    )


def _shot_facts(shot: ShotOnPage, film: FilmOnPage) -> Iterable[tuple[str, str]]:
    yield "Time", f"{_clock(shot.start / film.fps)} – {_clock(shot.end / film.fps)}"
    yield "Length", f"{shot.num_frames} frame{'s' if shot.num_frames != 1 else ''}"
    yield "Seed", str(shot.seed)
    if shot.starring:
        yield "Starring", shot.starring
    if shot.camera:
        yield "Camera", shot.camera
    if shot.transition:
        yield "Comes in by", shot.transition


def _scores(shot: ShotOnPage) -> str:
    if not shot.scores:
        return ""
    title = "Scores" if shot.take is None else f"Scores of take {shot.take}, which was kept"
    return f'<h4>{title}</h4><dl class="scores">{_pairs((name, _score(value)) for name, value in shot.scores.items())}</dl>'


def _takes(shot: ShotOnPage, film: FilmOnPage, folder: Path) -> str:
    if not shot.other_takes:
        return ""
    figures = "".join(
        f"<figure>{_clip(take.clip, folder, take.poster, film, f'take {take.number} of shot {shot.number}')}<figcaption>"
        f"<b>Take {take.number}</b>, seed {take.seed}<dl>{_pairs((name, _score(value)) for name, value in take.scores.items())}</dl>"
        f"</figcaption></figure>"
        for take in shot.other_takes
    )
    return f'<h4>Other takes</h4><div class="takes">{figures}</div>'


def _clip(path: Path, folder: Path, poster: Frame | None, film: FilmOnPage, name: str) -> str:
    shape = f"aspect-ratio:{film.width}/{film.height}"
    link = _link(path, folder)
    if path.suffix.lower() not in _TYPES:
        return f'<img class="clip" loading="lazy" style="{shape}" src="{link}" alt="{escape(name)}">'
    # Without a poster the first frame has to be loaded, or there is nothing to see.
    still = f'preload="none" poster="{_picture(poster, _POSTER_WIDTH)}"' if poster is not None else 'preload="metadata"'
    return (
        f'<button type="button" class="clip" aria-pressed="false" aria-label="Play {escape(name)}">'
        f'<video muted loop playsinline {still} style="{shape}" src="{link}" tabindex="-1"></video></button>'
    )


def _facts(film: FilmOnPage) -> str:
    return f'<footer><h2>About this film</h2><dl class="facts">{_pairs(film.facts.items())}</dl></footer>' if film.facts else ""


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    return "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)


def _score(value: float) -> str:
    return f"{value:.3f}"


def _seconds(frame: int, film: FilmOnPage) -> str:
    return f"{frame / film.fps:.4f}"


def _clock(seconds: float) -> str:
    """Such as 0:07.5: minutes, seconds and, where it is not zero, their tenth."""
    tenths = round(10 * seconds)
    fraction = f".{tenths % 10}" if tenths % 10 else ""
    return f"{tenths // 600}:{tenths // 10 % 60:02d}{fraction}"


def _link(path: Path, folder: Path) -> str:
    return escape(quote(Path(os.path.relpath(path, folder)).as_posix()))


def _picture(frame: Frame, width: int) -> str:
    """The frame as an image inside the page, no wider than `width` pixels."""
    from PIL import Image

    image = Image.fromarray(frame)
    image.thumbnail((width, 4 * width), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="jpeg", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
