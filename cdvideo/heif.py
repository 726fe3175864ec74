"""HEIC pictures, as phones take them, which Pillow reads where pillow-heif is installed. Imports no torch."""

from __future__ import annotations

import importlib
from pathlib import Path

from cdvideo.errors import UserError

_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def is_avif(head: bytes) -> bool:
    """Whether a file that begins with these bytes is an AVIF picture."""
    return head[4:8] == b"ftyp" and (head[8:12] in (b"avif", b"avis") or (head[8:12] in (b"mif1", b"msf1") and b"avif" in head[16:]))


def is_heif(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a HEIC picture."""
    return head[4:8] == b"ftyp" and head[8:12] in _BRANDS and not is_avif(head)


def register_heif(path: Path) -> None:
    """Lets Pillow read HEIC pictures. Raises UserError, which names the picture at hand, where no decoder is installed."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        raise UserError(
            f"{path} is a HEIC picture, and no decoder for it is installed",
            remedy="pip install pillow-heif, or export the photo as JPEG",
        ) from None
