"""One picture file, whatever a camera or a program made of it, as an upright RGB picture. Imports no torch.

Transparent parts become white. Colours are converted to sRGB where the file carries a profile. Sixteen bits become eight. Of an animation
the first frame is taken. Pictures larger than training can use are reduced while they are read, so that a huge JPEG costs little memory.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, JpegImagePlugin, UnidentifiedImageError

from cdvideo.errors import UserError
from cdvideo.heif import is_avif, is_heif, register_heif

FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM", "TGA")
"""What may be read, whatever the file is called: still pictures whose decoders run no other program."""

LARGEST_SIDE = 1024
"""Pixels of the shorter side that are kept. The largest view of a 512-pixel base is 716 pixels a side."""

MAX_WHOLE_PIXELS = 150_000_000
"""The largest picture that is decoded whole (0.6 GB as RGBA). Baseline JPEGs are decoded reduced and have no limit here."""

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What the decoders raise on damaged files, found by cutting and corrupting files of every format.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, ArithmeticError, LookupError, TypeError, RuntimeError, struct.error, zlib.error)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A picture as it was read.

    `picture` is upright RGB, its shorter side at most the side asked for. `alpha` is its opacity (mode L, the same size), None where all of
    it is opaque. `size` is (width, height) in pixels of the upright picture in the file, `mode` and `format` are the file's as Pillow names
    them, and `notes` says what the reader decided and the user may not expect.
    """

    picture: Image.Image
    alpha: Image.Image | None
    size: tuple[int, int]
    mode: str
    format: str
    notes: tuple[str, ...]


def read_picture(path: Path, side: int = LARGEST_SIDE) -> Reading:
    """The picture in a file, reduced so that its shorter side has at most `side` pixels.

    Raises UserError for what is no whole picture, saying what it is instead where that can be told, and for a format whose decoder is
    missing.
    """
    head = file_head(path)
    _check_content(path, head)
    try:
        with warnings.catch_warnings():
            # Our own limit is stricter than what Pillow warns of.
            warnings.simplefilter("ignore")
            with _open(path, head) as opened:
                return _read(path, opened, side)
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not a picture", cause="its content is of no known picture format", remedy="remove it") from error
    except Image.DecompressionBombError as error:
        raise _too_huge(path, "its size is beyond what Pillow opens") from error
    except MemoryError as error:
        raise _too_huge(path, "there is not enough memory to decode it") from error
    except _DAMAGE as error:
        raise UserError(f"{path} cannot be read as a picture", cause=str(error), remedy="it may be cut short: copy it again") from error


