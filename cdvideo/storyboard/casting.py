"""Who plays in a shot, and what the prompt says once names are tokens. Pure functions on concept headers; imports no torch.

A prompt names a member of the cast as `{bear}`, or by the concept's token. Of tokens with the same name, the cast's first is `V1*`, its
second `V2*` and so on, whoever plays in the shot. What the base is given is the name that the concept has in the shot's own company: that
of its file, or a number of its own where another in the shot has that name too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cdvideo.concept import LIKE_A_TOKEN, UNKNOWN, ConceptHeader, distinct_names
from cdvideo.storyboard.mistakes import meant
from cdvideo.storyboard.script import CastMember, KeyPath, Shot, Storyboard

_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Trouble:
    """A mistake whose place in the file is not looked up yet: that of the path's value, or of its key."""

    path: KeyPath
    message: str
    suggestion: str = ""
    at_key: bool = False


@dataclass(frozen=True, kw_only=True)
class Role:
    """A member of the cast and the token of a concept file that it stands for. `class_word` is empty where nobody knows it."""

    name: str
    file: Path
    token: str
    class_word: str
    strength: float


@dataclass(frozen=True, kw_only=True)
class Star:
    """A concept file that plays in a shot. `tokens` are their names in this shot by those in the file; `strengths` by frame."""

    names: tuple[str, ...]
    concept: Path
    tokens: Mapping[str, str]
    strengths: Mapping[int, float]


@dataclass(frozen=True, kw_only=True)
class Company:
    """Who plays in a shot, in the cast's order, and its prompts by frame: for the base, and without tokens, for judging by CLIP."""

    starring: tuple[Star, ...]
    prompts: Mapping[int, str]
    plain_prompts: Mapping[int, str]
    troubles: tuple[Trouble, ...] = ()
    unnamed: tuple[str, ...] = ()
    """Those who play although no prompt names them."""


@dataclass(frozen=True)
class Cast:
    """The film's cast, its concept files read: `tokens` of each file, `called` how prompts may call the token of a file.

    A member whose file cannot be read is in `members` alone, and prompts may name it.
    """

    members: Sequence[str]
    roles: Mapping[str, Role]
    tokens: Mapping[Path, tuple[str, ...]]
    called: Mapping[str, list[tuple[Path, str]]] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        return len(self.roles) == len(self.members)


def assemble(
    cast: Mapping[str, CastMember], files: Mapping[str, Path], headers: Mapping[Path, ConceptHeader]
) -> tuple[Cast, list[Trouble]]:
    """The cast, given each member's file and the files' headers, and what is wrong with it. Members without a header are passed over."""
    roles: dict[str, Role] = {}
    troubles = []
    for name, member in cast.items():
        header = headers.get(files[name]) if name in files else None
        if header is None:
            continue
        role = _role(name, member, files[name], header)
        if isinstance(role, Trouble):
            troubles.append(role)
        else:
            roles[name] = role
    tokens = {role.file: headers[role.file].tokens for role in roles.values()}
    called: dict[str, list[tuple[Path, str]]] = {}
    for (file, own), names in zip(tokens.items(), distinct_names(list(tokens.values())), strict=True):
        for token in own:
            for name in dict.fromkeys((names[token], token)):
                called.setdefault(name, []).append((file, token))
    return Cast(list(cast), roles, tokens, called), troubles


def _role(name: str, member: CastMember, file: Path, header: ConceptHeader) -> Role | Trouble:
    words = header.class_words
    wanted = member.class_word or (name if name in words and len(words) > 1 else None)
    if wanted is None and len(words) > 1:
        known = ", ".join(words)
        return Trouble(("cast", name), f"{file} holds several concepts: {known}", f"say which: {{concept: ..., class: {words[0]}}}")
    index = words.index(wanted) if wanted in words else 0
    word = words[index]
    if wanted is not None and wanted != word:
        if word != UNKNOWN or len(words) > 1:
            return Trouble(("cast", name, "class"), f"{file} is no {wanted}", f"its class is {' or '.join(words)}; leave the class out")
        word = wanted
    return Role(name=name, file=file, token=header.tokens[index], class_word="" if word == UNKNOWN else word, strength=member.strength)


def company(storyboard: Storyboard, number: int, cast: Cast) -> Company:
    """Who plays in the shot of this number, from 0, and what its prompts become, with everything that is wrong with them."""
    shot = storyboard.shots[number]
    path: KeyPath = ("shots", number)
    style = storyboard.look.style
    texts = {frame: f"{text}, {style}" if style else text for frame, text in shot.course.items()}
    troubles = list(_unknown_names(shot, path, cast))
    named: set[str] = set()
    files: set[Path] = {cast.roles[name].file for name in shot.starring or () if name in cast.roles}
    mentioned: set[Path] = set()
    for frame, text in texts.items():
        where: KeyPath = (*path, "prompts", str(frame)) if shot.prompts else (*path, "prompt")
        names, found = _mentions(text, where, cast, files, troubles)
        named |= names
        mentioned |= found
    playing = set(shot.starring) if shot.starring is not None else named
    files |= mentioned | {cast.roles[name].file for name in named if name in cast.roles}
    if shot.starring is not None:
        strangers = sorted(named - playing) + [
            _someone_of(cast, file)
            for file in sorted(mentioned)
            if file not in {cast.roles[name].file for name in playing & set(cast.roles)}
        ]
        troubles += [
            Trouble((*path, "starring"), f"the prompt or the style names {name}, who does not play", f"add {name}, or leave starring out")
            for name in dict.fromkeys(strangers)
        ]
    ordered = [file for file in cast.tokens if file in files]
    renames = dict(zip(ordered, distinct_names([cast.tokens[file] for file in ordered]), strict=True))
    starring = tuple(_star(file, renames[file], shot, path, cast, troubles) for file in ordered)
    troubles += [
        Trouble((*path, "strengths", name), f"{name} does not play in this shot", "name it in the prompt, or leave its strength out")
        for name in shot.strengths
        if cast.is_whole and name in cast.roles and cast.roles[name].file not in files
    ]
    return Company(
        starring=starring,
        prompts={frame: _rewritten(text, cast, files, renames) for frame, text in texts.items()},
        plain_prompts={frame: _plain(text, cast) for frame, text in texts.items()},
        troubles=tuple(dict.fromkeys(troubles)),
        unnamed=tuple(
            name for name in shot.starring or () if name not in named and cast.roles.get(name) and cast.roles[name].file not in mentioned
        ),
    )


