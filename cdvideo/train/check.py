"""A look at a folder of photos before training on it: what is there, what stands in the way, and what the training will cost.

Nothing is trained that lasts, and nothing is downloaded: of a base that is not on this machine only what its name tells is known.
"""

from __future__ import annotations

import difflib
import re
import statistics
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cdvideo.base.catalog import BASES, SD15_PRESET, BasePreset, preset_for
from cdvideo.base.device import resolve_device, resolve_dtype
from cdvideo.base.hub import cached_folder
from cdvideo.base.layout import base_requirements, choose
from cdvideo.base.loading import POCKET_FOLDER, locate
from cdvideo.base.single_file import shipped_tokenizer
from cdvideo.base.text import initializer_id, single_token_id, token_ids, tokenizer_with
from cdvideo.base.weights import read_json
from cdvideo.errors import UserError, UserNote
from cdvideo.train.cost import PROBE_STEPS, Cost, Recipe, estimated_cost, measured_cost
from cdvideo.train.photos import Photo, list_photos, load_one
from cdvideo.train.subject import Subject

FEW, MANY = 4, 20
"""Fewer photos than FEW leave much unseen; more than MANY are not what the recipe was made for."""
SAME_BITS, SAME_MIRRORED_BITS = 8, 4
"""Hashes of 63 bits that differ in at most so many are of the same picture. Among the 120 pairs of photos of one subject in `samples/`, the
closest two differ in 18, and in 8 where one is mirrored."""
BLURRED_BELOW = 0.25
"""A sharpness under this share of the other photos' median is blurred. The repository's samples stay above 0.3."""
GENERIC_WORDS = frozenset(
    (
        *("a", "an", "and", "data", "dataset", "folder", "image", "images", "img", "imgs", "input", "instance", "my", "new", "our"),
        *("photo", "photos", "pic", "pics", "picture", "pictures", "sample", "samples", "shots", "subject", "the", "train", "training"),
    )
)
"""Words of folder names that say nothing of what is in the pictures."""
SMALL_WEIGHTS_BYTES = 500_000_000
"""A base whose UNet's file is smaller is measured on a CPU too; a step of a larger one would take minutes there."""


@dataclass(frozen=True, kw_only=True)
class PhotoEntry:
    """One file. `size` is (width, height) in pixels when upright; `enlarged` how much its shorter side must grow to the base's native size,
    1.0 or less where it need not. `sharpness` compares photos of one folder. `problem` is why it cannot be trained on, with the way out.
    """

    name: str
    size: tuple[int, int] | None = None
    mode: str = ""
    format: str = ""
    enlarged: float | None = None
    sharpness: float | None = None
    masked: bool = False
    caption: str | None = None
    problem: str | None = None
    remedy: str | None = None


@dataclass(frozen=True, kw_only=True)
class NearDuplicate:
    """Two photos that show the same picture; `mirrored` where one is the other in a mirror."""

    first: str
    second: str
    mirrored: bool


@dataclass(frozen=True, kw_only=True)
class WordReport:
    """What the base's tokenizer makes of the class word and the token.

    `class_id` is None where the class word is no single piece (`pieces` are what it splits into, `alternatives` words near it that are one)
    or where the tokenizer is not known. `suggested` says that the class word was read from the folder's name.
    """

    class_word: str | None
    suggested: bool
    token: str
    class_id: int | None = None
    token_id: int | None = None
    initializer: str | None = None
    pieces: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BaseReport:
    """What is known of the base without fetching it. `native_size` in pixels; `here` says whether its files are on this machine."""

    name: str
    here: bool
    native_size: int | None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class PhotoReport:
    """A folder's photos as a training on `base` would see them. `mend` holds what stands in its way, `warnings` what may spoil it."""

    folder: Path
    photos: tuple[PhotoEntry, ...]
    near_duplicates: tuple[NearDuplicate, ...]
    words: WordReport
    base: BaseReport
    cost: Cost | None
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    mend: tuple[str, ...]

    @property
    def ready(self) -> bool:
        return not self.mend


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What a look at a base's files gives; what is not known is None."""

    report: BaseReport
    preset: BasePreset | None
    tokenizer: Any
    small: bool


DEFAULT_RECIPE = Recipe()


class _NotHere(Exception):
    """A hub model that is not in the cache."""


