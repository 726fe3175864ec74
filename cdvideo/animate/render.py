"""Rendering clips and stills."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from cdvideo.animate.denoising import denoised, mixed_text
from cdvideo.animate.passes import UNetPasses
from cdvideo.animate.reuse import Speed, speed_of
from cdvideo.animate.settings import (
    Course,
    check_length,
    check_prompt,
    check_rounds,
    describe_cameras,
    prompts_by_frame,
    sampling_settings,
    strengths_by_frame,
)
from cdvideo.animate.starting import Start, StartSource, check_start, start_from
from cdvideo.animate.text_states import LocalConcept, TextKeyValues, describe_local, require_key_values
from cdvideo.animate.tokens import say_unknown_tokens, tokenize
from cdvideo.base import Base, Injection, Vocabulary, versions
from cdvideo.base.catalog import BasePreset
from cdvideo.base.device import keep_freed_memory
from cdvideo.base.lora import ImageLoraInjection, WeightedImageLora, describe_loras, together
from cdvideo.base.recorded import Recordings
from cdvideo.concept import Concept, distinct_names
from cdvideo.errors import UserError, UserNote
from cdvideo.evaluate.movement import Movement, black_frames
from cdvideo.motion import LoraInjection, MotionModule, WeightedLora, attach, load_motion_lora, parse_camera
from cdvideo.numbers import plain_number
from cdvideo.sampling import WINDOW, OnPrediction, OnStep
from cdvideo.video import Clip
from cdvideo.video.gather import gathered

JOININGS = ("local", "merge", "whole")


class BlackFrames(UserError):
    """All frames of a clip are black."""


class Studio:
    """A base with concepts in it and, for clips, a motion module attached: set up once, rendered with many times.

    `concepts` are concepts, or pairs of a concept and its strength. One alone is put into the base as it was trained; of several, each
    works on its own phrase (`joining` "local" does so with one alone, too), or with "merge" they are merged into one before. Tokens of the
    same name become `V1*`, `V2*` in the order given. `loras` are LoRAs for the image model and their strengths, beside those that the
    motion module needs: they go in first, concepts on top of them, and then the motion module is attached. `close` (or the end of a `with`
    block) takes all out of the base again.
    """

    def __init__(
        self,
        base: Base,
        concepts: Sequence[Concept | LocalConcept] = (),
        motion: MotionModule | None = None,
        motion_norm: str = "frame",
        joining: str | None = None,
        loras: Sequence[WeightedImageLora] = (),
    ) -> None:
        pairs = [(one, 1.0) if isinstance(one, Concept) else one for one in concepts]
        self.base, self.motion, self.motion_norm = base, motion, motion_norm
        self.loras = together(motion.loras if motion else (), loras)
        keep_freed_memory(base.device)
        self.joining = _joining_of(joining, len(pairs))
        names = distinct_names([concept.header.tokens for concept, _ in pairs])
        renamed = [(concept.renamed(own), strength) for (concept, strength), own in zip(pairs, names, strict=True)]
        self._recorded = describe_local(renamed, [concept.digest for concept, _ in pairs])
        if self.joining == "merge":
            renamed = [(_merged(base, renamed), 1.0)]
        self._is_closed = False
        self._inside: list[Injection | Vocabulary] = []
        self._motion_unet: Any = None
        self._recordings = Recordings(base.device)
        self._passes: dict[Any, UNetPasses] = {}
        self._decode = self._recordings.of(Base.decode_some, base)
        self._lora_injection = ImageLoraInjection(base, self.loras)
        try:
            self.concepts = [(self._lora_injection.beneath(concept), strength) for concept, strength in renamed]
            if self.joining == "local":
                require_key_values(self._plain_concepts, "share a picture with another")
                self._inside = [Vocabulary(base, self._plain_concepts)]
            else:
                self._inside = self._injected()
            if motion is not None:
                self._motion_unet = attach(base.unet, motion, motion_norm=motion_norm)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._is_closed = True
        self._recordings.forget()
        self._passes = {}
        self._motion_unet = None
        self._take_out()
        self._lora_injection.eject()

    def __enter__(self) -> Studio:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def camera_moves(self, moves: str | Sequence[str | tuple[str, float]], *, offline: bool = False) -> list[WeightedLora]:
        """The MotionLoRAs, with their strengths, for this base's motion module, of moves such as "zoom-in", "pan-left:0.6" or a path.

        A move may be a pair of its name and its strength; a single one may stand alone.
        """
        if self.motion is None:
            raise ValueError("this studio has no motion module; give it one")
        kind, motion = self.base.preset.kind, self.motion
        every = [moves] if isinstance(moves, str) else moves
        parsed = [parse_camera(move) if isinstance(move, str) else move for move in every]
        return [
            (load_motion_lora(source, motion=motion, kind=kind, offline=offline), plain_number(strength)) for source, strength in parsed
        ]

    def clip(
        self,
        prompt: str | None = None,
        *,
        prompts: Mapping[int, str] | None = None,
        travel: str = "linear",
        concept_strengths: Course | Sequence[Course] = (),
        num_frames: int = 16,
        fps: float = 8,
        size: tuple[int, int] | str | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative: str | None = None,
        seed: int = 0,
        schedule: str = "animatediff",
        sampler: str | None = None,
        cameras: Sequence[WeightedLora] = (),
        loop: bool = False,
        init: StartSource | None = None,
        strength: float | None = None,
        freeinit: int = 1,
        speed: str | Speed = "exact",
        on_step: OnStep | None = None,
        on_prediction: OnPrediction | None = None,
    ) -> Clip:
        """`num_frames` frames and a record of every setting. `size` is (width, height) in pixels, or "512x384"; the base's own by default.

        `prompts` by frame turn into each other as `travel` says: linear, smooth or hold; `prompt` is that of frame 0. `concept_strengths`
        are factors by frame of the concepts' strengths, linear in between: one course for all concepts, or one for each. `cameras` are
        MotionLoRAs and their strengths; they are in the motion module for this clip alone. More than 16 frames are rendered in overlapping
        windows, in every second of which a motion leads back; with several prompts, or from a clip, in each it begins anew. With `loop` the
        last frame leads back to the first. `init`, a picture or a clip (a file or a Clip), is what the frames start from; `strength` in
        (0, 1] is how much of it is drawn anew. With `freeinit` above 1 the clip is rendered so many times, each time from noise that the
        one before has steadied. `speed` is exact, fast or draft (`SPEEDS` says what each gives up).
        """
        self._check_open()
        if self._motion_unet is None:
            raise ValueError("this studio has no motion module; give it one, or ask for a still")
        check_length(num_frames, fps, loop=loop)
        check_rounds(freeinit, starts=init is not None)
        num_frames, fps, freeinit, loop = int(num_frames), plain_number(fps), int(freeinit), bool(loop)
        course = prompts_by_frame(prompt, prompts, travel, num_frames)
        strengths = strengths_by_frame(concept_strengths, len(self.concepts), num_frames)
        chosen = speed_of(speed)
        settings = sampling_settings(
            self.base,
            self.preset,
            size=size,
            num_inference_steps=chosen.steps_of(self.preset) if num_inference_steps is None else num_inference_steps,
            guidance_scale=guidance_scale,
            negative=negative,
            seed=seed,
            schedule=schedule,
            sampler=sampler,
        )
        start = self._start(init, strength, settings, num_frames)
        with LoraInjection(self._motion_unet, cameras):
            latents = self._denoise(
                settings,
                prompts=course,
                travel=travel,
                strengths=strengths,
                num_frames=num_frames,
                loop=loop,
                # What changes over time, or moves already, is meant in that order.
                turns=len(course) == 1 and not (start and start.moves),
                start=start,
                rounds=freeinit,
                speed=chosen,
                on_step=on_step,
                on_prediction=on_prediction,
            )
        self._recordings.follow(self.base.vae)
        movement = Movement()
        frames = gathered(_seen(self.base.decoded(rearrange(latents, "1 c f h w -> f c h w"), self._decode), movement))
        _check_black(frames)
        over_time = {
            "prompts": _written(course) if len(course) > 1 else None,
            "travel": travel,
            "concept_strengths": [_written(one) for one in strengths],
        }
        motion = {
            "motion": self.motion.source if self.motion else None,
            "motion_fingerprint": self.motion.fingerprint if self.motion else None,
            "motion_norm": self.motion_norm,
            "cameras": describe_cameras(cameras),
        }
        length = {"frames": num_frames, "fps": fps, "loop": loop}
        first = next(iter(course.values()))
        means = {"init": start.described() if start else None, "freeinit": freeinit, "speed": dataclasses.asdict(chosen)}
        record = {"kind": "clip", "prompt": first, **over_time, **settings, **means, **length, **motion, **self._origin()}
        record["seen"] = movement.described()
        return Clip(frames=frames, fps=fps, record=record)

    def still(
        self,
        prompt: str,
        *,
        size: tuple[int, int] | str | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative: str | None = None,
        seed: int = 0,
        schedule: str = "stable-diffusion",
        sampler: str | None = None,
        init: StartSource | None = None,
        strength: float | None = None,
        on_step: OnStep | None = None,
    ) -> Clip:
        """A clip of one frame, from the base's own UNet without motion; `init` and `strength` as for a clip."""
        self._check_open()
        settings = sampling_settings(
            self.base,
            self.preset,
            size=size,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            negative=negative,
            seed=seed,
            schedule=schedule,
            sampler=sampler,
        )
        check_prompt(prompt)
        start = self._start(init, strength, settings)
        latents = self._denoise(settings, prompts={0: prompt}, start=start, on_step=on_step)
        record = {"kind": "still", "prompt": prompt, **settings, "init": start.described() if start else None, **self._origin()}
        return Clip(frames=self.base.decode(latents).numpy(), fps=1, record=record)

    def _check_open(self) -> None:
        if self._is_closed:
            raise ValueError("this studio is closed; open another")

    @property
    def preset(self) -> BasePreset:
        """What is used where nothing is asked for: the base's, as the motion module needs it."""
        return self.base.preset.with_motion(self.motion.preset if self.motion else None)

    @property
    def window(self) -> int:
        """Frames that the motion module sees at once."""
        return min(WINDOW, self.motion.max_frames) if self.motion else WINDOW

    def _denoise(
        self,
        settings: Mapping[str, Any],
        *,
        prompts: Mapping[int, str],
        travel: str = "linear",
        strengths: Sequence[Course] = (),
        num_frames: int | None = None,
        loop: bool = False,
        **sampling: Any,
    ) -> Tensor:
        """The latents of a clip of `num_frames`, or of a still; `sampling` are further arguments of `denoised`."""
        unet = self.base.unet if num_frames is None else self._motion_unet
        text = self._key_values([settings["negative"], *prompts.values()], at_changing_strength=bool(strengths))
        positive, negative = mixed_text(
            text,
            [strength for _, strength in self.concepts],
            prompts=prompts,
            travel=travel,
            strengths=strengths,
            num_frames=num_frames or 1,
            loop=loop,
        )
        if unet not in self._passes:
            self._passes[unet] = UNetPasses(unet, self._recordings)
        passes = self._passes[unet]
        passes.read(text)
        with text.within(unet):
            return denoised(
                self.base,
                passes,
                settings,
                text=positive,
                negative=negative,
                window=self.window,
                num_frames=num_frames,
                loop=loop,
                **sampling,
            )

    def _start(
        self, init: StartSource | None, strength: float | None, settings: Mapping[str, Any], num_frames: int | None = None
    ) -> Start | None:
        if init is None:
            check_start(init, strength)
            return None
        width, height = settings["size"]
        start = start_from(init, strength, size=(width, height), num_frames=num_frames)
        start.first_step(settings["steps"])
        return start

    def _key_values(self, prompts: Sequence[str], *, at_changing_strength: bool) -> TextKeyValues:
        """The keys and values of the prompts. A concept that is whole in the base comes out of it where its strength is to change."""
        say_unknown_tokens(prompts, self._plain_concepts)
        tokens = tokenize(self.base.tokenizer, prompts, self._plain_concepts)
        if self.joining == "local":
            return TextKeyValues(self.base, tokens, self._plain_concepts)
        if not at_changing_strength:
            return TextKeyValues(self.base, tokens)
        with self._words_alone():
            return TextKeyValues(self.base, tokens, self._plain_concepts, everywhere=True)

    @contextmanager
    def _words_alone(self) -> Iterator[None]:
        """Within it, the concepts' words are in the base and their matrices are not."""
        require_key_values(self._plain_concepts, "change its strength within a clip")
        self._take_out()
        try:
            with Vocabulary(self.base, self._plain_concepts):
                yield
        finally:
            self._inside = self._injected()

    @property
    def _plain_concepts(self) -> list[Concept]:
        return [concept for concept, _ in self.concepts]

    def _injected(self) -> list[Injection | Vocabulary]:
        return [self.base.inject(concept, strength) for concept, strength in self.concepts]

    def _take_out(self) -> None:
        while self._inside:
            self._inside.pop().eject()

    def _origin(self) -> dict[str, Any]:
        return {
            "base": self.base.id,
            "base_fingerprint": self.base.fingerprint,
            "dtype": str(self.base.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads() if self.base.device.type == "cpu" else None,
            "loras": describe_loras(self.loras),
            "concepts": self._recorded,
            "joining": self.joining,
            "versions": versions(),
        }


def _joining_of(name: str | None, num_concepts: int) -> str:
    """How so many concepts are joined; one alone is whole in the base unless it is asked to be local. Raises UserError."""
    if name not in (None, *JOININGS):
        raise UserError(f"there is no joining {name!r}", remedy=f"one of: {', '.join(JOININGS)}")
    if num_concepts < 2:
        return "local" if name == "local" else "whole"
    if name == "whole":
        raise UserError("several concepts cannot all be whole in the base", remedy="join them by local or merge")
    return name or "local"


def _merged(base: Base, concepts: Sequence[LocalConcept]) -> Concept:
    from cdvideo.interop import merge

    if any(strength != 1 for _, strength in concepts):
        raise UserError("merged concepts have no strengths of their own", remedy="leave the strengths out, or join them by local")
    return merge(base, [concept for concept, _ in concepts]).concept


def _seen(decoded: Iterable[Tensor], movement: Movement) -> Iterator[NDArray[np.uint8]]:
    """Frame by frame of pictures that come a few at a time, each of them shown to `movement`."""
    for some in decoded:
        for frame in some.numpy():
            movement.add(frame)
            yield frame


def _check_black(frames: NDArray[np.uint8]) -> None:
    """Says which frames are black. Raises BlackFrames where all are."""
    black = black_frames(frames)
    if len(black) == len(frames):
        raise BlackFrames("all frames are black", remedy="try --dtype fp32, a lower --guidance, or another --seed")
    if black:
        numbers = ", ".join(map(str, black[:8])) + (", …" if len(black) > 8 else "")
        warnings.warn(
            f"{len(black)} of {len(frames)} frames are black: {numbers}; if they should not be, try --dtype fp32", UserNote, stacklevel=3
        )


def _written(course: Mapping[int, Any]) -> dict[str, Any]:
    """A course as JSON keeps it, whose keys are texts."""
    return {str(frame): value for frame, value in course.items()}
