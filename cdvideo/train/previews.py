"""Pictures while training: of fixed prompts, and of the class for prior preservation."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cdvideo.base import Base
from cdvideo.base.quick_layers import quick_layers
from cdvideo.base.shared_halves import for_each_half
from cdvideo.errors import UserError
from cdvideo.files import replace_files
from cdvideo.sampling import denoise, make_scheduler, seeded_noise
from cdvideo.train.photos import find_photos, load_photo

SAMPLE_PHRASES = ("", "wearing headphones", "reading a book in the snow", "wearing sunglasses on the beach")
"""What the fixed prompts say after "a V* bear"."""
DRAWN_AT_ONCE = 4


@torch.no_grad()
def draw(base: Base, prompts: Sequence[str], *, seed: int = 0, num_inference_steps: int | None = None) -> NDArray[np.uint8]:
    """One picture for each prompt, (N, H, W, 3) uint8, at the base's own size and guidance, each from the noise of its own seed."""
    preset = base.preset
    side = preset.native_size // base.latent_factor
    shape = (1, base.unet.config.in_channels, side, side)

    def predict_noise(latents: torch.Tensor, timestep: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        # Between the steps latents are fp32, as a clip's are.
        rows = for_each_half(latents.to(base.dtype), len(states))
        return base.unet(rows, timestep, encoder_hidden_states=states).sample.float()

    pictures = []
    for start in range(0, len(prompts), DRAWN_AT_ONCE):
        some = list(prompts[start : start + DRAWN_AT_ONCE])
        noise = torch.cat([seeded_noise(seed + start + index, shape) for index in range(len(some))]).to(base.device)
        scheduler = make_scheduler("stable-diffusion", num_inference_steps or preset.num_inference_steps)
        with quick_layers(base.unet, base.text_encoder):
            text, negative = base.text_states(some), base.text_states([""] * len(some))
            latents = denoise(predict_noise, scheduler, noise, text=text, negative=negative, guidance_scale=preset.guidance_scale)
        pictures.append(base.decode(latents).numpy())
    return np.concatenate(pictures)


def class_pictures(
    base: Base, class_word: str, folder: Path, count: int, on_picture: Callable[[int], None] | None = None
) -> list[Image.Image]:
    """`count` pictures of the class for prior preservation, drawn by the base itself from "a photo of a bear" and kept in `folder`.

    Those that are there already, from an earlier training, are used as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = sorted(folder.glob("*.png"))[:count]
    missing = [index for index in range(count) if folder / f"{class_word}-{index:04d}.png" not in found]
    for index in missing[: count - len(found)]:
        picture = Image.fromarray(draw(base, [f"a photo of a {class_word}"], seed=1_000_000 + index)[0])
        path = folder / f"{class_word}-{index:04d}.png"
        replace_files(path, [(path, png_bytes(picture))])
        found.append(path)
        if on_picture:
            on_picture(len(found))
    return read_class_pictures(base, folder)[:count]


def read_class_pictures(base: Base, folder: Path) -> list[Image.Image]:
    """The pictures of a folder at the base's own size, read as photos are. Raises UserError where there is none."""
    side = base.preset.native_size
    return [load_photo(path).resize((side, side), Image.Resampling.LANCZOS) for path in class_picture_paths(folder)]


def class_picture_paths(folder: Path) -> list[Path]:
    """The pictures of a folder. Raises UserError where there is none."""
    try:
        return find_photos(folder)
    except UserError as error:
        remedy = "put some there, or leave --class-images out, and the base draws them"
        raise UserError(f"no pictures of the class in {folder}", cause=error.message, remedy=remedy) from error


def png_bytes(picture: Image.Image, texts: Mapping[str, str] | None = None) -> bytes:
    """The picture as a PNG file holds it, with texts by name."""
    content, info = io.BytesIO(), PngInfo()
    for name, text in (texts or {}).items():
        info.add_text(name, text)
    picture.save(content, "PNG", pnginfo=info)
    return content.getvalue()
