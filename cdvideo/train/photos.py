"""The photos of a subject in a folder, with the masks and captions that lie beside them.

`bear-1.png` may have a mask `bear-1.mask.png` (or `masks/bear-1.png`), white where the subject is, and a caption `bear-1.txt` of one line.
A photo with transparent parts is its own mask unless one lies beside it. What is not square is cut to its central square, as in Custom
Diffusion's own code (diffusers' script squeezes it instead, which would teach the wrong proportions).
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops

from cdvideo.errors import UserError, UserNote
from cdvideo.train.reading import LARGEST_SIDE, Reading, file_head, looks_like_picture, read_picture

__all__ = ["Listing", "Photo", "find_photos", "list_photos", "load_one", "load_photo", "load_photos"]

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".heic", ".heif", ".avif", ".jp2")
SMALLEST_SIDE = 64
MASK_FOLDER = "masks"
_MASK = ".mask"
_LEAST_WHITE = 1e-4
"""The least share of a mask that must be white."""


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A photo ready for training: its central square in RGB, reduced to at most `LARGEST_SIDE` pixels a side.

    `mask` (mode L, the picture's size) is white where the subject is, None where all of it counts; `mask_source` is the mask's file, or the
    photo itself where its transparency is the mask. `caption` is None where the training's own is used. `size` is the whole upright photo's
    in the file, (width, height) in pixels; `mode`, `format` and `notes` are the reading's.
    """

    path: Path
    picture: Image.Image
    mask: Image.Image | None
    mask_source: Path | None
    caption: str | None
    size: tuple[int, int]
    mode: str
    format: str
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What lies in a folder: the photos by name, and a sentence for each kind of thing that is not used."""

    photos: tuple[Path, ...]
    notes: tuple[str, ...]


def find_photos(folder: Path) -> list[Path]:
    """The picture files of a folder, or the one file named, sorted by name. Says once what else lies there and is not used.

    Raises UserError where there is none; sub-folders are not searched.
    """
    listing = list_photos(folder)
    for note in listing.notes:
        warnings.warn(note, UserNote, stacklevel=2)
    return list(listing.photos)


def list_photos(folder: Path) -> Listing:
    """The photos of a folder, or the one file named, and what is not used. Raises UserError where there is no photo."""
    if folder.is_file():
        return Listing(photos=(folder,), notes=())
    if not folder.is_dir():
        raise UserError(f"no such folder of photos: {folder}", cause=f"looked in {Path.cwd()}", remedy="name a folder with 4-7 photos")
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except PermissionError as error:
        raise UserError(f"cannot read the folder {folder}", cause=str(error), remedy="change its permissions") from error
    hidden = [path for path in entries if path.name.startswith(".")]
    broken = [path for path in entries if path not in hidden and path.is_symlink() and not path.exists()]
    files = [path for path in entries if path not in hidden and path.is_file()]
    pictures = [path for path in files if path.suffix.lower() in SUFFIXES or (path.suffix != ".txt" and looks_like_picture(_head(path)))]
    photos = [path for path in pictures if not path.stem.endswith(_MASK)]
    if not photos:
        raise _no_photo(folder, entries)
    stems = {_plain(path.stem) for path in photos}
    captions = {path for path in files if path.suffix == ".txt" and _plain(path.stem) in stems}
    strangers = [path for path in files if path not in captions and path not in pictures]
    notes = []
    if strangers or hidden:
        names = [path.name for path in strangers] + ([f"{len(hidden)} hidden file{'s' * (len(hidden) > 1)}"] if hidden else [])
        notes.append(f"no photos, and not used: {_listed(names)}")
    if broken:
        notes.append(f"links to what is not there, and not used: {_listed([path.name for path in broken])}")
    orphans = [path.name for path in pictures if path not in photos and _plain(path.stem.removesuffix(_MASK)) not in stems]
    orphans += [f"{MASK_FOLDER}/{path.name}" for path in _masks_in(folder) if _plain(path.stem.removesuffix(_MASK)) not in stems]
    if orphans:
        notes.append(f"masks of no photo here, and not used: {_listed(orphans)}")
    return Listing(photos=tuple(photos), notes=tuple(notes))


def load_photo(path: Path) -> Image.Image:
    """The photo upright, in RGB, cut to its central square. Raises UserError for what is no whole picture or too small."""
    reading = _read_photo(path)
    for note in reading.notes:
        warnings.warn(f"{path}: {note}", UserNote, stacklevel=2)
    return _central_square(reading.picture)


def load_photos(folder: Path, *, token: str = "V*", class_word: str | None = None, side: int = LARGEST_SIDE) -> list[Photo]:
    """The photos of a folder (or the one file named) with their masks and captions, by name; says once what is not used.

    The shorter side of each is reduced to `side` pixels. Raises UserError for the first photo, mask or caption that cannot be used.
    """
    photos = [load_one(path, token=token, class_word=class_word, side=side) for path in find_photos(folder)]
    by_note = defaultdict(list)
    for photo in photos:
        for note in photo.notes:
            by_note[note].append(photo.path.name)
    for note, names in by_note.items():
        warnings.warn(f"{_listed(names)}: {note}", UserNote, stacklevel=2)
    return photos


def load_one(path: Path, *, token: str = "V*", class_word: str | None = None, side: int = LARGEST_SIDE) -> Photo:
    """One photo with its mask and caption. Raises UserError naming the file, and a caption's line, that cannot be used."""
    reading = _read_photo(path, side)
    notes = list(reading.notes)
    source, mask = _mask_beside(path), reading.alpha
    if source is not None:
        mask = _read_mask(source, path, reading)
    elif mask is not None:
        source = path
        notes.append("its transparent parts are shown white and left out of the loss")
    picture = _central_square(reading.picture)
    if mask is not None and source is not None:
        mask = _central_square(mask)
        if _white_share(mask) < _LEAST_WHITE:
            what = "is wholly transparent" if source == path else f"is wholly black where {path.name} is used"
            raise UserError(
                f"{source} {what}",
                cause="white (or opaque) is where the subject is; of a picture that is not square, the centre is used",
                remedy="paint the subject white and the rest black, or remove the mask",
            )
    caption = _caption_beside(path, token, class_word)
    facts = {"size": reading.size, "mode": reading.mode, "format": reading.format, "notes": tuple(notes)}
    return Photo(path=path, picture=picture, mask=mask, mask_source=source, caption=caption, **facts)  # type: ignore[arg-type]


