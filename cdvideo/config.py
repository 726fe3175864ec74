"""Training configurations as frozen models, and what every model of a YAML file shares. Unknown keys fail, with their place."""

from __future__ import annotations

import difflib
import itertools
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cdvideo.concept import CONCEPTS
from cdvideo.errors import UserError


class FrozenModel(BaseModel):
    """A section of a YAML file."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


def listed(value: Any) -> Any:
    """One thing as a list of one."""
    return [value] if isinstance(value, str | Path) else value


class SubjectConfig(FrozenModel):
    """One subject of a training of several."""

    images: Path = Field(description="folder with 4-7 photos of it; relative to the working folder")
    class_word: str = Field(alias="class", min_length=1, description="the word for what it is, such as bear")
    token: str | None = Field(None, min_length=1, description="the word that will stand for it; V1*, V2* ... by default, V* for one alone")
    initializer: str | None = Field(None, min_length=1, description="the word whose embedding the token starts from; the base's own choice")
    class_images: Path | None = Field(None, description="folder with pictures of the class for prior preservation; drawn by default")


Method = Literal["classdiffusion", "custom-diffusion", "textual-inversion", "dreambooth", "svdiff"]


class TrainConfig(FrozenModel):
    """One training, of one subject or, with `concepts`, of several together. What is left out comes from the base's preset."""

    images: Path | None = Field(None, description="folder with 4-7 photos of one subject; relative to the working folder")
    class_word: str | None = Field(None, alias="class", min_length=1, description="the word for what it is, such as bear")
    token: str | None = Field(None, min_length=1, description="the word that will stand for it in prompts; V* by default")
    class_images: Path | None = Field(None, description="folder with pictures of the class for prior preservation; drawn by default")
    concepts: list[SubjectConfig] = Field([], description="several subjects, instead of images, class and token")
    base: str = Field("pocket", description="base alias, hub id, folder or checkpoint file")
    method: Method = Field("classdiffusion", description="what trains, and which losses")
    steps: int | None = Field(None, ge=1, le=100_000, description="number of training steps")
    batch_size: int | None = Field(None, ge=1, le=256, description="views a step")
    accumulate: int = Field(1, ge=1, le=1024, description="batches whose gradients make one step")
    learning_rate: float | None = Field(
        None, gt=0, le=1, description="for one picture; multiplied by the pictures of a step and the method's"
    )
    optimizer: Literal["adamw", "adamw8bit"] = Field("adamw", description="adamw8bit needs bitsandbytes")
    gradient_checkpointing: bool = Field(False, description="less memory, a third more time")
    cache_latents: int = Field(
        0, ge=0, le=10_000, description="views of each photo that are encoded once; 0 encodes new ones at every step"
    )
    spl_weight: float | None = Field(None, ge=0, description="weight of the semantic preservation loss; the method's own by default")
    spl_mode: Literal["paper", "official"] = Field(
        "paper", description="where the loss looks: as the paper says, or as the public script does"
    )
    prior_weight: float | None = Field(None, ge=0, description="weight of prior preservation; the method's own by default")
    num_class_images: int = Field(40, ge=1, le=10_000, description="pictures of the class that the base draws for prior preservation")
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints")
    samples_every: int = Field(0, ge=0, description="steps between rows of the sample sheet; 0 draws none")
    sample_prompts: list[str] = Field([], description="the prompts of the sample sheet; a few usual ones by default")
    keep: Literal["last", "best"] = Field("last", description="which checkpoint becomes the concept; best needs samples_every")
    log: Annotated[tuple[Literal["tensorboard", "wandb"], ...], BeforeValidator(listed)] = Field((), description="logs beside log.jsonl")
    seed: int = Field(0, ge=0, description="seed of every random draw")
    out: Path | None = Field(None, description="the concept file; concepts/CLASS.safetensors by default")

    @model_validator(mode="after")
    def _one_way_of_naming(self) -> TrainConfig:
        if bool(self.concepts) == (self.images is not None):
            raise ValueError("name either images and class, or concepts")
        if self.concepts and (self.class_word or self.token or self.class_images):
            raise ValueError("with concepts, class, token and class_images belong to each of them")
        if self.images is not None and self.class_word is None:
            raise ValueError("the class is missing")
        tokens = [subject.token for subject in self.subjects]
        if len(set(tokens)) < len(tokens):
            raise ValueError(f"two concepts share a token: {', '.join(map(str, tokens))}")
        if self.keep == "best" and not self.samples_every:
            raise ValueError("keep: best judges the samples; give samples_every (--samples-every)")
        return self

    @property
    def subjects(self) -> list[SubjectConfig]:
        """The subjects, each with its token."""
        if self.concepts:
            taken = {one.token for one in self.concepts}
            named = []
            for number, one in enumerate(self.concepts, 1):
                token = one.token or next(name for later in itertools.count(number) if (name := f"V{later}*") not in taken)
                taken.add(token)
                named.append(one.model_copy(update={"token": token}))
            return named
        alone = {"images": self.images, "class": self.class_word, "token": self.token or "V*", "class_images": self.class_images}
        return [SubjectConfig.model_validate(alone)]

    @property
    def concept_path(self) -> Path:
        return self.out or CONCEPTS / f"{'-'.join(subject.class_word for subject in self.subjects)}.safetensors"


def is_yaml(path: Path) -> bool:
    return path.suffix.lower() in (".yaml", ".yml")


Loaded = TypeVar("Loaded", bound=FrozenModel)


class _UniqueKeys(yaml.SafeLoader):
    """YAML as it is safe to read; of a key that is there twice, one would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is there twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_yaml(path: Path, model: type[Loaded]) -> Loaded:
    """The configuration in a file. Raises UserError with the file, the line or key, and what is wrong there."""
    try:
        with path.open(encoding="utf-8") as file:
            values: Any = yaml.load(file, _UniqueKeys)
    except FileNotFoundError:
        raise UserError(f"no such file: {path}", cause=f"looked in {Path.cwd()}", remedy="check the name") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}", cause=str(error), remedy="name a YAML text file") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no valid YAML", cause=" ".join(str(error).split()), remedy="mend that line") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings", cause="its top level is not a list of `key: value` lines", remedy="see configs/")
    return checked(model, values, str(path))


def checked(model: type[Loaded], values: Any, source: str, *, from_options: bool = False) -> Loaded:
    """The configuration of these values. Raises UserError that names `source`, the key or the command's option, and what is wrong there."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        places = [".".join(str(part) for part in one["loc"]) for one in error.errors()]
        if from_options:
            fields = model.model_fields
            places = [f"--{(fields[name].alias or name).replace('_', '-')}" if name in fields else name for name in places]
        place, *others = places
        within = SubjectConfig if first["loc"][1:] and first["loc"][0] == "concepts" else model
        known = [field.alias or name for name, field in within.model_fields.items()]
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
            remedy = (f"did you mean {near[0]}? " if near else "") + f"the keys are: {', '.join(known)}"
            said = "there is no such key"
        else:
            remedy, said = f"mend {place or 'these settings'}", first["msg"].removeprefix("Value error, ")
        cause = f"these do not fit either: {', '.join(others)}" if any(others) else ""
        raise UserError(f"{source}: {place}: {said}" if place else f"{source}: {said}", cause=cause, remedy=remedy) from error
