"""From a storyboard to what is to be rendered: every default filled in, every name a token, every length in frames. Imports no torch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from cdvideo.concept import ConceptHeader, in_concepts, read_header
from cdvideo.errors import UserError
from cdvideo.storyboard.casting import Cast, Company, Star, Trouble, assemble, company
from cdvideo.storyboard.mistakes import spelled
from cdvideo.storyboard.script import MAX_FRAMES, Audio, Card, KeyPath, Shot, Storyboard, TransitionIn, Travel
from cdvideo.storyboard.timing import CUT, Transition, TransitionKind
from cdvideo.strengths import split_strength

USUAL_FRAMES = 16
USUAL_TRANSITION_SECONDS = 0.5
Colour = tuple[int, int, int]
_KINDS: Mapping[str, TransitionKind] = {
    "cut": "cut",
    "crossfade": "crossfade",
    "dip-to-black": "dip",
    "wipe": "wipe-right",
    "wipe-left": "wipe-left",
    "wipe-right": "wipe-right",
    "wipe-up": "wipe-up",
    "wipe-down": "wipe-down",
}


@dataclass(frozen=True, kw_only=True)
class PlannedCaption:
    """Words to a shot, in the picture or in the subtitle track."""

    text: str
    burn: bool


@dataclass(frozen=True, kw_only=True)
class PlannedCard:
    """A title or end card: `subtitle` may be empty; colours are red, green and blue in [0, 255], or None for the card's own."""

    text: str
    subtitle: str
    num_frames: int
    colour: Colour | None
    background: Colour | None
    transition: Transition = CUT


@dataclass(frozen=True, kw_only=True)
class PlannedAudio:
    """The film's sound. `offset` seconds of the file are skipped, or, where negative, pass in silence before it; `gain` in decibels."""

    path: Path
    offset: float
    gain: float
    fade_in: float
    fade_out: float


@dataclass(frozen=True, kw_only=True)
class PlannedShot:
    """All that decides a shot. None is what the base decides; `number` counts from 1.

    `prompts` by frame name the concepts of `starring`, given to the base in that order; `plain_prompts` are the same without tokens.
    Take n, from 1, has the seed `seed + n - 1`.
    """

    number: int
    prompts: Mapping[int, str]
    plain_prompts: Mapping[int, str]
    travel: Travel
    starring: tuple[Star, ...]
    num_frames: int
    fps: float
    size: tuple[int, int] | None
    seed: int
    negative: str | None
    guidance_scale: float | None
    num_inference_steps: int | None
    cameras: tuple[str, ...]
    transition: Transition
    caption: PlannedCaption | None
    start: Path | None
    continues: bool
    takes: int
    keep: Literal["best"] | int

    @property
    def prompt(self) -> str:
        """The prompts in one line, for people."""
        return " -> ".join(self.prompts.values())

    @property
    def concepts(self) -> tuple[Path, ...]:
        return tuple(star.concept for star in self.starring)


@dataclass(frozen=True, kw_only=True)
class FilmPlan:
    """All that decides a film. `base` and `motion` are names; motion None is the base's own, and font None a plain one.

    `loras` are LoRAs for the image model, each a file, alias or hub id, and its strength.
    """

    title: str
    base: str
    motion: str | None
    loras: tuple[tuple[str, float], ...]
    fps: float
    palette: str | None
    shots: tuple[PlannedShot, ...]
    title_card: PlannedCard | None
    end_card: PlannedCard | None
    audio: PlannedAudio | None
    font: Path | None

    @property
    def parts(self) -> list[tuple[int, Transition]]:
        """Length in frames and transition in of everything that follows one another: the title card, the shots, the end card."""
        cards = [self.title_card, *self.shots, self.end_card]
        return [(part.num_frames, part.transition) for part in cards if part is not None]

    @property
    def drawn_texts(self) -> list[str]:
        """All that is drawn into pictures: cards and captions, since a GIF has no track for those that are not burnt."""
        cards = [text for card in (self.title_card, self.end_card) if card for text in (card.text, card.subtitle)]
        return [*cards, *(shot.caption.text for shot in self.shots if shot.caption)]

    @property
    def num_frames(self) -> int:
        return sum(length - transition.overlap for length, transition in self.parts)

    @property
    def seconds(self) -> float:
        return self.num_frames / self.fps