def check_photos(
    folder: Path,
    *,
    class_word: str | None = None,
    token: str = "V*",
    base: str = "pocket",
    device: str = "auto",
    dtype: str = "auto",
    recipe: Recipe = DEFAULT_RECIPE,
    number: int = 0,
    initializer: str | None = None,
    probe: bool = True,
    on_step: Callable[[str], None] | None = None,
) -> PhotoReport:
    """What a training on the folder's photos would meet. Without `class_word` the folder's name suggests one.

    Of several subjects learnt together this is the one of `number`, from 0; its token starts from `initializer`, a word, or from the
    base's own choice.

    With `probe`, a base that is on this machine (and, on a CPU, small) is loaded and trained for a few steps, whose time and memory are
    measured and whose result is thrown away; otherwise the cost of a Stable Diffusion 1.5 is estimated from counts. `on_step` is told what
    is being looked at. Raises UserError for a folder without photos, and for a base or device that cannot be; what is wrong with single
    photos, captions and words is in the report.
    """
    tell = on_step or (lambda what: None)
    listing = list_photos(folder)
    chosen_device = resolve_device(device)
    chosen_dtype = resolve_dtype(dtype, chosen_device)
    tell(f"the base {base}")
    known = _look_at_base(base)
    words, warned, mend = _look_at_words(folder, class_word, token, known, number, initializer)
    native = known.report.native_size
    entries, hashes, usable = [], {}, None
    names_by_note = defaultdict(list)
    for path in listing.photos:
        tell(path.name)
        try:
            photo = load_one(path, token=token, class_word=words.class_word)
        except UserError as error:
            entries.append(_unusable(path, error))
            continue
        entries.append(_entry(photo, native))
        for note in photo.notes:
            names_by_note[note].append(path.name)
        hashes[path.name] = (perceptual_hash(photo.picture), perceptual_hash(ImageOps.mirror(photo.picture)))
        usable = usable or photo
    duplicates = _near_duplicates(hashes)
    for entry in entries:
        if entry.problem:
            mend.append(f"{entry.problem}; {entry.remedy}" if entry.remedy else entry.problem)
    warned += _photo_warnings(entries, native) + _caption_warnings(entries, words, token, known.tokenizer)
    for pair in duplicates:
        as_in = " in a mirror" if pair.mirrored else ""
        warned.append(f"{pair.first} and {pair.second} show the same picture{as_in}: the training sees it twice as often")
    cost = None
    if usable is not None and words.class_id is not None and words.token_id is not None:
        how: dict[str, Any] = {"device": chosen_device, "dtype": chosen_dtype}
        if probe and known.report.here and (known.small or chosen_device.type != "cpu"):
            tell(f"{PROBE_STEPS} steps of training")
            subject = Subject(token=token, class_word=words.class_word or "", initializer=words.initializer or "")
            cost = measured_cost(base, usable.picture, subject, recipe, **how)
        elif known.preset == SD15_PRESET:
            cost = estimated_cost(SD15_PRESET, recipe, **how)
    if cost and cost.memory_bytes and cost.available_bytes and cost.memory_bytes > cost.available_bytes:
        have = f"{cost.memory_bytes / 1e9:.1f} GB are needed and {cost.device} has {cost.available_bytes / 1e9:.1f} GB"
        warned.append(f"the memory may not suffice: {have}; try --batch-size 1, --gradient-checkpointing or another --dtype")
    return PhotoReport(
        folder=folder,
        photos=tuple(entries),
        near_duplicates=tuple(duplicates),
        words=words,
        base=known.report,
        cost=cost,
        notes=(*listing.notes, *(f"{', '.join(names)}: {note}" for note, names in names_by_note.items())),
        warnings=tuple(warned),
        mend=tuple(mend),
    )


def perceptual_hash(picture: Image.Image) -> NDArray[np.bool_]:
    """63 bits that hardly change when a picture is resized, recompressed or made brighter: which of the lowest 8x8 cosine frequencies of
    its 32x32 grey copy (without the mean) lie above their median.

    The usual DCT hash (Zauner 2010), by hand because the package `imagehash` brings SciPy and PyWavelets along for it.
    """
    grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.BOX), dtype=np.float64)
    waves = np.cos(np.pi * np.outer(np.arange(8), 2 * np.arange(32) + 1) / 64)
    frequencies = (waves @ grey @ waves.T).ravel()[1:]
    return np.asarray(frequencies > np.median(frequencies))


def sharpness(picture: Image.Image, size: int) -> float:
    """The variance of the Laplacian over that of the grey values, at `size` pixels a side: what the training will see of its detail."""
    grey = np.asarray(picture.convert("L").resize((size, size), Image.Resampling.BILINEAR), dtype=np.float64)
    laplacian = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return float(laplacian.var() / max(grey.var(), 1.0))


