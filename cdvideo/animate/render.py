"""Rendering clips and stills."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from cdvideo.animate.text_states import LocalConcept, TextKeyValues, describe_local, require_local
from cdvideo.base import Base, Injection, Vocabulary, versions
from cdvideo.concept import Concept, distinct_names
from cdvideo.errors import UserError
from cdvideo.motion import LoraInjection, MotionModule, WeightedLora, attach, load_motion_lora, parse_camera
from cdvideo.sampling import WINDOW, denoise, long_noise, make_scheduler, noise_generator, windowed
from cdvideo.video import Clip

MAX_FRAMES = 4096
LEAST_LOOP = 8

OnStep = Callable[[int, int], None]


class Studio:
    """A base with concepts in it and, for clips, a motion module attached: set up once, rendered with many times.

    `concepts` are concepts, or pairs of a concept and its strength. One alone is put into the base as it was trained; of several, each
    works on its own phrase (`joining` "local" does so with one alone, too). Tokens of the same name become `V1*`, `V2*` in the order given.
    Concepts go in before the motion module is attached. `close` (or the end of a `with` block) takes both out of the base again.
    """

    def __init__(
        self,
        base: Base,
        concepts: Sequence[Concept | LocalConcept] = (),
        motion: MotionModule | None = None,
        motion_norm: str = "frame",
        joining: str | None = None,
    ) -> None:
        pairs = [(one, 1.0) if isinstance(one, Concept) else one for one in concepts]
        names = distinct_names([concept.header.tokens for concept, _ in pairs])
        self.base, self.motion, self.motion_norm = base, motion, motion_norm
        self.concepts = [(concept.renamed(own), strength) for (concept, strength), own in zip(pairs, names, strict=True)]
        self._digests = [concept.digest for concept, _ in pairs]
        self.joining = joining or ("whole" if len(pairs) < 2 else "local")
        if self.joining == "whole" and len(pairs) > 1:
            raise ValueError("several concepts are joined locally, or merged into one before")
        self._local: list[LocalConcept] = []
        self._inside: list[Injection | Vocabulary] = []
        self._motion_unet: Any = None
        try:
            if self.joining == "local":
                require_local([concept for concept, _ in self.concepts])
                self._inside = [Vocabulary(base, [concept for concept, _ in self.concepts])]
                self._local = self.concepts
            else:
                self._inside = [base.inject(concept, strength) for concept, strength in self.concepts]
            if motion is not None:
                self._motion_unet = attach(base.unet, motion, motion_norm=motion_norm)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._motion_unet = None
        while self._inside:
            self._inside.pop().eject()

    def __enter__(self) -> Studio:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def camera_moves(self, moves: Sequence[str], *, offline: bool = False) -> list[WeightedLora]:
        """The MotionLoRAs, with their strengths, of moves such as "zoom-in", "pan-left:0.6" or a path, for this base's motion module."""
        if self.motion is None:
            raise ValueError("this studio has no motion module; give it one")
        kind, motion = self.base.preset.kind, self.motion
        parsed = [parse_camera(move) for move in moves]
        return [(load_motion_lora(source, motion=motion, kind=kind, offline=offline), strength) for source, strength in parsed]

    def clip(
        self,
        prompt: str,
        *,
        num_frames: int = 16,
        fps: float = 8,
        size: tuple[int, int] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative: str | None = None,
        seed: int = 0,
        schedule: str = "animatediff",
        sampler: str = "ddim",
        cameras: Sequence[WeightedLora] = (),
        loop: bool = False,
        on_step: OnStep | None = None,
    ) -> Clip:
        """`num_frames` frames and a record of every setting. `size` is (width, height) in pixels; the base's own by default.

        `cameras` are MotionLoRAs and their strengths; they are in the motion module for this clip alone. More than 16 frames are rendered
        in overlapping windows of 16; with `loop` the last frame leads back to the first.
        """
        if self._motion_unet is None:
            raise ValueError("this studio has no motion module; give it one, or ask for a still")
        least = LEAST_LOOP if loop else 1
        if not least <= num_frames <= MAX_FRAMES:
            what = "loop" if loop else "render"
            raise UserError(f"cannot {what} {num_frames} frames", remedy=f"choose --frames from {least} to {MAX_FRAMES}; 16 is usual")
        if fps <= 0 or fps > 120:
            raise UserError(f"cannot play {fps:g} frames a second", remedy="choose --fps from 1 to 120; 8 is usual")
        settings = self._settings(prompt, size, num_inference_steps, guidance_scale, negative, seed, schedule, sampler)
        width, height = settings["size"]
        shape = (1, self.base.unet.config.in_channels, num_frames, height // self.base.latent_factor, width // self.base.latent_factor)
        with LoraInjection(self._motion_unet, cameras):
            latents = self._denoise(self._motion_unet, shape, settings, on_step, loop)
        frames = self.base.decode(rearrange(latents, "1 c f h w -> f c h w")).numpy()
        motion = {
            "motion": self.motion.source if self.motion else None,
            "motion_fingerprint": self.motion.fingerprint if self.motion else None,
            "motion_norm": self.motion_norm,
            "cameras": describe_cameras(cameras),
        }
        record = {"kind": "clip", **settings, "frames": num_frames, "fps": fps, "loop": loop, **motion, **self._origin()}
        return Clip(frames=frames, fps=fps, record=record)

    def still(
        self,
        prompt: str,
        *,
        size: tuple[int, int] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative: str | None = None,
        seed: int = 0,
        schedule: str = "stable-diffusion",
        sampler: str = "ddim",
        on_step: OnStep | None = None,
    ) -> Clip:
        """A clip of one frame, from the base's own UNet without motion."""
        settings = self._settings(prompt, size, num_inference_steps, guidance_scale, negative, seed, schedule, sampler)
        width, height = settings["size"]
        shape = (1, self.base.unet.config.in_channels, height // self.base.latent_factor, width // self.base.latent_factor)
        latents = self._denoise(self.base.unet, shape, settings, on_step)
        return Clip(frames=self.base.decode(latents).numpy(), fps=1, record={"kind": "still", **settings, **self._origin()})

    @property
    def window(self) -> int:
        """Frames that the motion module sees at once."""
        return min(WINDOW, self.motion.max_frames) if self.motion else WINDOW

    def _denoise(self, unet: Any, shape: tuple[int, ...], settings: dict[str, Any], on_step: OnStep | None, loop: bool = False) -> Tensor:
        base, guidance = self.base, settings["guidance"]
        text = TextKeyValues(base, [settings["negative"], settings["prompt"]], self._local)

        def predict_noise(latents: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
            if latents.ndim == 5:
                states = states.repeat_interleave(latents.shape[2], dim=0)
            return unet(latents, timestep, encoder_hidden_states=states).sample

        scheduler = make_scheduler(settings["schedule"], settings["steps"], base.device, settings["sampler"])
        generator = noise_generator(settings["seed"])
        latents = _noise(shape, self.window, generator).to(base.device, base.dtype)
        with text.within(unet, num_prompts=2 if guidance > 1 else 1):
            return denoise(
                windowed(predict_noise, window=self.window, loop=loop) if len(shape) == 5 else predict_noise,
                scheduler,
                latents,
                text=text.states[1:],
                negative=text.states[:1],
                guidance_scale=guidance,
                generator=generator,
                on_step=on_step,
            )

    def _settings(
        self,
        prompt: str,
        size: tuple[int, int] | None,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        negative: str | None,
        seed: int,
        schedule: str,
        sampler: str,
    ) -> dict[str, Any]:
        preset = self.base.preset
        width, height = size or (preset.native_size, preset.native_size)
        if problem := describe_size_problem(width, height, self.base.latent_factor):
            raise UserError(problem[0], remedy=problem[1])
        if not 0 <= seed < 2**63:
            raise UserError(f"{seed} is no seed", remedy="choose --seed from 0 to 9223372036854775807")
        return {
            "prompt": prompt,
            "negative": preset.negative_prompt if negative is None else negative,
            "seed": seed,
            "size": [width, height],
            "steps": preset.num_inference_steps if num_inference_steps is None else num_inference_steps,
            "guidance": preset.guidance_scale if guidance_scale is None else guidance_scale,
            "schedule": schedule,
            "sampler": sampler,
        }

    def _origin(self) -> dict[str, Any]:
        return {
            "base": self.base.id,
            "base_fingerprint": self.base.fingerprint,
            "dtype": str(self.base.dtype).removeprefix("torch."),
            "concepts": describe_local(self.concepts, self._digests),
            "joining": self.joining,
            "versions": versions(),
        }


def _noise(shape: tuple[int, ...], window: int, generator: torch.Generator) -> Tensor:
    """Standard normal noise; of a long clip's frames, only the first window's are drawn."""
    if len(shape) == 4 or shape[2] <= window:
        return torch.randn(shape, generator=generator)
    first = torch.randn((*shape[:2], window, *shape[3:]), generator=generator)
    return long_noise(first, shape[2], generator)


def describe_cameras(cameras: Sequence[WeightedLora]) -> list[dict[str, Any]]:
    """What a record says of a clip's camera moves."""
    return [{"name": lora.source, "strength": strength, "fingerprint": lora.fingerprint} for lora, strength in cameras]


def describe_size_problem(width: int, height: int, latent_factor: int = 8) -> tuple[str, str] | None:
    """What is wrong with a size in pixels and the way out, or None."""
    if min(width, height) < 64 or max(width, height) > 4096:
        return f"cannot render at {width}x{height}", "choose --size from 64x64 to 4096x4096"
    if width % latent_factor or height % latent_factor:
        near = f"{round(width / latent_factor) * latent_factor}x{round(height / latent_factor) * latent_factor}"
        return f"{width}x{height} is no multiple of {latent_factor} on both sides", f"choose --size {near}"
    return None


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) from "512x384". Raises UserError for anything else."""
    width, cross, height = text.lower().partition("x")
    if not cross or not width.strip().isdigit() or not height.strip().isdigit():
        raise UserError(f"{text!r} is no size", remedy="write it as WIDTHxHEIGHT in pixels, such as 512x512")
    return int(width), int(height)
