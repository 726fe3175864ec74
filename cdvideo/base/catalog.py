"""The models that have a short name here, and the presets that go with each kind of base. Imports no torch."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cdvideo.errors import UserError

HUB = "https://huggingface.co"


@dataclass(frozen=True, kw_only=True)
class BaseAlias:
    """A base model with a short name. `location` is a hub id, or None for what ships with the package."""

    name: str
    location: str | None
    title: str
    licence: str
    home: str
    download_bytes: int


@dataclass(frozen=True, kw_only=True)
class MotionPreset:
    """How a motion module is to be sampled that needs something else than its base. `loras` are LORAS' names and their strengths."""

    sampler: str
    num_inference_steps: int
    guidance_scale: float
    loras: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class MotionAlias:
    """A motion module, or a MotionLoRA, with a short name; `base` is the alias of the base that it belongs to."""

    name: str
    location: str | None
    title: str
    licence: str
    home: str
    download_bytes: int
    base: str
    preset: MotionPreset | None = None


@dataclass(frozen=True, kw_only=True)
class LoraAlias:
    """A LoRA for the image model with a short name: the file of that name in the hub's `location`."""

    name: str
    location: str
    file: str
    title: str
    licence: str
    home: str
    download_bytes: int
    base: str


@dataclass(frozen=True, kw_only=True)
class ClipAlias:
    """A CLIP that judges the pictures of a kind of base; it goes by the kind's name."""

    name: str
    location: str
    title: str
    licence: str
    home: str
    download_bytes: int


@dataclass(frozen=True, kw_only=True)
class BasePreset:
    """What suits one kind of base. Sizes are in pixels; `learning_rate` is for one picture and is multiplied by the batch size.

    `initializer_tokens` are the vocabulary entries whose embeddings new tokens start from; where there are none, it is the class word's.
    `negative_prompt` is what is not to be seen unless the user says otherwise. `extra_steps` are trained for several concepts together.
    `film_threads` are those of each process that renders a film's shots on a CPU, which rounds otherwise with another number; None is all.
    """

    kind: str
    native_size: int
    default_motion: str
    num_inference_steps: int = 25
    guidance_scale: float = 7.5
    sampler: str = "ddim"
    negative_prompt: str = ""
    train_steps: int
    batch_size: int
    learning_rate: float
    initializer_tokens: tuple[str, ...] = ()
    extra_steps: int = 0
    film_threads: int | None = None

    def initializer(self, number: int) -> str | None:
        """The vocabulary entry that the token of this number, from 0, starts from; None is its class word."""
        return self.initializer_tokens[number % len(self.initializer_tokens)] if self.initializer_tokens else None

    def with_motion(self, motion: MotionPreset | None) -> BasePreset:
        """The same, sampled as a motion module needs it; None is one that needs nothing else."""
        if motion is None:
            return self
        return dataclasses.replace(
            self, sampler=motion.sampler, num_inference_steps=motion.num_inference_steps, guidance_scale=motion.guidance_scale
        )

    def train_steps_for(self, num_concepts: int) -> int:
        return self.train_steps + (self.extra_steps if num_concepts > 1 else 0)


ANIMATELCM_LICENCE = "its authors' own; read the model's page before use"
POCKET_LICENCE = "Apache-2.0; icons by several families, see NOTICE"
BASES: Mapping[str, BaseAlias] = {
    alias.name: alias
    for alias in (
        BaseAlias(
            name="pocket",
            location=None,
            title="the small base that ships with cdvideo",
            licence=POCKET_LICENCE,
            home="cdvideo/pocket/weights",
            download_bytes=0,
        ),
        BaseAlias(
            name="sd15",
            location="stable-diffusion-v1-5/stable-diffusion-v1-5",
            title="Stable Diffusion 1.5",
            licence="CreativeML OpenRAIL-M",
            home=f"{HUB}/stable-diffusion-v1-5/stable-diffusion-v1-5",
            download_bytes=4_270_000_000,
        ),
    )
}


def _animatediff(name: str, suffix: str, download_bytes: int) -> MotionAlias:
    location = f"guoyww/animatediff-motion-adapter-v1-5{suffix}"
    return MotionAlias(
        name=name,
        location=location,
        title=f"AnimateDiff {name}",
        licence="Apache-2.0",
        home=f"{HUB}/{location}",
        download_bytes=download_bytes,
        base="sd15",
    )