def plan_film(storyboard: Storyboard, source: Path, headers: Mapping[Path, ConceptHeader] | None = None) -> FilmPlan:
    """The plan of a storyboard that was read from `source`; `headers` of its concept files are read where they are not given.

    Pure but for looking where files lie. Raises UserError about the first thing that cannot be; `checking.check` finds all of them.
    """
    files = {name: find_file(member.concept, source, what="concept") for name, member in storyboard.cast.items()}
    known = dict(headers or {})
    for file in files.values():
        if file not in known:
            known[file] = read_header(file)
    cast, troubles = assemble(storyboard.cast, files, known)
    plan, found = planned(storyboard, source, cast, known)
    for trouble in [*troubles, *found]:
        raise UserError(f"{source}: {spelled(trouble.path)}: {trouble.message}", remedy=trouble.suggestion)
    return plan


def planned(storyboard: Storyboard, source: Path, cast: Cast, headers: Mapping[Path, ConceptHeader]) -> tuple[FilmPlan, list[Trouble]]:
    """The plan of a film with this cast, as far as there can be one, and what stands in its way."""
    companies = [company(storyboard, number, cast) for number in range(len(storyboard.shots))]
    troubles = [trouble for one in companies for trouble in one.troubles]
    defaults = storyboard.defaults
    base = storyboard.base or next((headers[file].base for file in cast.tokens), "pocket")
    entrances = [_transition(wanted, defaults.fps) for _, wanted in _entrances(storyboard)]
    title = _card(storyboard.title_card, storyboard.title, defaults.fps, CUT)
    end = _card(storyboard.end_card, "The end", defaults.fps, entrances[-1])
    shots = tuple(
        _planned_shot(storyboard, number, source, together, transition)
        for number, (together, transition) in enumerate(zip(companies, entrances[title is not None :], strict=False))
    )
    audio = _audio(storyboard.audio, source) if storyboard.audio else None
    loras = []
    for number, text in enumerate(storyboard.look.lora):
        try:
            loras.append(lora_of(text, source))
        except UserError as error:
            troubles.append(Trouble(("look", "lora", number), error.message, error.remedy))
    plan = FilmPlan(
        title=storyboard.title,
        base=base,
        motion=storyboard.motion,
        loras=tuple(loras),
        fps=defaults.fps,
        palette=storyboard.look.palette,
        shots=shots,
        title_card=title,
        end_card=end,
        audio=audio,
        font=locate(storyboard.font, source) if storyboard.font else None,
    )
    troubles += [trouble for number in range(len(shots)) for trouble in _impossible(storyboard, number, plan)]
    troubles += _misfits(storyboard, plan)
    return plan, troubles


def _planned_shot(storyboard: Storyboard, number: int, source: Path, company: Company, transition: Transition) -> PlannedShot:
    shot, defaults = storyboard.shots[number], storyboard.defaults
    caption = shot.caption
    return PlannedShot(
        number=number + 1,
        prompts=company.prompts,
        plain_prompts=company.plain_prompts,
        travel=shot.travel or defaults.travel,
        starring=company.starring,
        num_frames=num_frames(storyboard, shot),
        fps=defaults.fps,
        size=_size(defaults.size),
        seed=_chosen(shot.seed, defaults.seed),
        negative=_chosen(shot.negative, storyboard.look.negative),
        guidance_scale=_chosen(shot.guidance, defaults.guidance),
        num_inference_steps=_chosen(shot.steps, defaults.steps),
        cameras=_chosen(shot.camera, defaults.camera),
        transition=transition,
        caption=PlannedCaption(text=caption.text, burn=_chosen(caption.burn, defaults.burn)) if caption else None,
        start=locate(shot.start, source) if shot.start else None,
        continues=shot.continues,
        takes=_chosen(shot.takes, defaults.takes),
        keep=_chosen(shot.keep, defaults.keep),
    )