def suggest_class_word(folder: Path, is_one_token: Callable[[str], bool] | None = None) -> str | None:
    """The word of the folder's (or file's) name that may be its class, or None where the name holds no word.

    It is the last one that the base holds as one token, in the singular where that is one too, else simply the last: "my-brown-dogs"
    suggests "dog".
    """
    resolved = folder.resolve()
    name = resolved.stem if resolved.is_file() else resolved.name
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = [word.lower() for word in re.findall(r"[^\W\d_]+", spaced)]
    words = [word for word in words if word not in GENERIC_WORDS and len(word) > 1]
    if is_one_token is None:
        return words[-1] if words else None
    for word in reversed(words):
        for form in (word.removesuffix("s"), word.removesuffix("es"), word) if word.endswith("s") else (word,):
            if is_one_token(form):
                return form
    return words[-1] if words else None


def alternatives(tokenizer: Any, word: str, most: int = 4) -> tuple[str, ...]:
    """Words near `word` that the tokenizer holds as one token: those that it contains (longest first), then those of similar spelling."""
    entries = tokenizer.get_vocab()
    words = [entry.removesuffix("</w>") for entry in entries if entry.endswith("</w>") and len(entry) > 6 and entry[:-4].isalpha()]
    contained = sorted((known for known in words if known in word), key=len, reverse=True)
    similar = difflib.get_close_matches(word, words, n=most, cutoff=0.7)
    return tuple(dict.fromkeys([*contained, *similar]))[:most]


def _look_at_base(name: str) -> _Known:
    """Raises UserError for a name that is no base's."""

    def cached(location: str) -> Path:
        folder = cached_folder(location)
        if folder is None or choose(base_requirements(half=False), lambda file: (folder / file).is_file())[1]:
            raise _NotHere(location)
        return folder

    try:
        _, path = locate(name, kind="base", aliases=BASES, shipped=lambda alias: POCKET_FOLDER, fetch_from_hub=cached)
    except _NotHere:
        return _absent_base(name)
    if path.is_dir():
        from transformers import CLIPTokenizer

        config = read_json(path / "unet" / "config.json")
        preset = preset_for(config)
        tokenizer = CLIPTokenizer.from_pretrained(str(path / "tokenizer"), local_files_only=True)
        positions = read_json(path / "text_encoder" / "config.json").get("max_position_embeddings", tokenizer.model_max_length)
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
        sizes = [file.stat().st_size for file in (path / "unet").iterdir() if file.suffix in (".safetensors", ".bin")]
        small, note = bool(sizes) and min(sizes) < SMALL_WEIGHTS_BYTES, ""
    else:
        preset, tokenizer, small, note = SD15_PRESET, shipped_tokenizer(), False, "a file on this machine, not opened for this check"
    report = BaseReport(name=name, here=True, native_size=preset.native_size, note=note)
    return _Known(report=report, preset=preset, tokenizer=tokenizer, small=small)


def _absent_base(name: str) -> _Known:
    if name in BASES:
        gigabytes = BASES[name].download_bytes / 1e9
        note = f"not on this machine: the training will fetch about {gigabytes:.1f} GB first"
        report = BaseReport(name=name, here=False, native_size=SD15_PRESET.native_size, note=note)
        return _Known(report=report, preset=SD15_PRESET, tokenizer=shipped_tokenizer(), small=False)
    note = "not on this machine: its native size, its words and the cost of the training are not known before it is fetched"
    return _Known(report=BaseReport(name=name, here=False, native_size=None, note=note), preset=None, tokenizer=None, small=False)


