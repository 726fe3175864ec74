"""Rendering a storyboard: its shots, then one film with transitions, cards, captions and sound, and a page about it."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdvideo import video
from cdvideo.animate.reuse import DRAFT
from cdvideo.errors import UserNote
from cdvideo.files import replace_files
from cdvideo.storyboard.cards import INK, PAPER, Typeface, captioned, still, title_card, typeface_for
from cdvideo.storyboard.local import LocalExecutor
from cdvideo.storyboard.ownership import SHOTS, check_files, check_owner, own
from cdvideo.storyboard.page import FilmOnPage, ShotOnPage, TakeOnPage, film_page
from cdvideo.storyboard.planning import FilmPlan, PlannedCard
from cdvideo.storyboard.shots import OnTake
from cdvideo.storyboard.subtitles import caption_cues
from cdvideo.storyboard.takes import RenderedShot, Take, slug
from cdvideo.storyboard.timing import Placement, timeline
from cdvideo.storyboard.transitions import film_frames
from cdvideo.storyboard.workers import Executor, Rendering, render_shots
from cdvideo.video.sheet import evenly_picked

FORMATS = ("mp4", "gif", "webm")
SHEET_COLUMNS = 6


@dataclass(frozen=True, kw_only=True)
class Film:
    """Where a rendered film lies: `files` by suffix, the contact sheet, the page. All three are empty while shots of it are missing."""

    folder: Path
    shots: Sequence[RenderedShot]
    missing: Sequence[int]
    num_rendered: int
    files: Mapping[str, Path] = field(default_factory=dict)
    sheet: Path | None = None
    page: Path | None = None


def render(
    plan: FilmPlan,
    source: Path,
    out: Path,
    *,
    only: Collection[int] = (),
    formats: Sequence[str] = FORMATS,
    speed: str = "exact",
    device: str = "auto",
    dtype: str = "auto",
    workers: int | None = None,
    executor: Executor | None = None,
    overwrite: bool = False,
    on_take: OnTake | None = None,
) -> Film:
    """The film of a plan, whose storyboard was read from `source`, in the folder `out`: shots that lie there are not rendered again.

    With `only`, of the shots that are not there those of these numbers (from 1) alone are rendered, with what they continue; the film is
    put together once none is missing. `workers` of the executor, processes of this machine by default, share the shots: one for each GPU,
    or core with a small base, unless said otherwise. Raises UserError before anything is rendered for what can be known by then: where the
    film of another storyboard lies, or somebody's own files, too, which only `overwrite` replaces.
    """
    look = _Look.of(plan)
    paths = {suffix: out / f"{slug(plan.title)}.{suffix}" for suffix in formats}
    for path in (*paths.values(), out / SHOTS):
        video.check_destination(path, fps=plan.fps)
    if not overwrite:
        check_owner(out, source)
        check_files(out, _every_file(plan, out))
    if look.sound:
        video.check_sound(look.sound, plan.seconds)
    rendering = rendering_of(plan, out, only=only, device=device, dtype=dtype, speed=speed)
    made = render_shots(rendering, executor or LocalExecutor(), workers, on_take)
    own(out, source, _every_file(plan, out))
    found = [shot for one in made for shot in one.shots]
    rendered = [shot for shot in found if shot]
    num_rendered = sum(one.num_takes for one in made)
    if len(rendered) < len(found):
        missing = [planned.number for planned, shot in zip(plan.shots, found, strict=True) if shot is None]
        return Film(folder=out, shots=rendered, missing=missing, num_rendered=num_rendered)
    return _put_together(plan, look, rendered, source, out, paths, num_rendered)


def rendering_of(plan: FilmPlan, out: Path, *, only: Collection[int] = (), **settings: Any) -> Rendering:
    """What every worker has to know of the film in `out`; `settings` are further ones of a Rendering, `only` as for `render`."""
    return Rendering(plan=plan, folder=out / SHOTS, wanted=with_what_they_continue(plan, only), **settings)


def with_what_they_continue(plan: FilmPlan, only: Collection[int]) -> set[int]:
    """The numbers of the shots to render: all where `only` is empty, else those and every shot whose last frame one of them begins with."""
    wanted = set(only) or {shot.number for shot in plan.shots}
    for shot in reversed(plan.shots):
        if shot.number in wanted and shot.continues:
            wanted.add(shot.number - 1)
    return wanted


def _beside(plan: FilmPlan, out: Path) -> tuple[Path, Path, Path]:
    """The subtitles, the contact sheet and the page of the film in `out`."""
    name = slug(plan.title)
    return out / f"{name}.srt", out / f"{name}-sheet.png", out / "index.html"


def _every_file(plan: FilmPlan, out: Path) -> list[Path]:
    """All files that the film may have in `out`, in whichever formats it is asked for."""
    return [*(out / f"{slug(plan.title)}.{suffix}" for suffix in FORMATS), *_beside(plan, out)]


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What of a film is no shot: where everything lies, what is written into it, and how it sounds."""

    plan: FilmPlan
    places: Sequence[Placement]
    burnt: Sequence[video.Cue]
    track: Sequence[video.Cue]
    typeface: Typeface

    @classmethod
    def of(cls, plan: FilmPlan) -> _Look:
        """Raises UserError for letters that no font has."""
        places = timeline([length for length, _ in plan.parts], [transition for _, transition in plan.parts])
        before, after = [None] * bool(plan.title_card), [None] * bool(plan.end_card)

        def cues(*, burn: bool) -> list[video.Cue]:
            own = [shot.caption.text if shot.caption and shot.caption.burn == burn else None for shot in plan.shots]
            return caption_cues(places, [*before, *own, *after])

        burnt = cues(burn=True)
        return cls(
            plan=plan,
            places=places,
            burnt=burnt,
            track=cues(burn=False),
            typeface=typeface_for(plan.drawn_texts, plan.font),
        )

    @property
    def num_frames(self) -> int:
        return self.places[-1].end

    @property
    def shot_places(self) -> Sequence[Placement]:
        start = 1 if self.plan.title_card else 0
        return self.places[start : start + len(self.plan.shots)]

    @property
    def sound(self) -> video.Sound | None:
        audio = self.plan.audio
        if audio is None:
            return None
        return video.Sound(path=audio.path, offset=audio.offset, gain=audio.gain, fade_in=audio.fade_in, fade_out=audio.fade_out)

    def frames(self, shots: Sequence[RenderedShot], cues: Sequence[video.Cue]) -> Iterator[NDArray[np.uint8]]:
        """The film's frames, read shot by shot."""
        joined = film_frames(self._clips(shots), [transition for _, transition in self.plan.parts])
        return captioned(joined, cues, typeface=self.typeface)

    def _clips(self, shots: Sequence[RenderedShot]) -> Iterator[NDArray[np.uint8]]:
        size = shots[0].kept.record["size"]
        if self.plan.title_card:
            yield self._card(self.plan.title_card, *size)
        for shot in shots:
            yield shot.kept.clip().frames
        if self.plan.end_card:
            yield self._card(self.plan.end_card, *size)

    def _card(self, card: PlannedCard, width: int, height: int) -> NDArray[np.uint8]:
        frame = title_card(
            card.text,
            width=width,
            height=height,
            subtitle=card.subtitle,
            typeface=self.typeface,
            ink=card.colour or INK,
            paper=card.background or PAPER,
        )
        return still(frame, card.num_frames)