Value = TypeVar("Value")


def _chosen(own: Value | None, common: Value) -> Value:
    return common if own is None else own


def num_frames(storyboard: Storyboard, shot: Shot) -> int:
    """Frames of a shot: its own length, or the defaults', in frames or in seconds."""
    defaults = storyboard.defaults
    for section in (shot, defaults):
        if section.frames is not None:
            return section.frames
        if section.seconds is not None:
            return _frames_in(section.seconds, defaults.fps)
    return USUAL_FRAMES


def _frames_in(seconds: float, fps: float) -> int:
    return math.floor(seconds * fps + 0.5)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.partition("x")
    return int(width), int(height)


def _entrances(storyboard: Storyboard) -> list[tuple[KeyPath, TransitionIn | None]]:
    """How the title card, the shots and the end card come in, and where that is said; the film's beginning only as it says itself."""
    default: tuple[KeyPath, TransitionIn | None] = (("defaults", "transition"), storyboard.defaults.transition)
    found: list[tuple[KeyPath, TransitionIn | None]] = [(("title_card",), None)] if storyboard.title_card else []
    for number, shot in enumerate(storyboard.shots):
        is_said = shot.transition is not None or not found
        found.append((("shots", number, "transition"), shot.transition) if is_said else default)
    if storyboard.end_card:
        own = storyboard.end_card.transition
        found.append((("end_card", "transition"), own) if own is not None else default)
    return found


def _num_transition_frames(wanted: TransitionIn, fps: float) -> int:
    return 0 if wanted.kind == "cut" else _frames_in(wanted.seconds or USUAL_TRANSITION_SECONDS, fps)


def _transition(wanted: TransitionIn | None, fps: float) -> Transition:
    """What is wanted; a cut where it would last no frame."""
    count = _num_transition_frames(wanted, fps) if wanted else 0
    return Transition(kind=_KINDS[wanted.kind], num_frames=count) if wanted and count else CUT


def _card(card: Card | None, text: str, fps: float, transition: Transition) -> PlannedCard | None:
    if card is None:
        return None
    return PlannedCard(
        text=card.text or text,
        subtitle=card.subtitle or "",
        num_frames=_frames_in(card.seconds, fps),
        colour=_rgb(card.colour),
        background=_rgb(card.background),
        transition=transition,
    )


def _rgb(text: str | None) -> Colour | None:
    if text is None:
        return None
    red, green, blue = bytes.fromhex(text.removeprefix("#"))
    return red, green, blue


def _audio(audio: Audio, source: Path) -> PlannedAudio:
    path = locate(audio.file, source)
    return PlannedAudio(path=path, offset=audio.offset, gain=audio.gain, fade_in=audio.fade_in, fade_out=audio.fade_out)


def _impossible(storyboard: Storyboard, number: int, plan: FilmPlan) -> Iterator[Trouble]:
    """What of a shot contradicts itself once its length is known."""
    shot, planned_shot = storyboard.shots[number], plan.shots[number]
    path: KeyPath = ("shots", number)
    length = planned_shot.num_frames
    if not 1 <= length <= MAX_FRAMES:
        where = (*path, "seconds") if shot.seconds is not None else ("defaults", "seconds")
        seconds = f"from {1 / plan.fps:.3g} to {MAX_FRAMES / plan.fps:.4g} seconds"
        yield Trouble(where, f"{length} frames at {plan.fps:g} a second; a shot has 1 to {MAX_FRAMES}", f"give it {seconds}")
        return
    for frame in (frame for frame in planned_shot.prompts if frame >= length):
        yield Trouble((*path, "prompts", str(frame)), f"the shot ends with frame {length - 1}", "give it an earlier frame")
    for name, course in shot.strengths.items():
        if late := [frame for frame in course if frame >= length]:
            yield Trouble((*path, "strengths", name), f"frame {late[0]}: the shot ends with frame {length - 1}", "give it an earlier frame")
    if planned_shot.continues and number == 0:
        yield Trouble((*path, "continue"), "the first shot has none before it to continue", "leave it out, or give a start picture")
    if planned_shot.num_inference_steps == 1 and (planned_shot.continues or planned_shot.start):
        where = (*path, "steps") if shot.steps is not None else ("defaults", "steps")
        yield Trouble(
            where, "a shot that starts from a picture draws only a part of it anew, and one step has none", "take 2 steps or more"
        )
    if isinstance(planned_shot.keep, int) and planned_shot.keep > planned_shot.takes:
        where = (*path, "keep") if shot.keep is not None else ("defaults", "keep")
        takes = f"{planned_shot.takes} takes" if planned_shot.takes > 1 else "one take"
        yield Trouble(where, f"take {planned_shot.keep} is kept of {takes}", f"write takes: {planned_shot.keep}, or keep another")