_ANIMATELCM = "wangfuyun/AnimateLCM"
LORAS: Mapping[str, LoraAlias] = {
    alias.name: alias
    for alias in (
        LoraAlias(
            name="animatelcm",
            location=_ANIMATELCM,
            file="AnimateLCM_sd15_t2v_lora.safetensors",
            title="AnimateLCM's LoRA, for few steps",
            licence=ANIMATELCM_LICENCE,
            home=f"{HUB}/{_ANIMATELCM}",
            download_bytes=135_000_000,
            base="sd15",
        ),
    )
}
MOTIONS: Mapping[str, MotionAlias] = {
    alias.name: alias
    for alias in (
        MotionAlias(
            name="pocket",
            location=None,
            title="the pocket base's motion module",
            licence=POCKET_LICENCE,
            home="motion_modules/pocket",
            download_bytes=0,
            base="pocket",
        ),
        _animatediff("v1", "", 1_670_000_000),
        _animatediff("v2", "-2", 1_820_000_000),
        _animatediff("v3", "-3", 1_670_000_000),
        MotionAlias(
            name="animatelcm",
            location=_ANIMATELCM,
            title="AnimateLCM, for few steps",
            licence=ANIMATELCM_LICENCE,
            home=f"{HUB}/{_ANIMATELCM}",
            download_bytes=1_820_000_000,
            base="sd15",
            preset=MotionPreset(sampler="lcm", num_inference_steps=6, guidance_scale=2.0, loras=(("animatelcm", 0.8),)),
        ),
    )
}


def _pocket_camera(move: str) -> MotionAlias:
    return MotionAlias(
        name=move,
        location=None,
        title=f"the pocket base's MotionLoRA {move}",
        licence=POCKET_LICENCE,
        home=f"motion_modules/pocket/loras/{move}.safetensors",
        download_bytes=0,
        base="pocket",
    )


def _animatediff_camera(move: str) -> MotionAlias:
    location = f"guoyww/animatediff-motion-lora-{move.replace('roll-', 'rolling-')}"
    return MotionAlias(
        name=move,
        location=location,
        title=f"AnimateDiff v2's MotionLoRA {move}",
        licence="Apache-2.0",
        home=f"{HUB}/{location}",
        download_bytes=77_400_000,
        base="sd15",
    )


CLIPS: Mapping[str, ClipAlias] = {
    "sd15": ClipAlias(
        name="sd15",
        location="openai/clip-vit-large-patch14",
        title="CLIP ViT-L/14, whose text tower Stable Diffusion 1.5 has",
        licence="MIT",
        home=f"{HUB}/openai/clip-vit-large-patch14",
        download_bytes=1_710_000_000,
    )
}
"""CLIPs that do not come with their base, by the kind of base."""
CAMERA_MOVES = ("zoom-in", "zoom-out", "pan-left", "pan-right", "tilt-up", "tilt-down", "roll-clockwise", "roll-anticlockwise")
CAMERAS: Mapping[str, Mapping[str, MotionAlias]] = {
    "pocket": {move: _pocket_camera(move) for move in CAMERA_MOVES},
    "sd15": {move: _animatediff_camera(move) for move in CAMERA_MOVES},
}
"""MotionLoRAs of the camera's moves, by the kind of base (a preset's `kind`) and the move."""

SD15_PRESET = BasePreset(
    kind="sd15",
    native_size=512,
    default_motion="v2",
    negative_prompt="bad quality, worse quality",
    train_steps=500,
    batch_size=2,
    learning_rate=1e-5,
    initializer_tokens=("ktn", "pll", "ucd"),
    extra_steps=300,
)
POCKET_PRESET = BasePreset(
    kind="pocket",
    native_size=128,
    default_motion="pocket",
    guidance_scale=6.0,
    train_steps=240,
    extra_steps=240,
    batch_size=4,
    learning_rate=3e-5,
    film_threads=1,
)


def preset_for(unet: Any) -> BasePreset:
    """The preset of a base, chosen by its UNet (or its configuration): SD1.5's text width, else the pocket's at the UNet's own size."""
    config = unet if isinstance(unet, Mapping) else unet.config
    if config["cross_attention_dim"] == 768:
        return SD15_PRESET
    sample_size = config.get("sample_size") or POCKET_PRESET.native_size // 8
    return dataclasses.replace(POCKET_PRESET, native_size=8 * int(sample_size))


def motion_preset_for(location: str) -> MotionPreset | None:
    """How the motion module of a hub id is to be sampled; None where it is as its base is."""
    return next((alias.preset for alias in MOTIONS.values() if alias.location == location), None)


def unknown_name(kind: str, name: str, known: Mapping[str, Any]) -> UserError:
    """The error for a name that is neither an alias nor a path nor a hub id; `kind` is "base", "motion module" or "camera move"."""
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return UserError(
        f"there is no {kind} called {name!r}",
        cause="it is no known name, no file or folder here, and no hub id of the form owner/name",
        remedy=f"{meant}known names: {', '.join(known)}; or give a folder, a file or a hub id",
    )
