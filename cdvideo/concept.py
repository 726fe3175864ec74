"""The Concept: what one training leaves behind, in one safetensors file.

The file holds the cross-attention matrices under the UNet's own 2D names (`unet.<parameter>`), one row per token (`embedding.<token>`), and
a JSON header that says how it was made. The header can be read without torch.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdvideo.errors import UserError
from cdvideo.files import replace_files

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 1
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, kw_only=True)
class ConceptHeader:
    """How a concept was made; `base` and `fingerprint` say which base it belongs to."""

    base: str
    fingerprint: str
    tokens: tuple[str, ...]
    class_words: tuple[str, ...]
    method: str = "classdiffusion"
    spl_weight: float = 1.0
    spl_mode: str = "paper"
    steps: int = 0
    seed: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, path: Path) -> ConceptHeader:
        try:
            values = json.loads(text)
            header = cls(**{**values, "tokens": tuple(values["tokens"]), "class_words": tuple(values["class_words"])})
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} has a damaged concept header", cause=str(error), remedy="train the concept again") from error
        if header.format_version > FORMAT_VERSION:
            raise UserError(
                f"{path} was written by a newer cdvideo (format {header.format_version})", remedy="update cdvideo and read it again"
            )
        return header


@dataclass(frozen=True, kw_only=True)
class Concept:
    """Tuned matrices by UNet parameter name, (out, in) each, and one embedding (D,) per token."""

    header: ConceptHeader
    key_values: dict[str, Tensor]
    embeddings: dict[str, Tensor]

    def __post_init__(self) -> None:
        if set(self.embeddings) != set(self.header.tokens):
            raise ValueError(f"embeddings {sorted(self.embeddings)} are not those of the tokens {sorted(self.header.tokens)}")

    def save(self, path: Path) -> None:
        """Writes the file whole or not at all."""
        from safetensors.torch import save

        tensors = {f"unet.{name}": value.detach().cpu().contiguous() for name, value in self.key_values.items()}
        tensors |= {f"embedding.{token}": value.detach().cpu().contiguous() for token, value in self.embeddings.items()}
        content = save(tensors, metadata={"cdvideo_concept": self.header.to_json()})
        replace_files(path, [(path, content)])

    @classmethod
    def load(cls, path: Path) -> Concept:
        """The concept in a file. Raises UserError where the file is no whole concept."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        header = read_header(path)
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is damaged", cause=str(error), remedy="copy it again or train the concept again") from error
        key_values = {name.removeprefix("unet."): value for name, value in tensors.items() if name.startswith("unet.")}
        embeddings = {name.removeprefix("embedding."): value for name, value in tensors.items() if name.startswith("embedding.")}
        strangers = sorted(set(tensors) - {f"unet.{name}" for name in key_values} - {f"embedding.{name}" for name in embeddings})
        if strangers:
            raise UserError(f"{path} holds a tensor that is no part of a concept: {strangers[0]}", remedy="train the concept again")
        if set(embeddings) != set(header.tokens):
            raise UserError(
                f"{path} has embeddings for {sorted(embeddings)} but names the tokens {sorted(header.tokens)}",
                remedy="train the concept again",
            )
        return cls(header=header, key_values=key_values, embeddings=embeddings)


def read_header(path: Path) -> ConceptHeader:
    """The header of a concept file, read without torch. Raises UserError where there is none."""
    metadata = _safetensors_metadata(path)
    if "cdvideo_concept" not in metadata:
        raise UserError(
            f"{path} is no concept of cdvideo's", cause="its header has no cdvideo_concept entry", remedy="make one with: cdvideo train"
        )
    return ConceptHeader.from_json(metadata["cdvideo_concept"], path)


def _safetensors_metadata(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > _MAX_HEADER_BYTES:
                raise ValueError("its header claims to be larger than 100 MB")
            return dict(json.loads(file.read(size)).get("__metadata__", {}))
    except FileNotFoundError:
        raise UserError(
            f"no such concept: {path}",
            cause=f"looked in {path.parent.resolve()}",
            remedy="make one with: cdvideo train IMAGES --class WORD",
        ) from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a concept file", remedy=f"name a file in it: {path}/NAME.safetensors") from None
    except PermissionError as error:
        raise UserError(f"cannot read {path}", cause=str(error), remedy="change its permissions") from error
    except (ValueError, struct.error, UnicodeDecodeError, AttributeError) as error:
        raise UserError(f"{path} is not a safetensors file", cause=str(error), remedy="name a file that cdvideo train made") from error


def newest_for_prompt(prompt: str, folder: Path = Path("concepts")) -> Path | None:
    """The newest concept in `folder` whose token occurs in the prompt, or None. Unreadable files are passed over."""
    newest_first = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in newest_first:
        try:
            header = read_header(path)
        except UserError:
            continue
        if any(token in prompt for token in header.tokens):
            return path
    return None
