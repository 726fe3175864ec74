"""The Concept: what one training leaves behind, in one safetensors file.

The file holds the cross-attention matrices under the UNet's own 2D names (`unet.<parameter>`), one row per token (`embedding.<token>`), and
a JSON header that says how it was made. The header can be read without torch. In a compressed file a matrix is a low-rank change to the
base's (`unet.<parameter>.up`, `.down`; format version 2), and what SVDiff tunes is a shift of its singular values
(`unet.<parameter>.shift`; version 3). What the photos look like to a CLIP is kept as `looks.<token>` (version 4). A cdvideo that only
knows an older version refuses a newer one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdvideo.errors import UserError
from cdvideo.files import replace_files

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 1
LOW_RANK_FORMAT_VERSION = 2
SPECTRAL_FORMAT_VERSION = 3
LOOKS_FORMAT_VERSION = 4
LOOKS_BY = "looks_by"
"""Where the header's JSON says which CLIP has seen each token's photos."""
KEY_VALUE_SUFFIXES = ("attn2.to_k.weight", "attn2.to_v.weight")
UNKNOWN = "unknown"
"""What the header of an imported concept says where the files that it came from did not."""
CONCEPTS = Path("concepts")
"""Where trainings put them, under the working folder."""
LIKE_A_TOKEN = re.compile(r"(?<![\w*])[A-Z]\d*\*(?![\w*])|<[^<>\s]+>")
"""How tokens of concepts are usually written: V*, V2*, <my-bear>."""
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, kw_only=True)
class ConceptHeader:
    """How a concept was made; `base` and `fingerprint` say which base it belongs to. None and "unknown" are what nobody knows."""

    base: str
    fingerprint: str
    tokens: tuple[str, ...]
    class_words: tuple[str, ...]
    method: str = "classdiffusion"
    spl_weight: float | None = 1.0
    spl_mode: str = "paper"
    steps: int | None = 0
    seed: int | None = 0
    versions: dict[str, str] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, path: Path) -> ConceptHeader:
        try:
            values = json.loads(text)
            values.pop(LOOKS_BY, None)
            header = cls(**{**values, "tokens": tuple(values["tokens"]), "class_words": tuple(values["class_words"])})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} has a damaged concept header", cause=str(error), remedy="train the concept again") from error
        if header.format_version > LOOKS_FORMAT_VERSION:
            raise UserError(
                f"{path} was written by a newer cdvideo (format {header.format_version})", remedy="update cdvideo and read it again"
            )
        return header


@dataclass(frozen=True)
class LowRankChange:
    """A tuned matrix told as a change to the base's, `up @ down`, with `up` (out, R) and `down` (R, in).

    It may stand wherever a full matrix may in `Concept.tuned`: it has the full one's `shape`, and its `to` gives the full one.
    """

    up: Tensor
    down: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.up.shape[0], self.down.shape[1]

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    def change(self) -> Tensor:
        """What is added to the base's matrix, (out, in) in fp32."""
        return self.up.float() @ self.down.float()

    def to(self, weight: Tensor) -> Tensor:
        """The full matrix, given the base's `weight` (out, in) that it changes, in that weight's type and on its device.

        The counterpart of `Tensor.to(weight)`, so that an injection treats both alike. The sum is taken in fp32 and rounded once.
        """
        return (weight.float() + self.change().to(weight.device)).to(weight.dtype)

    def fits(self, weight: Tensor) -> bool:
        return tuple(weight.shape) == self.shape


@dataclass(frozen=True)
class SpectralShift:
    """A tuned matrix or kernel told by how far its singular values, largest first, are shifted: `shift` (R,). SVDiff (Han et al. 2023).

    Stands where a full matrix may, as `LowRankChange` does. A kernel (out, in, h, w) counts as a matrix (out, in * h * w).
    """

    shift: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.shift.shape)

    def to(self, weight: Tensor) -> Tensor:
        """U diag(relu(S + shift)) V^T, given the base's `weight` U diag(S) V^T; equation 2. Computed in fp32."""
        import torch

        left, values, right = torch.linalg.svd(weight.float().flatten(1), full_matrices=False)
        return shifted_spectrum(left, values, right, self.shift.to(values)).view_as(weight).to(weight.dtype)

    def fits(self, weight: Tensor) -> bool:
        return weight.ndim >= 2 and self.shape == (min(weight.shape[0], weight[0].numel()),)


def shifted_spectrum(left: Tensor, values: Tensor, right: Tensor, shift: Tensor) -> Tensor:
    """U diag(relu(S + shift)) V^T, a matrix, of U (O, R), S (R,), V^T (R, I) and a shift (R,). Han et al. 2023, equation 2."""
    return (left * (values + shift).clamp(min=0)) @ right


