"""The shortest way from Python to a clip: `Animator().add("bear.safetensors").animate("a V* bear jumping").save("bear.mp4")`."""

from __future__ import annotations

import difflib
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from cdvideo import base, motion
from cdvideo.animate.render import Studio
from cdvideo.animate.reuse import EXACT, speed_of
from cdvideo.base.lora import load_lora
from cdvideo.concept import Concept
from cdvideo.strengths import check_strength
from cdvideo.video import Clip


class Animator:
    """Renders clips and stills on a base, with concepts that are added to it. Models are loaded when the first picture is asked for.

    Threads that share one wait for each other: it renders one picture at a time.
    """

    def __init__(
        self,
        base: str | Path | None = None,
        *,
        motion: str | Path | None = None,
        motion_norm: str = "frame",
        joining: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        offline: bool = False,
    ) -> None:
        """`base` is the first concept's, or pocket, where it is None; `motion` is the base's own; `joining` is as for a `Studio`.

        With `dtype` "auto" each clip is rendered in the precision that suits its speed.
        """
        self._lock = threading.RLock()
        self._base, self._motion = (None if name is None else str(name) for name in (base, motion))
        self._joining: dict[str, Any] = {"motion_norm": motion_norm, "joining": joining}
        self._loading: dict[str, Any] = {"device": device, "offline": offline}
        self._asked_dtype = self._dtype = dtype
        self._concepts: list[tuple[Concept, float]] = []
        self._loras: list[tuple[str, float]] = []
        self._studio: Studio | None = None

    def add(self, concept: str | Path | Concept, strength: float = 1.0) -> Animator:
        """This animator, with one more concept: a `Concept`, a file, or one's name in `concepts/`. Raises UserError where it is none."""
        strength = check_strength(strength, of="a concept")
        loaded = concept if isinstance(concept, Concept) else Concept.load(concept)
        with self._lock:
            self.close()
            self._concepts.append((loaded, strength))
        return self

    def add_lora(self, lora: str | Path, strength: float = 1.0) -> Animator:
        """This animator, with one more LoRA for the image model: a file, diffusers folder, hub id or alias, read with the models."""
        strength = check_strength(strength, of="a LoRA")
        with self._lock:
            self.close()
            self._loras.append((str(lora), strength))
        return self

    def animate(self, prompt: str | None = None, *, camera: str | Sequence[str] = (), **settings: Any) -> Clip:
        """The clip of a prompt, or of `prompts` by frame. `camera` is a move such as "zoom-in:0.6", or several.

        `settings` are those of `cdvideo.animate.Studio.clip`: num_frames, size, seed, num_inference_steps, speed, loop, init and more.
        """
        _check_names(Studio.clip, settings)
        with self._lock:
            self._compute_in(speed_of(settings.get("speed", EXACT)).precision(self._asked_dtype))
            studio = self.studio
            cameras = studio.camera_moves(camera, offline=self._loading["offline"])
            return studio.clip(prompt, cameras=cameras, **settings)

    def draw(self, prompt: str, **settings: Any) -> Clip:
        """The still of a prompt, a clip of one frame; `settings` are those of `cdvideo.animate.Studio.still`."""
        _check_names(Studio.still, settings)
        with self._lock:
            self._compute_in(self._asked_dtype)
            return self.studio.still(prompt, **settings)

    def _compute_in(self, dtype: str) -> None:
        if dtype != self._dtype:
            self.close()
            self._dtype = dtype

    @property
    def studio(self) -> Studio:
        """What renders: the base with the concepts and the motion module in it."""
        with self._lock:
            if self._studio is None:
                name = self._base or (self._concepts[0][0].header.base if self._concepts else "pocket")
                loaded = base.load(name, dtype=self._dtype, **self._loading)
                offline = self._loading["offline"]
                module = motion.motion_for(loaded, self._motion, offline=offline)
                loras = [(load_lora(source, base=loaded, offline=offline), strength) for source, strength in self._loras]
                self._studio = Studio(loaded, self._concepts, module, loras=loras, **self._joining)
            return self._studio

    def close(self) -> None:
        """Lets the models go; the next picture loads them again."""
        with self._lock:
            if self._studio is not None:
                self._studio.close()
                self._studio = None

    def __enter__(self) -> Animator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _check_names(renders: Callable[..., Clip], settings: Mapping[str, Any]) -> None:
    """Raises TypeError for a setting that `renders` does not have, before models are loaded for it."""
    known = [name for name in inspect.signature(renders).parameters if name not in ("self", "prompt", "cameras")]
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5) or [known_as for known_as in known if name in known_as]
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
            raise TypeError(f"there is no setting {name!r}; {hint}")
