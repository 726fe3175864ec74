"""What a storyboard's file may say, as frozen models. Imports no torch.

Prompts name the cast: `{bear}` becomes the token and the class word of the member called bear, such as "V* bear". Files of cdvideo 0.1,
which have `concept`, `negative` and the defaults at the top level, are read as before; see `modernised`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from cdvideo.config import FrozenModel, listed

MAX_SHOTS = 1000
MAX_FRAMES = 4096
"""Of one shot."""
MAX_TAKES = 16
UNKNOWN_KEY = "extra_forbidden"
NO_PROMPT = "no_prompt"

TransitionKind = Literal["cut", "crossfade", "dip-to-black", "wipe", "wipe-left", "wipe-right", "wipe-up", "wipe-down"]
Value = TypeVar("Value")
Travel = Literal["linear", "smooth", "hold"]
KeyPath = tuple[str | int, ...]
"""Where something stands in a file: the keys, and the numbers of list entries from 0, that lead to it."""


def _course(value: Any) -> Any:
    """Values by frame of one number, or of text such as "0:1.0, 12:0.3"; other things as they are."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {0: value}
    if not isinstance(value, str):
        return value
    parts = [part.split(":") for part in value.split(",")]
    if any(len(part) != 2 for part in parts):
        raise ValueError('write one number, or frames and values such as "0:1.0, 12:0.3"')
    if len({frame.strip() for frame, _ in parts}) < len(parts):
        raise ValueError("a frame is named twice")
    return {frame.strip(): number.strip() for frame, number in parts}


def _take(value: Any) -> Any:
    if value == "best" or value is None or (isinstance(value, int) and value >= 1):
        return value
    raise ValueError("write best, or the number of a take from 1")


def _printable(value: str) -> str:
    """The text, which terminals and fonts can show. Raises ValueError for control characters other than the ends of lines and tabs."""
    strangers = sorted({letter for letter in value if unicodedata.category(letter) == "Cc" and letter not in "\n\t"})
    if strangers:
        raise ValueError(f"no control characters such as U+{ord(strangers[0]):04X} can be shown; leave them out")
    return value


Frame = Annotated[int, Field(ge=0, lt=MAX_FRAMES)]
Strength = Annotated[float, Field(ge=-4, le=4)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_printable)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]
Colour = Annotated[str, StringConstraints(pattern=r"^#[0-9A-Fa-f]{6}$")]
Course = Annotated[
    dict[Frame, Strength],
    Field(min_length=1),
    BeforeValidator(_course),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number"},
                {"type": "string", "pattern": r"^\s*\d+\s*:[^,:]+(,\s*\d+\s*:[^,:]+)*$"},
                {"type": "object", "patternProperties": {r"^\d+$": {"type": "number"}}, "additionalProperties": False},
            ]
        }
    ),
]
Kept = Annotated[Literal["best"] | int, BeforeValidator(_take)]
Listed = Annotated[
    tuple[Text, ...],
    BeforeValidator(listed),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class Section(FrozenModel):
    """A part of a storyboard. Numbers may stand where text is wanted: a title may be 1984."""

    model_config = ConfigDict(coerce_numbers_to_str=True)


class ShortSection(Section):
    """A section that may be written as the one value it most needs."""

    short: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _written_short(cls, value: Any) -> Any:
        return {cls.short: value} if isinstance(value, str | int | float | Path) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(core_schema)]}


class CastMember(ShortSection):
    """Somebody who plays in the film: a concept, as its file or its name in concepts/, with more said of it or alone."""

    short: ClassVar[str] = "concept"
    concept: Path = Field(description="concept file; relative to the storyboard's folder, then to the working folder")
    class_word: Text | None = Field(None, alias="class", description="which of the file's class words this is; the only one by default")
    strength: Strength = Field(1.0, description="0 is the base, 1 the concept as it was trained")


class Look(Section):
    """What all shots have in common to the eye."""

    negative: str | None = Field(None, description="what is not to be seen; the base's own by default")
    style: Text | None = Field(None, description="words that follow every prompt, behind a comma")
    lora: Listed = Field((), description="LoRAs for the image model, FILE or FILE:STRENGTH; files are relative as concept files are")
    palette: Text | None = Field(None, description="a note on the film's colours for its page; changes no pixels")


class TransitionIn(ShortSection):
    """How a shot follows the one before."""

    short: ClassVar[str] = "kind"
    kind: TransitionKind = Field(description="cut, crossfade, dip-to-black, or a wipe whose edge travels right, left, up or down")
    seconds: float | None = Field(None, gt=0, le=60, description="seconds that it lasts; 0.5 by default")

    @field_validator("seconds")
    @classmethod
    def _a_cut_takes_no_time(cls, seconds: float | None, info: ValidationInfo) -> float | None:
        if seconds is not None and info.data.get("kind") == "cut":
            raise ValueError("a cut takes no time; leave the seconds out, or choose a crossfade")
        return seconds


