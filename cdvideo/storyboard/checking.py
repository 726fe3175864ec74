"""Whether a storyboard can become a film: every mistake of its files at once, with its place, in a fraction of a second, without torch."""

from __future__ import annotations

import difflib
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cdvideo.base.catalog import BASES, CAMERA_MOVES, CAMERAS, LORAS, MOTIONS, unknown_name
from cdvideo.concept import KEY_VALUE_SUFFIXES, ConceptHeader, in_concepts, is_named, read_header, read_layout
from cdvideo.errors import UserError, UserNote
from cdvideo.resources import resource
from cdvideo.storyboard.casting import Cast, Trouble, assemble
from cdvideo.storyboard.form import formed
from cdvideo.storyboard.mistakes import BrokenStoryboard, Mistake, spelled
from cdvideo.storyboard.planning import FilmPlan, locate, locate_concept, lora_of, planned
from cdvideo.storyboard.reading import Source, read_source
from cdvideo.storyboard.script import KeyPath, Storyboard, modernised
from cdvideo.strengths import check_strength, split_strength

_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"GIF8", b"RIFF")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A storyboard without mistakes and what becomes of it. `notes` say what looks forgotten."""

    storyboard: Storyboard
    plan: FilmPlan
    notes: tuple[str, ...]


def read_storyboard(file: Path) -> Storyboard:
    """The storyboard in a file, whose form is right; what it names may be missing. Raises BrokenStoryboard with every mistake."""
    source = read_source(file)
    values, moves = modernised(source.content)
    storyboard, troubles, _ = formed(values)
    mistakes = _Finding(source, moves).mistakes(troubles)
    if mistakes or storyboard is None:
        raise BrokenStoryboard(file, mistakes)
    return storyboard


def check(file: Path) -> Checked:
    """The storyboard in a file and its plan. Raises BrokenStoryboard with every mistake in it and in what it names."""
    source = read_source(file)
    values, moves = modernised(source.content)
    storyboard, troubles, changed = formed(values)
    finding = _Finding(source, moves)
    if storyboard is None:
        raise BrokenStoryboard(file, finding.mistakes(troubles))
    files, headers, further = _concepts(storyboard, file)
    cast, cast_troubles = assemble(storyboard.cast, files, headers)
    plan, plan_troubles = planned(storyboard, file, cast, headers)
    further += [
        *cast_troubles,
        *_one_base(cast, headers),
        *_of_the_base(plan, cast, headers),
        *_whole_concepts(plan),
        *_models(storyboard, plan),
        *_media(storyboard, file),
    ]
    further += [*_font(storyboard, plan, file), *_loras(storyboard, file)]
    if ("cast",) not in changed:
        further += plan_troubles
    troubles += [trouble for trouble in further if not any(trouble.path[: len(path)] == path for path in changed)]
    if mistakes := finding.mistakes(troubles):
        raise BrokenStoryboard(file, mistakes)
    return Checked(
        storyboard=storyboard,
        plan=plan,
        notes=(*(f"{place}: {note}" for place, note in source.notes.items()), *_notes(storyboard, plan, cast)),
    )


@dataclass(frozen=True)
class _Finding:
    """Looks up where in the files a trouble stands; `moves` lead from today's paths to those of an older file."""

    source: Source
    moves: Mapping[KeyPath, KeyPath]

    def mistakes(self, troubles: Sequence[Trouble]) -> list[Mistake]:
        """Those of reading and, in other places, these troubles."""
        read = {mistake.place for mistake in self.source.mistakes}
        found = [self.mistake(trouble) for trouble in troubles]
        return [*self.source.mistakes, *(mistake for mistake in found if mistake.place not in read)]

    def mistake(self, trouble: Trouble) -> Mistake:
        path = trouble.path
        for length in range(len(path), 0, -1):
            if path[:length] in self.moves:
                path = (*self.moves[path[:length]], *path[length:])
                path = next((path[:end] for end in range(len(path), 0, -1) if path[:end] in self.source.values), path)
                break
        return Mistake(self.source.place(path, key=trouble.at_key), spelled(path), trouble.message, trouble.suggestion)


