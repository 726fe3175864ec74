"""The YAML files: training configurations and storyboards, as frozen models. Unknown keys fail, with their place in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from cdvideo.errors import UserError


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class TrainConfig(_Model):
    """One training. What is left out comes from the base's preset."""

    images: Path = Field(description="folder with 4-7 photos of one subject; relative to the working folder")
    class_word: str = Field(alias="class", min_length=1, description="the word for what it is, such as bear")
    token: str = Field("V*", min_length=1, description="the word that will stand for it in prompts")
    base: str = Field("pocket", description="base alias, hub id, folder or checkpoint file")
    steps: int | None = Field(None, ge=1, le=100_000, description="number of training steps")
    batch_size: int | None = Field(None, ge=1, le=256, description="views a step")
    learning_rate: float | None = Field(None, gt=0, le=1, description="for one picture; multiplied by the batch size")
    spl_weight: float | None = Field(None, ge=0, description="weight of the semantic preservation loss; 0 is plain Custom Diffusion")
    seed: int = Field(0, ge=0, description="seed of every random draw")
    out: Path | None = Field(None, description="the concept file; concepts/CLASS.safetensors by default")


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Shot(_Model):
    """One shot of a storyboard."""

    prompt: str = Field(min_length=1, description="what is seen")
    seed: int = Field(0, ge=0, description="seed of the shot's noise")
    frames: Annotated[int, Field(ge=1, le=32)] | None = Field(None, description="number of frames; the storyboard's by default")
    negative: str | None = Field(None, description="what is not to be seen; the storyboard's by default")
    guidance: float | None = Field(None, ge=0, description="guidance scale; the storyboard's by default")
    camera: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field((), description="camera moves, such as zoom-in or pan-left:0.6")


class Storyboard(_Model):
    """A film: shots that follow each other with hard cuts."""

    title: str = Field(min_length=1, description="names the film and its files")
    concept: Path | None = Field(None, description="concept file; relative to the storyboard, then to the working folder")
    base: str | None = Field(None, description="base; the concept's by default")
    motion: str | None = Field(None, description="motion module; the base's own by default")
    fps: float = Field(8, gt=0, le=120, description="frames a second")
    frames: int = Field(16, ge=1, le=32, description="frames of a shot")
    steps: int | None = Field(None, ge=1, le=1000, description="denoising steps")
    guidance: float | None = Field(None, ge=0, description="guidance scale")
    size: str | None = Field(None, description="WIDTHxHEIGHT in pixels")
    negative: str = Field("bad quality, worse quality", description="what is not to be seen")
    shots: list[Shot] = Field(min_length=1, description="the shots in order")


Loaded = TypeVar("Loaded", bound=_Model)


def load_yaml(path: Path, model: type[Loaded]) -> Loaded:
    """The configuration in a file. Raises UserError with the file, the line or key, and what is wrong there."""
    try:
        values: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no such file: {path}", cause=f"looked in {Path.cwd()}", remedy="check the name") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}", cause=str(error), remedy="name a YAML text file") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no valid YAML", cause=" ".join(str(error).split()), remedy="mend that line") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings", cause="its top level is not a list of `key: value` lines", remedy="see configs/")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        known = ", ".join(field.alias or name for name, field in model.model_fields.items())
        remedy = f"the keys are: {known}" if first["type"] == "extra_forbidden" else f"mend {place}"
        raise UserError(f"{path}: {place}: {first['msg']}", cause=f"{error.error_count()} setting(s) do not fit", remedy=remedy) from error