def _unknown_names(shot: Shot, path: KeyPath, cast: Cast) -> Iterator[Trouble]:
    for index, name in enumerate(shot.starring or ()):
        if name not in cast.members:
            yield Trouble((*path, "starring", index), f"the cast has no {name}", meant(name, cast.members) or "add it to cast")
    for name in shot.strengths:
        if name not in cast.members:
            yield Trouble((*path, "strengths", name), f"the cast has no {name}", meant(name, cast.members) or "add it to cast")


def _mentions(text: str, path: KeyPath, cast: Cast, pool: set[Path], troubles: list[Trouble]) -> tuple[set[str], set[Path]]:
    """The members that a text names in braces, and the files whose token it has. Notes what is wrong."""
    names: set[str] = set()
    for name in _BRACES.findall(text):
        if name in cast.members:
            names.add(name)
        elif name.strip() in cast.members:
            troubles.append(Trouble(path, f"{{{name}}} has spaces in it", f"write {{{name.strip()}}}"))
        else:
            hint = meant(name, cast.members) or f"the film has no cast; add cast: {{{name.strip() or 'bear'}: concepts/FILE.safetensors}}"
            troubles.append(Trouble(path, f"the cast has no {{{name}}}", hint))
    bare = _BRACES.sub(" ", text)
    if "{" in bare or "}" in bare:
        troubles.append(Trouble(path, "a brace is open or closed without its other half", "write names as {bear}"))
    files: set[Path] = set()
    for match in _token_pattern(cast).finditer(bare):
        candidates = _called(match[0], cast, pool)
        if len(candidates) > 1:
            people = [_someone_of(cast, file) for file, _ in candidates]
            message = f"{match[0]} may be {' or '.join(people)}"
            troubles.append(Trouble(path, message, f"write {' or '.join(f'{{{name}}}' for name in people)}"))
        elif candidates:
            files.add(candidates[0][0])
        elif cast.is_whole:
            known = " or ".join(sorted({f"{{{name}}}" for name in cast.roles}))
            hint = f"write {known}" if known else "the film has no cast; add cast: {bear: concepts/FILE.safetensors}"
            troubles.append(Trouble(path, f"nobody in the cast is called {match[0]}", hint))
    return names, files


def _token_pattern(cast: Cast) -> re.Pattern[str]:
    known = "|".join(re.escape(token) for token in sorted(cast.called, key=len, reverse=True))
    whole = rf"(?<![\w*<])(?:{known})(?![\w*>])|" if known else ""
    return re.compile(whole + LIKE_A_TOKEN.pattern)


def _called(word: str, cast: Cast, pool: set[Path]) -> list[tuple[Path, str]]:
    """The tokens, each of a file, that a word may be: of several, those of the files that are known to play."""
    candidates = cast.called.get(word, [])
    return [one for one in candidates if one[0] in pool] or candidates if len(candidates) > 1 else candidates


def _someone_of(cast: Cast, file: Path) -> str:
    return next(role.name for role in cast.roles.values() if role.file == file)


def _star(file: Path, names: Mapping[str, str], shot: Shot, path: KeyPath, cast: Cast, troubles: list[Trouble]) -> Star:
    people = [role for role in cast.roles.values() if role.file == file]
    courses = {role.name: dict(sorted(shot.strengths.get(role.name, {0: role.strength}).items())) for role in people}
    said = {name: course for name, course in courses.items() if name in shot.strengths} or courses
    first = next(iter(said.values()))
    if any(course != first for course in said.values()):
        together = " and ".join(said)
        troubles.append(
            Trouble((*path, "strengths"), f"{together} are one concept file, which has one strength", "give them the same strength")
        )
    return Star(names=tuple(role.name for role in people), concept=file, tokens=names, strengths=first)


def _rewritten(text: str, cast: Cast, files: set[Path], renames: Mapping[Path, Mapping[str, str]]) -> str:
    """The text with every name of the cast, in braces or as a token, as the shot's company calls it."""

    def in_braces(name: str) -> str:
        role = cast.roles.get(name)
        return " ".join(part for part in (renames[role.file][role.token], role.class_word) if part) if role else name

    def as_token(word: str) -> str:
        candidates = _called(word, cast, files)
        return renames[candidates[0][0]][candidates[0][1]] if len(candidates) == 1 else word

    pattern = re.compile(f"{_BRACES.pattern}|{_token_pattern(cast).pattern}")
    return pattern.sub(lambda match: in_braces(match[1]) if match[1] is not None else as_token(match[0]), text)


def _plain(text: str, cast: Cast) -> str:
    bare = re.sub(f"(?:{_token_pattern(cast).pattern}) ?", "", text)
    return _BRACES.sub(lambda match: (cast.roles[match[1]].class_word or match[1]) if match[1] in cast.roles else match[1], bare)