def _concepts(storyboard: Storyboard, source: Path) -> tuple[dict[str, Path], dict[Path, ConceptHeader], list[Trouble]]:
    """Each member's file, the headers of those that can be read, and what is wrong with the others."""
    files: dict[str, Path] = {}
    headers: dict[Path, ConceptHeader] = {}
    troubles = []
    for name, member in storyboard.cast.items():
        path: KeyPath = ("cast", name, "concept")
        trouble = _missing(member.concept, path, source, what="concept", suffixes=(".safetensors",))
        if trouble:
            troubles.append(trouble)
            continue
        file = files[name] = locate_concept(member.concept, source)
        try:
            headers[file] = headers.get(file) or read_header(file)
        except UserError as error:
            troubles.append(Trouble(path, _said(error), error.remedy))
    return files, headers, troubles


def _said(error: UserError) -> str:
    return f"{error.message.removesuffix('.')}: {error.cause}" if error.cause else error.message


def _missing(named: Path, path: KeyPath, source: Path, *, what: str, suffixes: tuple[str, ...]) -> Trouble | None:
    """What is wrong with a path that is to be a file of the project."""
    file = locate_concept(named, source) if what == "concept" else locate(named, source)
    roots = [Path(os.path.abspath(source.parent)), Path.cwd()]
    if not any(Path(os.path.abspath(file)).is_relative_to(root) for root in roots):
        folders = " and ".join(dict.fromkeys(map(str, roots)))
        return Trouble(path, f"{named} lies outside the project", f"move it into {folders}")
    if os.path.isfile(file):
        return None
    if os.path.exists(file):
        return Trouble(path, f"{named} is no file", f"name the {what} itself")
    near = difflib.get_close_matches(named.name, _neighbours(named, roots, suffixes), n=1, cutoff=0.75)
    if near:
        hint = f"did you mean {named.with_name(near[0])}?"
    elif what == "concept":
        to = named if named.suffix else in_concepts(named)[-1] if named.parent == Path() else named.with_suffix(".safetensors")
        hint = f"train it: cdvideo train IMAGES --class WORD --out {to}"
    else:
        hint = f"it is looked for in {' and '.join(dict.fromkeys(map(str, roots)))}"
    return Trouble(path, f"there is no {what} {named}", hint)


def _neighbours(named: Path, roots: list[Path], suffixes: tuple[str, ...]) -> list[str]:
    folders = [root / named.parent for root in roots]
    return [file.name for folder in folders if os.path.isdir(folder) for file in folder.iterdir() if file.suffix.lower() in suffixes]


def _media(storyboard: Storyboard, source: Path) -> Iterator[Trouble]:
    """What is wrong with start pictures and the sound."""
    pictures = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
    for number, shot in enumerate(storyboard.shots):
        if shot.start is None:
            continue
        path: KeyPath = ("shots", number, "start")
        trouble = _missing(shot.start, path, source, what="picture", suffixes=pictures)
        if trouble:
            yield trouble
        elif not _begins(locate(shot.start, source)).startswith(_PICTURES):
            yield Trouble(path, f"{shot.start} is no picture", "give a PNG, JPEG, WebP, BMP or GIF")
        elif damage := _damage(locate(shot.start, source)):
            yield Trouble(path, f"{shot.start} is damaged: {damage}", "copy it again, or name another")
    if storyboard.audio:
        sounds = (".wav", ".mp3", ".m4a", ".ogg", ".opus", ".flac", ".aac", ".mp4", ".webm", ".mkv", ".mov")
        trouble = _missing(storyboard.audio.file, ("audio", "file"), source, what="sound", suffixes=sounds)
        if trouble:
            yield trouble
        elif not _begins(locate(storyboard.audio.file, source)):
            yield Trouble(("audio", "file"), f"{storyboard.audio.file} is empty", "give a sound file")
        else:
            # Only a film with a sound needs numpy and libav to be checked.
            from cdvideo.video.sound import check_sound_file

            try:
                check_sound_file(locate(storyboard.audio.file, source))
            except UserError as error:
                yield Trouble(("audio", "file"), _said(error), error.remedy)


def _font(storyboard: Storyboard, plan: FilmPlan, source: Path) -> Iterator[Trouble]:
    """What is wrong with the font, or with drawing the film's words in it, or in those that are at hand."""
    if storyboard.font is not None:
        trouble = _missing(storyboard.font, ("font",), source, what="font", suffixes=(".ttf", ".otf", ".ttc"))
        if trouble:
            yield trouble
            return
    elif all(map(str.isascii, plan.drawn_texts)):
        return
    if undrawn := _undrawn(plan):
        path, error = undrawn
        yield Trouble(path, _said(error), error.remedy)


