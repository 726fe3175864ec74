"""The photos of a subject, and the augmented views of them that training sees.

Views are Custom Diffusion's: a photo is shrunk and pasted somewhere on grey, or enlarged and cropped, and the caption says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from cdvideo.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
SMALLEST_SIDE = 64

SHRINK_PROBABILITY = 0.66
FAR_BELOW = 0.6
FAR_PREFIXES = ("a far away ", "very small ")
CLOSE_PREFIXES = ("zoomed in ", "close up ")


@dataclass(frozen=True, kw_only=True)
class View:
    """One augmented view: pixels (3, S, S) in [-1, 1], the loss mask (S/f, S/f) of zeros and ones, and its caption."""

    pixels: Tensor
    mask: Tensor
    caption: str


def find_photos(folder: Path) -> list[Path]:
    """The picture files of a folder, or the one file named, sorted by name. Raises UserError where there is none."""
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise UserError(f"no such folder of photos: {folder}", cause=f"looked in {Path.cwd()}", remedy="name a folder with 4-7 photos")
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    except PermissionError as error:
        raise UserError(f"cannot read the folder {folder}", cause=str(error), remedy="change its permissions") from error
    if not paths:
        raise UserError(
            f"no photo in {folder}", cause=f"looked for files ending in {', '.join(SUFFIXES)}", remedy="put 4-7 photos of the subject there"
        )
    return paths


def load_photo(path: Path) -> Image.Image:
    """The photo upright, in RGB, cut to its central square. Raises UserError for what is no whole picture."""
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
                picture = picture.convert("RGBA")
                white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
                picture = Image.alpha_composite(white, picture)
            picture = picture.convert("RGB")
    except FileNotFoundError:
        raise UserError(f"no such photo: {path}", remedy="check the name") from None
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not a picture", cause="its content is of no known picture format", remedy="remove it") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as a picture", cause=str(error), remedy="it may be cut short: copy it again") from error
    side = min(picture.size)
    if side < SMALLEST_SIDE:
        raise UserError(
            f"{path} is too small: {picture.width}x{picture.height}",
            remedy=f"use photos of at least {SMALLEST_SIDE} pixels a side; 512 and more are best",
        )
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def random_view(photo: Image.Image, size: int, caption: str, generator: torch.Generator, latent_factor: int = 8) -> View:
    """A view of `size` pixels a side. Custom Diffusion's augmentation (Kumari et al. 2023, appendix), every draw from `generator`."""

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    if integer(0, 2):
        photo = ImageOps.mirror(photo)
    shrink = float(torch.rand(1, generator=generator)) < SHRINK_PROBABILITY
    side = integer(size // 3, size + 1) if shrink else integer(int(1.2 * size), int(1.4 * size))
    if side < FAR_BELOW * size:
        caption = FAR_PREFIXES[integer(0, 2)] + caption
    elif side > size:
        caption = CLOSE_PREFIXES[integer(0, 2)] + caption
    top, left = integer(0, abs(size - side) + 1), integer(0, abs(size - side) + 1)
    return place(photo, size, side, top, left, caption, latent_factor)


def place(photo: Image.Image, size: int, side: int, top: int, left: int, caption: str, latent_factor: int = 8) -> View:
    """The photo at `side` pixels, pasted at (top, left) on zeros, or cut from there where it is larger than `size`."""
    resized = photo.resize((side, side), Image.Resampling.LANCZOS if side < photo.width else Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 127.5 - 1
    cells = size // latent_factor
    if side >= size:
        return View(pixels=pixels[:, top : top + size, left : left + size], mask=torch.ones(cells, cells), caption=caption)
    canvas, mask = torch.zeros(3, size, size), torch.zeros(cells, cells)
    canvas[:, top : top + side, left : left + side] = pixels
    rows = slice(top // latent_factor + 1, (top + side) // latent_factor - 1)
    columns = slice(left // latent_factor + 1, (left + side) // latent_factor - 1)
    mask[rows, columns] = 1
    return View(pixels=canvas, mask=mask, caption=caption)