def fits(value: Tensor | LowRankChange | SpectralShift, weight: Tensor) -> bool:
    """Whether a tuned weight, however it is told, is one for the base's `weight`."""
    return value.fits(weight) if isinstance(value, (LowRankChange, SpectralShift)) else value.shape == weight.shape


@dataclass(frozen=True, eq=False)
class Looks:
    """What photos look like to a CLIP: normalised features (P, D), and the CLIP's name (`evaluate.Clip.name`)."""

    features: Tensor
    clip: str


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Concept:
    """Tuned weights by UNet parameter name, whole or as changes to the base's, and one embedding (D,) per token.

    They are the cross-attention keys and values, (out, in) each, or what another method has tuned: nothing, or the whole UNet.
    """

    header: ConceptHeader
    tuned: Mapping[str, Tensor | LowRankChange | SpectralShift]
    embeddings: dict[str, Tensor]
    looks: Mapping[str, Looks] = field(default_factory=dict)
    """By token, what its photos look like; of some tokens nobody knows it."""
    source: Path | None = None
    """The file that it was loaded from."""

    def __post_init__(self) -> None:
        if set(self.embeddings) != set(self.header.tokens):
            raise ValueError(f"embeddings {sorted(self.embeddings)} are not those of the tokens {sorted(self.header.tokens)}")
        if not set(self.looks) <= set(self.header.tokens):
            raise ValueError(f"looks {sorted(self.looks)} of other tokens than {sorted(self.header.tokens)}")
        object.__setattr__(self, "header", replace(self.header, format_version=self._format_version))

    def __repr__(self) -> str:
        names = ", ".join(f"{token} {word}" for token, word in zip(self.header.tokens, self.header.class_words, strict=False))
        return f"Concept({names}: {self.header.method} for {self.header.base})"

    def renamed(self, names: Mapping[str, str]) -> Concept:
        """The same concept with its tokens under new names, given by the old ones."""
        header = replace(self.header, tokens=tuple(names[token] for token in self.header.tokens))
        embeddings = {names[token]: row for token, row in self.embeddings.items()}
        looks = {names[token]: seen for token, seen in self.looks.items()}
        return replace(self, header=header, embeddings=embeddings, looks=looks)

    @property
    def beyond_key_values(self) -> list[str]:
        """The tuned weights that are no cross-attention keys or values."""
        return [name for name in self.tuned if not name.endswith(KEY_VALUE_SUFFIXES)]

    @property
    def is_compressed(self) -> bool:
        return any(isinstance(value, LowRankChange) for value in self.tuned.values())

    @property
    def _format_version(self) -> int:
        if self.looks:
            return LOOKS_FORMAT_VERSION
        if any(isinstance(value, SpectralShift) for value in self.tuned.values()):
            return SPECTRAL_FORMAT_VERSION
        return LOW_RANK_FORMAT_VERSION if self.is_compressed else FORMAT_VERSION

    def misfit(self, weights: Mapping[str, Tensor]) -> str | None:
        """The name of the first tuned weight that does not have the shape of the base's, or None."""
        return next((name for name, value in self.tuned.items() if not fits(value, weights[name])), None)

    def expanded(self, weights: Mapping[str, Tensor]) -> Concept:
        """The same concept with whole matrices only, in fp32, given the base's weights by UNet parameter name."""
        whole = {name: value.to(weights[name].float()) for name, value in self.tuned.items()}
        return replace(self, tuned=whole)

    def to_bytes(self) -> bytes:
        """The content of the concept's file."""
        from safetensors.torch import save

        tensors: dict[str, Tensor] = {}
        for name, value in self.tuned.items():
            if isinstance(value, LowRankChange):
                tensors |= {f"unet.{name}.up": value.up, f"unet.{name}.down": value.down}
            elif isinstance(value, SpectralShift):
                tensors[f"unet.{name}.shift"] = value.shift
            else:
                tensors[f"unet.{name}"] = value
        tensors |= {f"embedding.{token}": value for token, value in self.embeddings.items()}
        tensors |= {f"looks.{token}": seen.features for token, seen in self.looks.items()}
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        # One entry, since safetensors writes several in any order.
        seen_by = {LOOKS_BY: {token: seen.clip for token, seen in self.looks.items()}} if self.looks else {}
        return bytes(save(tensors, metadata={"cdvideo_concept": json.dumps({**asdict(self.header), **seen_by})}))

    @property
    def digest(self) -> str:
        """Of the file's content, in hexadecimal: the same for concepts that render the same pictures and say the same of themselves."""
        return hashlib.sha256(self.to_bytes()).hexdigest()[:16]

    def save(self, path: Path | str) -> None:
        """Writes the file whole or not at all."""
        path = Path(path)
        replace_files(path, [(path, self.to_bytes())])

    @classmethod
    def load(cls, path: Path | str) -> Concept:
        """The concept in a file, or of a name in `concepts/`. Raises UserError where the file is no whole concept."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = find_concept(path)
        header = read_header(path)
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is damaged", cause=str(error), remedy="copy it again or train the concept again") from error
        tuned = {name.removeprefix("unet."): value for name, value in tensors.items() if name.startswith("unet.")}
        embeddings = {name.removeprefix("embedding."): value for name, value in tensors.items() if name.startswith("embedding.")}
        features = {name.removeprefix("looks."): value for name, value in tensors.items() if name.startswith("looks.")}
        if broken := next((name for name, value in tensors.items() if not value.isfinite().all()), None):
            remedy = "train the concept again, with a lower --learning-rate, or --dtype fp32"
            raise UserError(f"{path} holds values that are not numbers", cause=f"the first are in {broken}", remedy=remedy)
        strangers = sorted(name for name in tensors if not name.startswith(("unet.", "embedding.", "looks.")))
        if strangers:
            raise UserError(f"{path} holds a tensor that is no part of a concept: {strangers[0]}", remedy="train the concept again")
        if set(embeddings) != set(header.tokens):
            raise UserError(
                f"{path} has embeddings for {sorted(embeddings)} but names the tokens {sorted(header.tokens)}",
                remedy="train the concept again",
            )
        looks = _looks(path, features, header)
        return cls(header=header, tuned=_with_changes(path, tuned), embeddings=embeddings, looks=looks, source=path)


def read_looks(path: Path) -> dict[str, Looks]:
    """What a concept's file knows of its photos, read without the tuned weights. Raises UserError as `Concept.load` does."""
    from safetensors import SafetensorError, safe_open

    header = read_header(path)
    try:
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if name.startswith("looks.")]  # noqa: SIM118 - it is no mapping
            return _looks(path, {name.removeprefix("looks."): file.get_tensor(name) for name in names}, header)
    except SafetensorError as error:
        raise UserError(f"{path} is damaged", cause=str(error), remedy="copy it again or train the concept again") from error