def looks_like_picture(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a JPEG, PNG, GIF, WebP, HEIC or AVIF. Raw camera files and films are not."""
    return head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")) or (
        (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or is_heif(head) or is_avif(head)
    )


def file_head(path: Path) -> bytes:
    """The first 64 bytes of a file. Raises UserError where it cannot be opened."""
    try:
        with path.open("rb") as file:
            return file.read(64)
    except FileNotFoundError:
        remedy = f"it is a link to {path.readlink()}, which is not there" if path.is_symlink() else "check the name"
        raise UserError(f"no such photo: {path}", remedy=remedy) from None
    except OSError as error:
        raise UserError(f"cannot open {path}", cause=error.strerror or str(error), remedy="change its permissions or remove it") from error


def _check_content(path: Path, head: bytes) -> None:
    if not head:
        raise UserError(f"{path} is empty", cause="it has 0 bytes", remedy="copy it again; a cloud folder may not have fetched it yet")
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is not a picture", cause="it is a Git LFS pointer, not the file itself", remedy="run: git lfs pull")
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise UserError(f"{path} is not a picture", cause="it is a web page; the download went wrong", remedy="download it again")
    if is_heif(head):
        register_heif(path)


def _open(path: Path, head: bytes) -> Image.Image:
    if head.startswith(b"\xff\xd8\xff"):
        # Image.open refuses JPEGs beyond 179 megapixels, which decode cheaply in reduced size.
        return JpegImagePlugin.JpegImageFile(path)
    Image.init()
    try:
        return Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        if is_avif(head):
            raise UserError(
                f"{path} is an AVIF picture, and this Pillow has no decoder for it",
                remedy="pip install --upgrade pillow (11.3 or newer), or export the photo as JPEG",
            ) from None
        raise


def _read(path: Path, opened: Image.Image, side: int) -> Reading:
    size, mode, notes = opened.size, opened.mode, []
    reducible = isinstance(opened, JpegImagePlugin.JpegImageFile) and "progressive" not in opened.info
    if size[0] * size[1] > MAX_WHOLE_PIXELS and not reducible:
        raise _too_huge(path, f"it has {size[0]}x{size[1]} pixels, and {MAX_WHOLE_PIXELS / 1e6:.0f} million are decoded at most")
    if getattr(opened, "is_animated", False):
        what = "pages" if opened.format == "TIFF" else "frames" if opened.format != "HEIF" else "pictures"
        notes.append(f"it holds {getattr(opened, 'n_frames', 'several')} {what}; the first is used")
    picture_format = opened.format or "unknown"
    if isinstance(opened, JpegImagePlugin.JpegImageFile):
        opened.draft(None, (side, side))
    opened.load()
    orientation = _orientation(opened)
    profile = opened.info.get("icc_profile")
    picture, range_note = _eight_bits(opened)
    if range_note:
        notes.append(range_note)
    transparent = picture.has_transparency_data
    if transparent:
        picture = picture.convert("RGBA")
    elif picture.mode not in ("L", "RGB", "CMYK"):
        picture = picture.convert("RGB")
    picture = _reduced(picture, side)
    alpha = picture.getchannel("A") if transparent else None
    if transparent:
        picture = picture.convert("RGB")
    picture, profile_note = _in_srgb(picture, profile)
    if profile_note:
        notes.append(profile_note)
    if alpha is not None:
        white = Image.new("RGB", picture.size, (255, 255, 255))
        white.paste(picture, mask=alpha)
        picture = white
        alpha = alpha if alpha.getextrema() != (255, 255) else None
    if orientation in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[orientation])
        alpha = alpha.transpose(_UPRIGHT[orientation]) if alpha is not None else None
    # Pillow turns some formats upright itself while loading, and then names no orientation.
    turned = orientation >= 5 or (opened.size == size[::-1] and size[0] != size[1])
    upright = size[::-1] if turned else size
    return Reading(picture=picture, alpha=alpha, size=upright, mode=mode, format=picture_format, notes=tuple(notes))


def _orientation(picture: Image.Image) -> int:
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
    except _DAMAGE:
        # A camera's record that cannot be read does not spoil the picture.
        return 1
    return value if isinstance(value, int) else 1


def _eight_bits(picture: Image.Image) -> tuple[Image.Image, str]:
    """The picture with 8 bits a channel (only grey ones come with more), and a note where the range of values had to be guessed."""
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)), ""
    if picture.mode == "I":
        values = np.asarray(picture)
        sixteen = values.max() > 255
        return Image.fromarray((values.clip(0, 65535) >> 8 if sixteen else values.clip(0, 255)).astype(np.uint8)), ""
    if picture.mode == "F":
        values = np.nan_to_num(np.asarray(picture))
        unit = values.max() <= 1
        scaled = (values * 255 if unit else values).clip(0, 255).round()
        return Image.fromarray(scaled.astype(np.uint8)), f"its values are taken as lying between 0 and {1 if unit else 255}"
    return picture, ""


def _reduced(picture: Image.Image, side: int) -> Image.Image:
    factor = min(picture.size) / side
    if factor <= 1:
        return picture
    width, height = (max(side, round(length / factor)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)


def _in_srgb(picture: Image.Image, profile: bytes | None) -> tuple[Image.Image, str]:
    """The picture as sRGB, and a note where its profile could not be used."""
    if not profile or picture.mode == "L":
        return picture.convert("RGB"), ""
    try:
        source: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if picture.mode == "RGB" and "sRGB" in ImageCms.getProfileDescription(source):
            return picture, ""
        converted = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, ImportError):
        return picture.convert("RGB"), "its colour profile cannot be used; colours may be a little off"
    return (converted if converted is not None else picture.convert("RGB")), ""


def _too_huge(path: Path, cause: str) -> UserError:
    return UserError(f"{path} is too huge", cause=cause, remedy="scale it down to about 2000 pixels a side, or save it as a baseline JPEG")
