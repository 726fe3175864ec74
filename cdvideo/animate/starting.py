"""What a clip starts from instead of pure noise: a picture, which is then the start of every frame, or the frames of another clip.

Shapes: `F` frames, `C` latent channels, `H W` height and width in pixels, `h w` in latent cells.
"""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from cdvideo.base import Base
from cdvideo.errors import UserError, UserNote
from cdvideo.heif import is_heif, register_heif
from cdvideo.numbers import is_number, plain_number, written
from cdvideo.video import Clip, read
from cdvideo.video.gather import gathered

Frames = NDArray[np.uint8]
StartSource = str | os.PathLike[str] | Clip
ENCODED_AT_ONCE = 4
ANIMATED = ("GIF", "PNG", "AVIF")
"""Formats of pictures, as Pillow names them, whose frames `video.read` reads."""
DEFAULT_STRENGTH = 0.7
"""How far a start is noised unless the user says otherwise: its layout stays, its details are drawn anew."""


@dataclass(frozen=True)
class Start:
    """Frames (F, H, W, 3) uint8 to start from, and how strongly they are changed: near 0 hardly, at 1 completely.

    `moves` says that they are a clip's, and not one picture again and again.
    """

    frames: Frames
    strength: float
    source: str | None = None
    moves: bool = False

    @property
    def digest(self) -> str:
        """Of the frames as they are used, so that a copy of the file in another format is another start."""
        found = hashlib.sha256(str(self.frames.shape).encode())
        for frame in self.frames:
            found.update(frame.tobytes())
        return found.hexdigest()[:16]

    def first_step(self, num_inference_steps: int) -> int:
        """The step that denoising starts at, as in SDEdit (Meng et al. 2022): the strength's share of all steps is left.

        Raises UserError where no step would be.
        """
        num_steps = steps_left(num_inference_steps, self.strength)
        if num_steps < 1:
            raise UserError(
                f"--strength {self.strength:g} of {num_inference_steps} steps is no step at all",
                remedy=f"choose --strength of at least {math.ceil(100 / num_inference_steps) / 100:g}, or more --steps",
            )
        return num_inference_steps - num_steps

    def latents(self, base: Base) -> Tensor:
        """(1, C, F, h, w): the means of the autoencoder's posteriors."""
        means = []
        for first in range(0, len(self.frames), ENCODED_AT_ONCE):
            some = torch.from_numpy(np.array(self.frames[first : first + ENCODED_AT_ONCE]))
            means.append(base.moments(rearrange(some, "f h w c -> f c h w").float() / 127.5 - 1)[0])
        return rearrange(torch.cat(means), "f c h w -> 1 c f h w")

    def described(self) -> Mapping[str, Any]:
        """What a record says of it."""
        return {"file": self.source, "digest": self.digest, "strength": self.strength}


def steps_left(num_inference_steps: int, strength: float | None) -> int:
    """How many of the steps are taken from a start of the strength, or of the usual one."""
    return min(int(num_inference_steps * (DEFAULT_STRENGTH if strength is None else strength)), num_inference_steps)


def check_start(init: StartSource | None, strength: float | None) -> None:
    """Raises UserError for a strength outside (0, 1] or of nothing, and for a file that is not there. What is None was not given."""
    if strength is not None and init is None:
        raise UserError("--strength is of --init, and there is none", remedy="give --init FILE, or leave --strength out")
    if strength is not None and not (is_number(strength) and 0 < strength <= 1):
        raise UserError(
            f"--strength {written(strength)} is not between 0 and 1",
            remedy="near 0 keeps what --init shows, 1 draws all of it anew; 0.7 is usual",
        )
    if init is not None and not isinstance(init, Clip) and not os.path.exists(init):
        raise UserError(f"there is no {os.fspath(init)}", remedy="check the path behind --init")


def start_from(source: StartSource, strength: float | None, *, size: tuple[int, int], num_frames: int | None = None) -> Start:
    """The start for a clip of `num_frames`, or a still where that is None, at `size` (width, height) in pixels.

    Pictures are scaled until they cover the size (Lanczos) and cut to it around their middle. Of a longer clip its first frames are used.
    Raises UserError for a clip that is too short, a strength outside (0, 1], and what cannot be read.
    """
    check_start(source, strength)
    strength = DEFAULT_STRENGTH if strength is None else plain_number(strength)
    name = None if isinstance(source, Clip) else os.fspath(source)
    wanted = num_frames or 1
    frames = source.frames if isinstance(source, Clip) else read_start(Path(source), most=wanted + 1)
    if 1 < len(frames) < wanted:
        raise UserError(
            f"{name or 'the clip to start from'} has {len(frames)} frames, and {wanted} are to be rendered",
            remedy=f"choose --frames {len(frames)}, or start from a picture",
        )
    if len(frames) > wanted:
        used = "frame is" if wanted == 1 else f"{wanted} frames are"
        warnings.warn(f"of {name or 'the clip to start from'} the first {used} used", UserNote, stacklevel=3)
    fitted = gathered(_fitted(frame, size) for frame in frames[:wanted])
    return Start(np.broadcast_to(fitted, (wanted, *fitted.shape[1:])), strength, name, moves=len(fitted) > 1)


def read_start(path: Path, *, most: int | None = None) -> Frames:
    """The frames (F, H, W, 3) of a clip, its first `most` or all, or the one, or first, of a picture in any format that Pillow reads.

    What is transparent becomes white. Raises UserError.
    """
    if path.is_file():
        try:
            with path.open("rb") as file:
                head = file.read(32)
            if is_heif(head):
                register_heif(path)
            with Image.open(path) as picture:
                # Second pictures in phones' JPEGs (MPO), pages and layers are no frames.
                if picture.format not in ANIMATED or getattr(picture, "n_frames", 1) == 1:
                    return np.asarray(_opaque(ImageOps.exif_transpose(picture)))[None]
        except UnidentifiedImageError:
            pass
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(
                f"{path} cannot be read as a picture", cause=str(error), remedy="copy it again, or give another file"
            ) from error
    try:
        return read(path, most=most).frames
    except UserError as error:
        if path.is_dir():
            raise
        remedy = "give a picture such as a PNG or JPEG, or a clip (.mp4, .webm, .gif) that is whole"
        raise UserError(f"{path} is neither a picture nor a clip to start from", cause=error.cause, remedy=remedy) from error


def _opaque(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    drawn = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB")


def _fitted(frame: Frames, size: tuple[int, int]) -> Frames:
    picture = Image.fromarray(frame)
    return np.asarray(picture if picture.size == size else ImageOps.fit(picture, size, Image.Resampling.LANCZOS))