def _read_photo(path: Path, side: int = LARGEST_SIDE) -> Reading:
    reading = read_picture(path, side)
    if min(reading.size) < SMALLEST_SIDE:
        width, height = reading.size
        raise UserError(
            f"{path} is too small: {width}x{height}",
            remedy=f"use photos of at least {SMALLEST_SIDE} pixels a side; 512 and more are best",
        )
    return reading


def _central_square(picture: Image.Image) -> Image.Image:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def _mask_beside(photo: Path) -> Path | None:
    own = [path for path in _pictures_in(photo.parent) if _plain(path.stem) == _plain(photo.stem) + _MASK]
    wanted = {_plain(photo.stem), _plain(photo.stem) + _MASK}
    found = own + [path for path in _masks_in(photo.parent) if _plain(path.stem) in wanted]
    if len(found) > 1:
        raise UserError(f"{photo} has more than one mask", cause=_listed([str(path) for path in found]), remedy="remove all but one")
    return found[0] if found else None


def _masks_in(folder: Path) -> list[Path]:
    return _pictures_in(folder / MASK_FOLDER) if (folder / MASK_FOLDER).is_dir() else []


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file())


def _read_mask(path: Path, photo: Path, reading: Reading) -> Image.Image:
    """The mask at the photo's size. A mask of other pixels is resized; one of other proportions is of another picture."""
    mask = read_picture(path, min(reading.picture.size))
    (width, height), (photo_width, photo_height) = mask.size, reading.size
    if abs(width * photo_height - height * photo_width) > 0.01 * width * photo_height:
        raise UserError(
            f"the mask {path} does not fit {photo.name}",
            cause=f"the mask is {width}x{height}, the photo {photo_width}x{photo_height} when upright",
            remedy="make the mask from the photo as viewers show it, and do not crop it",
        )
    grey = mask.picture.convert("L")
    if mask.alpha is not None:
        grey = ImageChops.multiply(grey, mask.alpha)
    return grey.resize(reading.picture.size, Image.Resampling.BILINEAR)


def _white_share(mask: Image.Image) -> float:
    return sum(mask.histogram()[128:]) / (mask.width * mask.height)


def _caption_beside(photo: Path, token: str, class_word: str | None) -> str | None:
    path = photo.with_suffix(".txt")
    if not path.is_file():
        return None
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: the caption is not UTF-8 text", cause=str(error), remedy="save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"cannot read {path}", cause=error.strerror or str(error), remedy="change its permissions") from error
    filled = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not filled:
        raise UserError(f"{path}, line 1: the caption is empty", remedy=f'write one line, such as "photo of a {token} {class_word}"')
    if len(filled) > 1:
        raise UserError(f"{path}, line {filled[1][0]}: a caption is one line", cause=f"it has {len(filled)}", remedy="join the lines")
    number, caption = filled[0]
    return _with_token(caption, token, class_word, f"{path}, line {number}")


def _with_token(caption: str, token: str, class_word: str | None, where: str) -> str:
    """The caption with the token in it: put before the class word where it is not there yet."""
    if re.search(rf"(?<!\w){re.escape(token)}(?!\w)", caption):
        return caption
    if class_word and (found := re.search(rf"(?<!\w){re.escape(class_word)}(?!\w)", caption, re.IGNORECASE)):
        return f"{caption[: found.start()]}{token} {caption[found.start() :]}"
    names = f"neither {token} nor {class_word}" if class_word else f"no {token}"
    raise UserError(
        f"{where}: the caption names {names}",
        cause=f"it reads {caption!r}",
        remedy=f'name the subject in it, such as "{token} {class_word or "bear"}"',
    )


def _no_photo(folder: Path, entries: list[Path]) -> UserError:
    within = {path: _pictures_in(path) for path in entries if path.is_dir() and not path.name.startswith(".") and path.name != MASK_FOLDER}
    full = [path for path, pictures in within.items() if pictures]
    if full:
        counts = _listed([f"{path.name}/ holds {len(within[path])}" for path in full])
        return UserError(
            f"no photo in {folder}", cause=f"sub-folders are not searched ({counts})", remedy=f"name the folder itself: {full[0]}"
        )
    return UserError(
        f"no photo in {folder}", cause=f"looked for files ending in {', '.join(SUFFIXES)}", remedy="put 4-7 photos of the subject there"
    )


def _head(path: Path) -> bytes:
    try:
        return file_head(path)
    except UserError:
        return b""


def _plain(stem: str) -> str:
    """A name as it compares: the same accent may be written as one character or two."""
    return unicodedata.normalize("NFC", stem)


def _listed(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