def _looks(path: Path, features: Mapping[str, Tensor], header: ConceptHeader) -> dict[str, Looks]:
    """What the photos look like. Raises UserError where the file does not say to which CLIP, or knows no such token."""
    try:
        seen_by = json.loads(_safetensors_metadata(path)["cdvideo_concept"])[LOOKS_BY] if features else {}
        looks = {token: Looks(value, str(seen_by[token])) for token, value in features.items()}
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged", cause=f"its looks: {error!r}", remedy="copy it again or train the concept again") from error
    if strangers := sorted(set(looks) - set(header.tokens)):
        raise UserError(f"{path} has looks of {strangers[0]}, which is no token of it", remedy="train the concept again")
    return looks


def _with_changes(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor | LowRankChange | SpectralShift]:
    """The weights by parameter name, the halves of low-rank changes put together. Raises UserError for halves that make no whole."""
    found: dict[str, Tensor | LowRankChange | SpectralShift] = {}
    for name, value in tensors.items():
        stem, _, half = name.rpartition(".")
        if half == "shift":
            found[stem] = SpectralShift(value)
        elif half not in ("up", "down"):
            found[name] = value
        elif half == "up" or f"{stem}.up" not in tensors:
            up, down = tensors.get(f"{stem}.up"), tensors.get(f"{stem}.down")
            if up is None or down is None or stem in tensors:
                what = "both a matrix and a change to" if stem in tensors else "only half of the change to"
                raise UserError(f"{path} holds {what} {stem}", remedy="copy or compress the concept again")
            if up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0]:
                shapes = f"up {tuple(up.shape)}, down {tuple(down.shape)}"
                raise UserError(f"{path}: the halves of the change to {stem} do not go together", cause=shapes, remedy="compress it again")
            found[stem] = LowRankChange(up, down)
    return found


def distinct_names(tokens: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Each concept's tokens by names that no other has: a name that several use becomes `V1*`, `V2*`, in turn, passing over taken ones."""
    counts = Counter(token for own in tokens for token in own)
    taken = {token for token, count in counts.items() if count == 1}
    renames, number = [], 0
    for own in tokens:
        names = {}
        for token in own:
            names[token] = token
            if counts[token] > 1:
                while (name := f"V{(number := number + 1)}*") in taken:
                    pass
                names[token] = name
        renames.append(names)
    return renames


@dataclass(frozen=True)
class StoredTensor:
    """What a file's header says of a tensor."""

    dtype: str
    shape: tuple[int, ...]
    num_bytes: int


def read_layout(path: Path) -> dict[str, StoredTensor]:
    """The tensors in a concept's file by their names there, read without torch. Raises UserError as `read_header` does."""
    entries = {name: entry for name, entry in _safetensors_header(path).items() if name != "__metadata__"}
    try:
        return {
            name: StoredTensor(entry["dtype"], tuple(entry["shape"]), entry["data_offsets"][1] - entry["data_offsets"][0])
            for name, entry in entries.items()
        }
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path} is damaged", cause=f"its header: {error!r}", remedy="copy it again or train the concept again") from error