def _misfits(storyboard: Storyboard, plan: FilmPlan) -> Iterator[Trouble]:
    """Transitions and cards that last no frame, and what is too short for its transitions."""
    parts = plan.parts
    for name, card in (("title_card", plan.title_card), ("end_card", plan.end_card)):
        if card and card.num_frames < 1:
            yield Trouble((name, "seconds"), f"the card lasts no frame at {plan.fps:g} a second", "let it stand longer")
    frame = f"{1 / plan.fps:.3g} seconds make one frame"
    for index, ((own, wanted), (length, transition)) in enumerate(zip(_entrances(storyboard), parts, strict=True)):
        if wanted and wanted.kind != "cut" and not _num_transition_frames(wanted, plan.fps):
            yield Trouble(own, f"the {wanted.kind} lasts no frame at {plan.fps:g} a second", frame)
        if index == 0 and transition.overlap:
            message = f"the film's beginning cannot come in by a {transition.kind}: there is nothing before it"
            yield Trouble(own, message, "leave it out, or choose dip-to-black, which brightens it from black")
        following = parts[index + 1][1] if index + 1 < len(parts) else CUT
        needed = transition.num_after + following.num_before
        if needed > length:
            message = f"a length of {length} is too short for the transitions at its ends, which take {needed} frames"
            yield Trouble(_part_path(plan, index), message, "make it longer, or a transition shorter")


def _part_path(plan: FilmPlan, index: int) -> KeyPath:
    """Where the part of the film with this number, from 0, is described."""
    number = index - (plan.title_card is not None)
    return ("title_card",) if number < 0 else ("shots", number) if number < len(plan.shots) else ("end_card",)


def locate(named: Path, source: Path) -> Path:
    """Where a file that a storyboard names lies, or would: beside the storyboard, else in the working folder."""
    beside = source.parent / named
    return named if os.path.exists(named) and not os.path.exists(beside) else beside


def locate_concept(named: Path, source: Path) -> Path:
    """The same of a concept, which may be a bare name in `concepts/`."""
    found = locate(named, source)
    if os.path.isfile(found):
        return found
    return next((other for name in in_concepts(named) if os.path.isfile(other := locate(name, source))), found)


def lora_of(text: str, source: Path) -> tuple[str, float]:
    """(file, alias or hub id, strength) of a LoRA that a storyboard names. Raises UserError for a strength that is none."""
    name, strength = split_strength(text, what="a LoRA", example="style.safetensors:0.7")
    found = locate(Path(name), source)
    return str(found) if os.path.exists(found) else name, strength


def find_file(named: Path, source: Path, *, what: str) -> Path:
    """The file that a storyboard names, beside itself or in the working folder. Raises UserError where it is in neither."""
    found = locate_concept(named, source) if what == "concept" else locate(named, source)
    if os.path.exists(found):
        return found
    raise UserError(
        f"{source} names the {what} {named}, which does not exist",
        cause=f"looked for {' and '.join(dict.fromkeys((str(source.parent / named), str(named))))}",
        remedy=f"train it: cdvideo train IMAGES --class WORD --out {named}" if what == "concept" else "check its name",
    )