def _look_at_words(
    folder: Path, class_word: str | None, token: str, known: _Known, number: int, initializer: str | None
) -> tuple[WordReport, list[str], list[str]]:
    """(the words, warnings, what to mend)."""
    tokenizer = known.tokenizer

    def is_one_token(word: str) -> bool:
        return len(tokenizer(word, add_special_tokens=False).input_ids) == 1

    suggested = class_word is None
    word = class_word or suggest_class_word(folder, is_one_token if tokenizer is not None else None)
    if tokenizer is None:
        return WordReport(class_word=word, suggested=suggested, token=token), [], []
    facts: dict[str, Any] = {"class_word": word, "suggested": suggested, "token": token}
    warned, mend = [], []
    if word is not None and is_one_token(word):
        facts["class_id"] = single_token_id(tokenizer, word)
    elif word is not None:
        pieces = tokenizer.convert_ids_to_tokens(tokenizer(word, add_special_tokens=False).input_ids)
        facts |= {"pieces": tuple(pieces), "alternatives": alternatives(tokenizer, word)}
        near = f": {', '.join(facts['alternatives'])}" if facts["alternatives"] else ", such as bear, dog or cat"
        if suggested:
            warned.append(f"the folder's name suggests the class {word!r}, which is not one word to {known.report.name}")
        else:
            split = " + ".join(piece.removesuffix("</w>") for piece in pieces)
            mend.append(f"{known.report.name} does not know {word!r} as one word ({split}); name the class by one that it knows{near}")
    try:
        facts["token_id"] = int(tokenizer_with(tokenizer, (token,)).convert_tokens_to_ids(token)) + number
    except UserError as error:
        mend.append(f"{error.message}; {error.remedy}")
    if known.preset and facts.get("class_id") is not None:
        facts["initializer"] = initializer or known.preset.initializer(number) or word
        try:
            initializer_id(tokenizer, facts["initializer"])
        except UserError as error:
            mend.append(f"{error.message}; {error.remedy}")
    return WordReport(**facts), warned, mend


def _entry(photo: Photo, native: int | None) -> PhotoEntry:
    return PhotoEntry(
        name=photo.path.name,
        size=photo.size,
        mode=photo.mode,
        format=photo.format,
        enlarged=native / min(photo.size) if native else None,
        sharpness=sharpness(photo.picture, native or 512),
        masked=photo.mask is not None,
        caption=photo.caption,
    )


def _unusable(path: Path, error: UserError) -> PhotoEntry:
    problem = f"{error.message} ({error.cause})" if error.cause else error.message
    return PhotoEntry(name=path.name, problem=problem, remedy=error.remedy)


def _near_duplicates(hashes: dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]]) -> list[NearDuplicate]:
    names = list(hashes)
    pairs = []
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            same, mirrored = (int((hashes[first][side] != hashes[second][0]).sum()) for side in (0, 1))
            if same <= SAME_BITS or mirrored <= SAME_MIRRORED_BITS:
                pairs.append(NearDuplicate(first=first, second=second, mirrored=same > SAME_BITS))
    return pairs


def _photo_warnings(entries: list[PhotoEntry], native: int | None) -> list[str]:
    usable = [entry for entry in entries if entry.problem is None]
    warned = []
    if usable and len(usable) < FEW:
        warned.append(f"{len(usable)} photo{'s' * (len(usable) > 1)} can be used; 4-7 from different sides are best")
    if len(usable) > MANY:
        warned.append(f"{len(usable)} photos are many: 4-7 are what the recipe was made for, and its steps see each photo less often")
    for entry in usable:
        if native and entry.enlarged is not None and entry.enlarged > 1:
            warned.append(f"{entry.name} is smaller than the base's {native} px: it is enlarged {entry.enlarged:.1f}x and will look soft")
        if entry.size and max(entry.size) > 1.6 * min(entry.size):
            lost = 1 - min(entry.size) / max(entry.size)
            warned.append(f"{entry.name} is not square: {lost:.0%} of it, on both ends, is cut off; crop it around the subject yourself")
    values = {entry.name: entry.sharpness for entry in usable if entry.sharpness is not None and (entry.enlarged or 0) <= 1}
    if len(values) >= 3:
        for name, value in values.items():
            median = statistics.median(other for key, other in values.items() if key != name)
            if value < BLURRED_BELOW * median:
                warned.append(f"{name} looks blurred: it has {value / median:.0%} of the other photos' fine detail")
    masked = [entry for entry in usable if entry.masked]
    if masked and len(masked) < len(usable):
        names = ", ".join(entry.name for entry in usable if not entry.masked)
        warned.append(f"{len(masked)} of {len(usable)} photos have a mask; without one: {names}")
    return warned


def _caption_warnings(entries: list[PhotoEntry], words: WordReport, token: str, tokenizer: Any) -> list[str]:
    warned = []
    for entry in entries:
        if entry.caption is None or tokenizer is None or words.token_id is None:
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserNote)
            # A view that shows the photo small or large puts three more words in front.
            token_ids(tokenizer_with(tokenizer, (token,)), [f"a far away {entry.caption}"])
        warned += [f"the caption of {entry.name}: {note.message}" for note in caught if issubclass(note.category, UserNote)]
    return warned