def read_header(path: Path) -> ConceptHeader:
    """The header of a concept file, read without torch. Raises UserError where there is none."""
    metadata = _safetensors_metadata(path)
    if "cdvideo_concept" not in metadata:
        raise UserError(
            f"{path} is no concept of cdvideo's", cause="its header has no cdvideo_concept entry", remedy="make one with: cdvideo train"
        )
    return ConceptHeader.from_json(metadata["cdvideo_concept"], path)


def _safetensors_metadata(path: Path) -> dict[str, str]:
    metadata = _safetensors_header(path).get("__metadata__", {})
    return dict(metadata) if isinstance(metadata, dict) else {}


def _safetensors_header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > _MAX_HEADER_BYTES:
                raise ValueError("it does not begin as one does")
            header = json.loads(file.read(size))
            if not isinstance(header, dict):
                raise ValueError("its header is no JSON object")
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            missing = 8 + size + max(ends, default=0) - os.fstat(file.fileno()).st_size
            if missing > 0:
                remedy = "copy it again or train the concept again"
                raise UserError(f"{path} was cut short", cause=f"{missing} bytes are missing at its end", remedy=remedy)
            return header
    except FileNotFoundError:
        raise UserError(
            f"no such concept: {path}",
            cause=f"looked in {path.parent.resolve()}{f' and in {CONCEPTS}' if path.parent == Path() else ''}",
            remedy="make one with: cdvideo train IMAGES --class WORD",
        ) from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a concept file", remedy=f"name a file in it: {path}/NAME.safetensors") from None
    except PermissionError as error:
        raise UserError(f"cannot read {path}", cause=str(error), remedy="change its permissions") from error
    except (ValueError, struct.error, UnicodeDecodeError, AttributeError, KeyError, TypeError, IndexError) as error:
        cause = "it has fewer than 8 bytes" if isinstance(error, struct.error) else str(error)
        raise UserError(f"{path} is not a safetensors file", cause=cause, remedy="name a file that cdvideo train made") from error


def newest_for_prompt(prompt: str, folder: Path = CONCEPTS) -> list[Path]:
    """The concepts in `folder` whose tokens occur in the prompt, in its order: of each token the newest, and none twice.

    One that has several of them goes before those that have fewer; others have to be of the same base. Unreadable files are passed over.
    """
    found: dict[Path, ConceptHeader] = {}
    for path in sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True):
        with contextlib.suppress(UserError):
            found[path] = read_header(path)
    chosen: dict[Path, int] = {}
    while found:
        path = max(found, key=lambda path: sum(is_named(token, prompt) for token in found[path].tokens))
        first = found.pop(path)
        places = [place for token in first.tokens if (place := _place(token, prompt)) is not None]
        if not places:
            break
        chosen[path] = min(places)
        found = {
            other: header
            for other, header in found.items()
            if header.fingerprint == first.fingerprint and not set(header.tokens) & set(first.tokens)
        }
    return sorted(chosen, key=lambda path: chosen[path])


def find_concept(name: str | os.PathLike[str]) -> Path:
    """The file that a user means: the path itself, or for a bare name that is not there one of that name in `concepts/`."""
    path = Path(name)
    if path.is_file():
        return path
    return next((other for other in in_concepts(path) if other.is_file()), path)


def in_concepts(name: Path) -> tuple[Path, ...]:
    """The files in `concepts/` that a bare name may mean; of a path with folders none."""
    return (CONCEPTS / name, CONCEPTS / f"{name}.safetensors") if name.parent == Path() else ()


def is_named(token: str, prompt: str) -> bool:
    """Whether the prompt has the token as the tokenizer reads it: one that is a word, such as sks, not inside another, such as asks."""
    return _place(token, prompt) is not None


def _place(token: str, prompt: str) -> int | None:
    found = re.search(rf"\b{token}\b" if is_word(token) else re.escape(token), prompt)
    return found.start() if found else None


def is_word(token: str) -> bool:
    """Whether a token has nothing in it but what words are made of, unlike V*."""
    return re.fullmatch(r"\w+", token) is not None