def _undrawn(plan: FilmPlan) -> tuple[KeyPath, UserError] | None:
    """Where the first words stand that cannot be drawn, and why: at the font, where it is the film's own, or no font draws all of them."""
    # Only a film with a font of its own, or whose words need another than the built-in one, needs numpy and Pillow to be checked.
    from cdvideo.storyboard.cards import typeface_for

    cards = [((name,), card) for name, card in (("title_card", plan.title_card), ("end_card", plan.end_card)) if card]
    texts: list[tuple[KeyPath, list[str]]] = [(path, [card.text, card.subtitle]) for path, card in cards]
    texts += [(("shots", shot.number - 1, "caption"), [shot.caption.text]) for shot in plan.shots if shot.caption]
    for path, some in [*([] if plan.font else texts), (("font",), plan.drawn_texts)]:
        try:
            with warnings.catch_warnings():
                # Which font is taken instead is said when it is.
                warnings.simplefilter("ignore", UserNote)
                typeface_for(some, plan.font)
        except UserError as error:
            return path, error
    return None


def _begins(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(16)
    except OSError:
        return b""


def _damage(file: Path) -> str:
    """Why a picture cannot be read; nothing where it can."""
    # Only a film that starts from pictures needs Pillow to be checked.
    from PIL import Image

    try:
        with Image.open(file) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return str(error)
    return ""


def _models(storyboard: Storyboard, plan: FilmPlan) -> Iterator[Trouble]:
    """What is wrong with the names of the base, the motion module and the camera moves."""
    for key, name, kind, known in (("base", plan.base, "base", BASES), ("motion", plan.motion, "motion module", MOTIONS)):
        if name is not None and not _may_be_model(name, known):
            yield Trouble((key,), *_unknown(kind, name, known))
    paths: list[tuple[KeyPath, tuple[str, ...]]] = [(("defaults", "camera"), storyboard.defaults.camera)]
    paths += [(("shots", number, "camera"), shot.camera or ()) for number, shot in enumerate(storyboard.shots)]
    problems = {move: _camera_problem(move, plan.base) for move in dict.fromkeys(move for _, moves in paths for move in moves)}
    for path, moves in paths:
        for number, move in enumerate(moves):
            if problem := problems[move]:
                yield Trouble((*path, number), *problem)


def _loras(storyboard: Storyboard, source: Path) -> Iterator[Trouble]:
    """LoRAs of the film's look that are nowhere; `planned` says what is wrong with their strengths."""
    suffixes = (".safetensors", ".bin", ".pt")
    for number, text in enumerate(storyboard.look.lora):
        path: KeyPath = ("look", "lora", number)
        with suppress(UserError):
            name = split_strength(text, what="a LoRA", example=text)[0]
            if Path(name).suffix in suffixes:
                if trouble := _missing(Path(name), path, source, what="LoRA", suffixes=suffixes):
                    yield trouble
            elif not _may_be_model(lora_of(text, source)[0], LORAS):
                yield Trouble(path, *_unknown("LoRA", name, LORAS))


def _may_be_model(name: str, known: Mapping[str, object]) -> bool:
    return name in known or os.path.exists(os.path.expanduser(name)) or bool(_HUB_ID.fullmatch(name) and not Path(name).suffix)


def _unknown(kind: str, name: str, known: Mapping[str, object]) -> tuple[str, str]:
    error = unknown_name(kind, name, known)
    meaning, question, _ = error.remedy.partition("?")
    return error.message, meaning + question if question else error.remedy


def _camera_problem(move: str, base: str) -> tuple[str, str] | None:
    name, colon, tail = move.rpartition(":")
    try:
        strength = float(tail) if colon else 1.0
    except ValueError:
        if name in CAMERA_MOVES:
            return f"{tail or 'nothing'} is no strength of a camera move", f"write a number behind the colon, such as {name}:0.6"
        name, strength = move, 1.0
    if not math.isfinite(strength):
        return f"{tail} is no strength of a camera move", f"write a number behind the colon, such as {name}:0.6"
    try:
        check_strength(strength, of="a camera move")
    except UserError as error:
        return error.message, error.remedy
    name = name if colon else move
    if not _may_be_model(name, dict.fromkeys(CAMERA_MOVES)):
        return _unknown("camera move", name, dict.fromkeys(CAMERA_MOVES))
    if base == "pocket" and name in CAMERA_MOVES:
        try:
            resource(*CAMERAS["pocket"][name].home.split("/"))
        except UserError:
            return f"pocket's {name} is not in this installation", "leave the camera out, or give a MotionLoRA's file"
    return None


def _one_base(cast: Cast, headers: Mapping[Path, ConceptHeader]) -> Iterator[Trouble]:
    """Members of the cast whose concepts were made for another base than the first one's."""
    roles = list(cast.roles.values())
    for role in roles[1:]:
        first, other = headers[roles[0].file], headers[role.file]
        if first.fingerprint != other.fingerprint:
            message = f"{role.file} was made for another base ({other.base}) than that of {roles[0].name} ({first.base})"
            yield Trouble(("cast", role.name, "concept"), message, "train both on the same base")


def _of_the_base(plan: FilmPlan, cast: Cast, headers: Mapping[Path, ConceptHeader]) -> Iterator[Trouble]:
    """The first member's concept, with which all others have to agree, and a motion module, of another base than the film's."""
    base = _known_base(plan.base)
    if base is None:
        return
    first = next(iter(cast.roles.values()), None)
    made_for = _known_base(headers[first.file].base) if first else None
    if first and made_for not in (base, None):
        message = f"{first.file} was trained on {made_for}, and the film's base is {base}"
        yield Trouble(("cast", first.name, "concept"), message, f"leave the base out, or train it with --base {base}")
    motion = MOTIONS.get(plan.motion or "")
    if motion and motion.base != base:
        yield Trouble(("motion",), f"{motion.name} is a motion module for {motion.base}, and the film's base is {base}", "leave it out")


def _known_base(name: str) -> str | None:
    return next((alias.name for alias in BASES.values() if name in (alias.name, alias.location)), None)


def _whole_concepts(plan: FilmPlan) -> Iterator[Trouble]:
    """Shots with several concepts of which one changes more than keys and values."""
    together = {star.concept for shot in plan.shots if len(shot.starring) > 1 for star in shot.starring}
    whole = {file for file in together if _changes_more(file)}
    for shot in plan.shots:
        for star in shot.starring if len(shot.starring) > 1 else ():
            if star.concept in whole:
                message = f"{star.names[0]} cannot share a picture with another, since its concept tunes the whole UNet"
                yield Trouble(("shots", shot.number - 1), message, "train it with --method classdiffusion, or give it its own shot")


def _changes_more(file: Path) -> bool:
    names = [name.removeprefix("unet.") for name in read_layout(file) if name.startswith("unet.")]
    stems = [re.sub(r"\.(up|down|shift)$", "", name) for name in names]
    return any(not stem.endswith(KEY_VALUE_SUFFIXES) for stem in stems)


def _notes(storyboard: Storyboard, plan: FilmPlan, cast: Cast) -> Iterator[str]:
    playing = {name for shot in plan.shots for star in shot.starring for name in star.names}
    for name in storyboard.cast:
        if name not in playing:
            yield f"{name} plays in no shot; name it in a prompt as {{{name}}}"
    parts = plan.parts
    for key, index, is_there in (("title_card", 0, plan.title_card), ("end_card", -1, plan.end_card)):
        length, entrance = parts[index]
        changing = entrance.num_after + (parts[1][1].num_before if index == 0 and len(parts) > 1 else 0)
        if is_there and changing >= length:
            yield f"the {key.replace('_', ' ')} never stands: its transition takes all of its {length} frames; give it more seconds"
    for number, shot in enumerate(storyboard.shots):
        for text in shot.course.values():
            for name, role in cast.roles.items():
                if role.class_word and re.search(rf"\{{{name}\}} {re.escape(role.class_word)}\b", text):
                    yield f"shots[{number}] says {role.class_word} twice: {{{name}}} becomes {role.token} {role.class_word}"
        for star in plan.shots[number].starring:
            if not any(is_named(token, text) for text in plan.shots[number].prompts.values() for token in star.tokens.values()):
                yield f"shots[{number}] stars {star.names[0]}, whom its prompt does not name"