def _put_together(
    plan: FilmPlan, look: _Look, shots: Sequence[RenderedShot], source: Path, out: Path, paths: Mapping[str, Path], num_rendered: int
) -> Film:
    records = [shot.kept.record for shot in shots]
    record = {"kind": "film", "title": plan.title, "fps": plan.fps, "shots": records}
    # A GIF has no subtitle track, so all of its captions are drawn.
    every_cue = sorted([*look.burnt, *look.track], key=lambda cue: cue.start)
    for suffix, path in paths.items():
        has_tracks = suffix in ("mp4", "webm")
        drawn = look.burnt if has_tracks else every_cue
        video.write_frames(
            lambda drawn=drawn: look.frames(shots, drawn),  # type: ignore[misc]
            path,
            num_frames=look.num_frames,
            fps=plan.fps,
            record=record,
            sound=look.sound if has_tracks else None,
            cues=look.track if has_tracks else (),
        )
    for suffix in FORMATS:
        if suffix not in paths and (old := out / f"{slug(plan.title)}.{suffix}").exists():
            warnings.warn(f"{old} is of an earlier rendering; --format {suffix} writes it anew", UserNote, stacklevel=2)
    files = dict(paths)
    subtitles, sheet, page = _beside(plan, out)
    # Burnt captions are no subtitles: players that find the file would show them twice.
    if look.track:
        files["srt"] = subtitles
        replace_files(subtitles, [(subtitles, video.to_srt(look.track, plan.fps).encode())])
    else:
        subtitles.unlink(missing_ok=True)
    rows = [_picked(shot.kept.clip().frames) for shot in shots]
    video.contact_sheet(rows, columns=SHEET_COLUMNS, labels=[f"{shot.shot.number}. {shot.shot.prompt}" for shot in shots]).save(sheet)
    described = _on_page(plan, look, shots, records, files | {"contact sheet": sheet}, source, out)
    replace_files(page, [(page, film_page(described, out).encode())])
    return Film(folder=out, shots=shots, missing=(), num_rendered=num_rendered, files=files, sheet=sheet, page=page)