def _cut() -> TransitionIn:
    return TransitionIn.model_validate("cut")


class Caption(ShortSection):
    """Words to a shot."""

    short: ClassVar[str] = "text"
    text: Text = Field(description="the words; lines as they stand")
    burn: bool | None = Field(None, description="true draws them into the picture, false puts them into the subtitle track; as in defaults")


class Timed(Section):
    """What has a length."""

    frames: int | None = Field(None, ge=1, le=MAX_FRAMES, description="frames of a shot; 16 by default; or give seconds")
    seconds: float | None = Field(None, gt=0, le=3600, description="seconds of a shot; or give frames")

    @field_validator("seconds")
    @classmethod
    def _not_beside_frames(cls, seconds: float | None, info: ValidationInfo) -> float | None:
        return _alone(seconds, "frames", info)


def _alone(value: Value, other: str, info: ValidationInfo) -> Value:
    """The value, where the other key is not there too."""
    if value and info.data.get(other):
        raise ValueError(f"there is {other} already; leave one of them out")
    return value


class Defaults(Timed):
    """What holds for every shot. A shot may say otherwise, but for fps and size, which are the whole film's."""

    fps: float = Field(8, gt=0, le=120, description="frames a second")
    size: str | None = Field(None, description="WIDTHxHEIGHT in pixels, multiples of 8 from 64 to 4096; the base's own by default")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of a shot's noise")
    steps: int | None = Field(None, ge=1, le=1000, description="denoising steps; the base's own by default")
    guidance: float | None = Field(None, ge=0, le=100, description="guidance scale; the base's own by default")
    camera: Listed = Field((), description="camera moves MOVE or MOVE:STRENGTH, such as zoom-in or pan-left:0.6")
    transition: TransitionIn = Field(default_factory=_cut, description="how a shot follows the one before")
    travel: Travel = Field("linear", description="how one prompt turns into the next, where a shot has several")
    burn: bool = Field(False, description="true draws captions into the picture, false puts them into the subtitle track")
    takes: int = Field(1, ge=1, le=MAX_TAKES, description="times that a shot is rendered, each with the next seed")
    keep: Kept = Field("best", description="best by score, or a take's number from 1")

    @field_validator("size", mode="before")
    @classmethod
    def _is_a_size(cls, size: Any) -> Any:
        if size is None:
            return size
        found = re.fullmatch(r"\s*(\d{1,5})\s*[xX]\s*(\d{1,5})\s*", size) if isinstance(size, str) else None
        if not found:
            raise ValueError("write it as WIDTHxHEIGHT in pixels, such as 512x384")
        sides = [int(side) for side in found.groups()]
        if not all(64 <= side <= 4096 for side in sides):
            raise ValueError(f"{size} is out of range; each side from 64 to 4096 pixels")
        if any(side % 8 for side in sides):
            raise ValueError(f"{size} is no multiple of 8 on both sides; write {'x'.join(str(round(side / 8) * 8) for side in sides)}")
        return "x".join(map(str, sides))


class Shot(Timed):
    """One shot. What it leaves out is as in the defaults."""

    prompt: Text | None = Field(None, description="what is seen; {name} stands for a member of the cast")
    prompts: dict[Frame, Text] | None = Field(None, min_length=1, description="frame -> what is seen from there; one turns into the next")
    travel: Travel | None = Field(None, description="how one prompt turns into the next: linear, smooth or hold")
    seed: int | None = Field(None, ge=0, lt=2**63, description="seed of the shot's noise")
    steps: int | None = Field(None, ge=1, le=1000, description="denoising steps")
    guidance: float | None = Field(None, ge=0, le=100, description="guidance scale")
    negative: str | None = Field(None, description="what is not to be seen; the look's by default")
    camera: Listed | None = Field(None, description="camera moves MOVE or MOVE:STRENGTH, such as zoom-in or pan-left:0.6")
    starring: Listed | None = Field(None, description="members of the cast who play; those whom the prompt names by default")
    strengths: dict[str, Course] = Field({}, description='member of the cast -> strength, or one by frame such as "0:1.0, 12:0.3"')
    transition: TransitionIn | None = Field(None, description="how this shot follows the one before")
    caption: Caption | None = Field(None, description="words to the shot")
    start: Path | None = Field(None, description="picture that the shot begins with; relative as concept files are")
    continues: bool = Field(False, alias="continue", description="true begins with the last frame of the shot before")
    takes: int | None = Field(None, ge=1, le=MAX_TAKES, description="times that the shot is rendered, each with the next seed")
    keep: Kept | None = Field(None, description="best by score, or a take's number from 1")

    @field_validator("prompts")
    @classmethod
    def _not_beside_prompt(cls, prompts: dict[int, str] | None, info: ValidationInfo) -> dict[int, str] | None:
        return _alone(prompts, "prompt", info)

    @field_validator("continues")
    @classmethod
    def _not_beside_start(cls, continues: bool, info: ValidationInfo) -> bool:
        return _alone(continues, "start", info)

    @model_validator(mode="after")
    def _has_a_prompt(self) -> Shot:
        if self.prompt is None and self.prompts is None:
            raise PydanticCustomError(NO_PROMPT, "is missing")
        return self

    @property
    def course(self) -> dict[int, str]:
        """The prompts by frame, in order."""
        return dict(sorted(self.prompts.items())) if self.prompts else {0: self.prompt or ""}


