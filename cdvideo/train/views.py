"""The augmented views that training sees: Custom Diffusion's.

A photo is shrunk and pasted somewhere on zeros (mid-grey), or enlarged and cropped, and the caption says so; half of them are mirrored.
The figures are those of the script that ClassDiffusion extends (diffusers' `train_custom_diffusion.py`, which follows Kumari et al. 2023).
Shapes: `S` pixels a side of a view, `f` pixels a side of a latent cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

SHRINK_PROBABILITY = 0.66
FAR_BELOW = 0.6
FAR_PREFIXES = ("a far away ", "very small ")
CLOSE_PREFIXES = ("zoomed in ", "close up ")

LEAST_CELLS = 1.0
"""The least sum of a view's mask: a view that shows less of the subject than one latent cell teaches nothing and is drawn again."""
_TRIES = 50


@dataclass(frozen=True, kw_only=True)
class View:
    """One augmented view: pixels (3, S, S) in [-1, 1], the weights of its loss (S/f, S/f) in [0, 1], and its caption.

    The weights are zeros and ones; with a mask of the subject, a cell's is the share of it that the subject covers.
    """

    pixels: Tensor
    mask: Tensor
    caption: str


def random_view(
    photo: Image.Image,
    size: int,
    caption: str,
    generator: torch.Generator,
    latent_factor: int = 8,
    subject: Image.Image | None = None,
) -> View:
    """A view of `size` pixels a side of a square RGB photo, every draw from `generator`.

    `subject` (mode L, the photo's size) is white where the subject is: the loss then counts only there, and a view that cuts the subject
    away is drawn again.
    """
    for _ in range(_TRIES):
        view = _draw(photo, size, caption, generator, latent_factor, subject)
        if float(view.mask.sum()) >= LEAST_CELLS:
            return view
    # A subject smaller than a latent cell in every view: learn from the whole photo rather than from nothing.
    return place(photo, size, size, 0, 0, caption, latent_factor)


def _draw(photo: Image.Image, size: int, caption: str, generator: torch.Generator, latent_factor: int, subject: Image.Image | None) -> View:
    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    if integer(0, 2):
        photo = ImageOps.mirror(photo)
        subject = ImageOps.mirror(subject) if subject is not None else None
    shrink = float(torch.rand(1, generator=generator)) < SHRINK_PROBABILITY
    side = integer(size // 3, size + 1) if shrink else integer(int(1.2 * size), int(1.4 * size))
    if side < FAR_BELOW * size:
        caption = FAR_PREFIXES[integer(0, 2)] + caption
    elif side > size:
        caption = CLOSE_PREFIXES[integer(0, 2)] + caption
    top, left = integer(0, abs(size - side) + 1), integer(0, abs(size - side) + 1)
    return place(photo, size, side, top, left, caption, latent_factor, subject)


def place(
    photo: Image.Image,
    size: int,
    side: int,
    top: int,
    left: int,
    caption: str,
    latent_factor: int = 8,
    subject: Image.Image | None = None,
) -> View:
    """The photo at `side` pixels, pasted at (top, left) on zeros, or cut from there where it is larger than `size`.

    Where it is pasted, the mask is 1 on the cells that it covers, less one on each side; where it is cut, everywhere.
    """
    resized = photo.resize((side, side), Image.Resampling.BILINEAR)
    pixels = _fitted(torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 127.5 - 1, size, top, left)
    cells = size // latent_factor
    if side > size:
        mask = torch.ones(cells, cells)
    else:
        mask = torch.zeros(cells, cells)
        rows = slice(top // latent_factor + 1, (top + side) // latent_factor - 1)
        columns = slice(left // latent_factor + 1, (left + side) // latent_factor - 1)
        mask[rows, columns] = 1
    if subject is not None:
        covered = np.array(subject.resize((side, side), Image.Resampling.BILINEAR), dtype=np.float32) / 255
        mask = mask * F.avg_pool2d(_fitted(torch.from_numpy(covered)[None], size, top, left), latent_factor)[0]
    return View(pixels=pixels, mask=mask, caption=caption)


def _fitted(picture: Tensor, size: int, top: int, left: int) -> Tensor:
    """(C, size, size) of a square (C, side, side): cut from (top, left), or pasted there on zeros where it is smaller."""
    side = picture.shape[-1]
    if side > size:
        return picture[:, top : top + size, left : left + size]
    canvas = torch.zeros(len(picture), size, size)
    canvas[:, top : top + side, left : left + side] = picture
    return canvas