def _picked(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return frames[evenly_picked(len(frames), SHEET_COLUMNS)]


def _middle(take: Take) -> NDArray[np.uint8]:
    frames = take.clip().frames
    return frames[len(frames) // 2]


def _on_page(
    plan: FilmPlan,
    look: _Look,
    shots: Sequence[RenderedShot],
    records: Sequence[dict[str, Any]],
    files: Mapping[str, Path],
    source: Path,
    out: Path,
) -> FilmOnPage:
    shown = [
        ShotOnPage(
            number=shot.shot.number,
            prompt=shot.shot.prompt,
            start=place.rules_from,
            end=place.rules_until,
            num_frames=shot.shot.num_frames,
            clip=shot.kept.mp4,
            seed=shot.kept.seed,
            command=_command(shot, record, source, out),
            record=record,
            poster=_middle(shot.kept),
            camera=", ".join(shot.shot.cameras),
            transition=f"{shot.shot.transition.kind} of {shot.shot.transition.num_frames} frames"
            if shot.shot.transition.num_frames
            else "",
            caption=shot.shot.caption.text if shot.shot.caption else "",
            starring=", ".join(name for star in shot.shot.starring for name in star.names),
            scores=shot.kept.scores,
            take=shot.kept.number if len(shot.takes) > 1 else None,
            other_takes=[
                TakeOnPage(number=take.number, seed=take.seed, clip=take.mp4, poster=_middle(take), scores=take.scores)
                for take in shot.takes
                if take is not shot.kept
            ],
        )
        for shot, place, record in zip(shots, look.shot_places, records, strict=True)
    ]
    first = records[0]
    width, height = first["size"]
    facts = {
        "base": str(first["base"]),
        "motion module": str(first["motion"]),
        "concepts": ", ".join(dict.fromkeys(str(path) for shot in plan.shots for path in shot.concepts)),
        "LoRAs": ", ".join(f"{source} at {strength:g}" for source, strength in plan.loras),
        "palette": plan.palette or "",
        "made with": ", ".join(f"{name} {version}" for name, version in first["versions"].items()),
    }
    return FilmOnPage(
        title=plan.title,
        videos=[files[suffix] for suffix in ("mp4", "webm") if suffix in files],
        width=width,
        height=height,
        num_frames=look.num_frames,
        fps=plan.fps,
        shots=shown,
        poster=shown[0].poster,
        downloads={"WebM" if name == "webm" else name.upper() if len(name) == 3 else name: path for name, path in files.items()},
        cues=look.track,
        facts={name: text for name, text in facts.items() if text},
    )


def _command(shot: RenderedShot, record: Mapping[str, Any], source: Path, out: Path) -> str:
    """What makes the shot again: from its own record, or, where it began with a frame that is in no file, from the storyboard."""
    start = record.get("init")
    if start and not start["file"]:
        # A draft lies in a folder of the film's own.
        draft = record["speed"]["name"] == DRAFT.name
        folder = shlex.quote(str(out.parent if draft else out))
        command = f"cdvideo storyboard render {shlex.quote(str(source))} --only {shot.shot.number} --out {folder}"
        return f"{command} --draft" if draft else command
    return f"cdvideo animate --replay {shlex.quote(str(shot.kept.mp4))}"