class Card(ShortSection):
    """A still card with text, or its text alone."""

    short: ClassVar[str] = "text"
    text: Text | None = Field(None, description="the words in large; the film's title, or The end, by default")
    subtitle: Text | None = Field(None, description="words in small below")
    seconds: float = Field(2, gt=0, le=600, description="seconds that it stands")
    colour: Colour | None = Field(None, description='colour of the text, such as "#ffffff"; off-white by default')
    background: Colour | None = Field(None, description='colour behind it, such as "#000000"; off-black by default')


class EndCard(Card):
    transition: TransitionIn | None = Field(None, description="how it follows the last shot; as in the defaults")


class Audio(ShortSection):
    """The film's sound: a file, or its name alone."""

    short: ClassVar[str] = "file"
    file: Path = Field(description="sound file; relative as concept files are")
    offset: float = Field(0, ge=-86400, le=86400, description="seconds of the file that are skipped; negative: of silence before it begins")
    gain: float = Field(0, ge=-120, le=40, description="decibels that it is made louder")
    fade_in: float = Field(0, ge=0, le=3600, description="seconds from its first sound to full loudness")
    fade_out: float = Field(0, ge=0, le=3600, description="seconds to silence at the end")


class Storyboard(Section):
    """A film: its cast, its look and its shots."""

    title: Text = Field(description="names the film and its files")
    cast: dict[Name, CastMember] = Field({}, description="name -> who plays; prompts say {name}")
    base: Text | None = Field(None, description="base alias, hub id, folder or checkpoint file; the cast's by default, else pocket")
    motion: Text | None = Field(None, description="motion module; the base's own by default")
    font: Path | None = Field(None, description="TTF or OTF file of captions and cards; relative as concept files are")
    look: Look = Field(default_factory=lambda: Look.model_validate({}), description="what all shots have in common to the eye")
    defaults: Defaults = Field(
        default_factory=lambda: Defaults.model_validate({}), description="what holds for shots that do not say otherwise"
    )
    title_card: Card | None = Field(None, description="a card before the first shot; {} shows the title alone")
    shots: list[Shot] = Field(min_length=1, max_length=MAX_SHOTS, description="the shots in order")
    end_card: EndCard | None = Field(None, description="a card after the last shot")
    audio: Audio | None = Field(None, description="the film's sound")

    @model_validator(mode="before")
    @classmethod
    def _in_todays_form(cls, values: Any) -> Any:
        return modernised(values)[0] if isinstance(values, Mapping) else values


OLDER_PLACES: Mapping[str, KeyPath] = {
    **{key: ("defaults", key) for key in ("fps", "frames", "steps", "guidance", "size")},
    "negative": ("look", "negative"),
}
"""Where today's files have what those of cdvideo 0.1 have at the top level."""


def modernised(values: Mapping[Any, Any]) -> tuple[dict[Any, Any], dict[KeyPath, KeyPath]]:
    """A storyboard's values with those of cdvideo 0.1 in their place of today, and for each of these today's path -> the one in the file.

    A value that has its new place taken stays where it is, and is refused there.
    """
    today = dict(values)
    moves: dict[KeyPath, KeyPath] = {}
    for old, (section, key) in OLDER_PLACES.items():
        inside = today.get(section, {})
        if old in today and isinstance(inside, Mapping) and key not in inside:
            today[section] = {**inside, key: today.pop(old)}
            moves[section, key] = (old,)
    if "concept" in today and "cast" not in today:
        concept = today.pop("concept")
        files = concept if isinstance(concept, list | tuple) else [concept]
        today["cast"] = {}
        for number, file in enumerate(files):
            name = _free_name(str(file), today["cast"])
            today["cast"][name] = file
            moves["cast", name] = ("concept", number) if isinstance(concept, list | tuple) else ("concept",)
    return today, moves


def _free_name(file: str, taken: Mapping[str, Any]) -> str:
    """A name for a concept file's member of the cast: the file's own, with a number where it is taken."""
    stem = re.sub(r"[^A-Za-z0-9_-]", "-", Path(file).stem)
    stem = stem if stem[:1].isalpha() else f"cast-{stem}"
    return next(name for number in range(1, len(taken) + 2) if (name := stem if number == 1 else f"{stem}-{number}") not in taken)
