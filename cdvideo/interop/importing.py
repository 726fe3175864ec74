"""In: concepts from the files of diffusers' Custom Diffusion script, of ClassDiffusion's, and of Custom Diffusion's own repository.

The layouts, by what they hold:
- a folder with `pytorch_custom_diffusion_weights.{safetensors,bin}` and a `<new1>.{safetensors,bin}` for each token;
- `delta*.bin`: `{"unet": {parameter: matrix}, "modifier_token": {"<new1>": embedding}}`, where Custom Diffusion trained with diffusers;
- `delta*.ckpt`: `{"state_dict": {parameter in the original layout: matrix, "embed": embeddings}}`, where it trained with CompVis' code.
The last two may be compressed: `{"u": (out, R), "v": (R, in)}` in a matrix's place, a change to the base's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cdvideo.base import recognise
from cdvideo.base.text import single_token_id
from cdvideo.base.weights import State, listed, read_tensors
from cdvideo.concept import UNKNOWN, Concept, ConceptHeader, LowRankChange
from cdvideo.errors import UserError
from cdvideo.interop.custom_diffusion import COMPANION, WEIGHTS

if TYPE_CHECKING:
    from cdvideo.base import Base

_PROCESSOR = re.compile(r"(?P<place>.+\.attn2)\.processor\.(?P<matrix>to_[kv])_custom_diffusion\.weight")
_ORIGINAL = re.compile(
    r"state_dict\.model\.diffusion_model\.(?P<block>.+?)\.1\.(?P<rest>transformer_blocks\.\d+\.attn2\.to_[kv]\.weight.*)"
)
_EMBEDDING_FILE = re.compile(r"(<.+>|new\d+|learned_embeds)\.(safetensors|bin)")
_LAYERS_PER_BLOCK = 2
_KINDS = "a folder with pytorch_custom_diffusion_weights.* and <new1>.*, or a delta*.bin or delta*.ckpt of Custom Diffusion's"

Matrices = dict[str, Tensor | LowRankChange]


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A concept, the layout it was read from, each token's name there, and the header's fields that the files did not tell."""

    concept: Concept
    layout: str
    tokens: Mapping[str, str]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class _Foreign:
    layout: str
    tuned: Matrices
    embeddings: State
    companion: Mapping[str, Any] | None = None


def companion_header(path: Path) -> ConceptHeader | None:
    """The header that cdvideo's export left in the folder (or beside the weights file); None for other programs' files."""
    companion = _companion(path)
    return None if companion is None else ConceptHeader.from_json(json.dumps(companion["cdvideo_concept"]), _companion_path(path))


def check_kind(path: Path) -> None:
    """Nothing, where `path` can be imported. Call it before a base is fetched. Raises UserError that says what it is otherwise."""
    _read(path)


def import_diffusers(path: Path, *, base: Base | None = None, tokens: tuple[str, ...] = (), class_words: tuple[str, ...] = ()) -> Imported:
    """The concept in other programs' files.

    `tokens` and `class_words` name the tokens here, in the files' order; without them a single one is `V*`, several are `V1*`, `V2*`. The
    files do not tell which base they belong to, so `base` is needed, and the concept is checked against it; what cdvideo exported does
    tell, and comes back as it was, but for what its photos looked like. Raises UserError where the files are of another kind, incomplete,
    or do not fit the base.
    """
    foreign = _read(path)
    header = companion_header(path)
    own = _own_names(path, foreign, header) if header else {}
    names = list(own) or sorted(foreign.embeddings, key=_by_number)
    renamed = _given(tokens, names, "--token", path) or list(own.values()) or _default_tokens(len(names))
    if len(set(renamed)) < len(renamed):
        raise UserError(f"two tokens cannot both be called {renamed[0]}", remedy="give each its own --token")
    words = _given(class_words, names, "--class", path)
    for word in words:
        if base is not None:
            single_token_id(base.tokenizer, word)
    unknown: tuple[str, ...] = ()
    if header is None:
        if base is None:
            raise UserError(f"{path} does not say which base it was tuned from", remedy="name it with --base, such as --base sd15")
        unknown = ("method", "spl_weight", "spl_mode", "steps", "seed", *["class_words"] * (not words))
        header = ConceptHeader(
            base=base.id,
            fingerprint=base.fingerprint,
            tokens=(),
            class_words=(UNKNOWN,) * len(names),
            method=UNKNOWN,
            spl_weight=None,
            spl_mode=UNKNOWN,
            steps=None,
            seed=None,
            training={"imported": {"from": path.name, "layout": foreign.layout, "unknown": list(unknown)}},
        )
    header = replace(header, tokens=tuple(renamed), class_words=tuple(words) or header.class_words)
    embeddings = {token: foreign.embeddings[name] for token, name in zip(renamed, names, strict=True)}
    concept = Concept(header=header, tuned=foreign.tuned, embeddings=embeddings)
    if base is not None:
        base.inject(concept).eject()
    return Imported(concept=concept, layout=foreign.layout, tokens=dict(zip(renamed, names, strict=True)), unknown=unknown)


def _own_names(path: Path, foreign: _Foreign, header: ConceptHeader) -> dict[str, str]:
    """Tokens by their names in the files, in the header's order, as cdvideo's export noted them."""
    own = {name: token for token, name in (foreign.companion or {}).get("tokens", {}).items()}
    if set(own) != set(foreign.embeddings) or set(own.values()) != set(header.tokens):
        raise UserError(
            f"{_companion_path(path)} is not about the files beside it",
            cause=f"it names {', '.join(own)}; the files hold {', '.join(foreign.embeddings)}",
            remedy=f"delete {COMPANION} to import the files as another program's",
        )
    return dict(sorted(own.items(), key=lambda pair: header.tokens.index(pair[1])))


def _by_number(name: str) -> list[tuple[int, str]]:
    """A sorting key that puts <new2> before <new10>."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _given(values: tuple[str, ...], names: list[str], option: str, path: Path) -> list[str]:
    if values and len(values) != len(names):
        raise UserError(
            f"{path} holds {len(names)} token{'s' * (len(names) != 1)} ({', '.join(names)}), and {option} names {len(values)}",
            remedy=f"give {option} once for each, in that order",
        )
    return list(values)


def _default_tokens(count: int) -> list[str]:
    return ["V*"] if count == 1 else [f"V{number}*" for number in range(1, count + 1)]


def _read(path: Path) -> _Foreign:
    if not path.exists():
        raise UserError(f"there is nothing at {path}", cause=f"looked in {path.parent.resolve()}", remedy=f"give {_KINDS}")
    companion = _companion(path)
    file = _weights_file(path, companion) if path.is_dir() else path
    tensors = _flat(file)
    if any(name.startswith("embedding.") for name in tensors):
        raise _other_kind(file, tensors, "a cdvideo concept")
    if any("custom_diffusion" in name for name in tensors):
        foreign = _Foreign(
            "custom diffusion processors (diffusers, ClassDiffusion)", *_from_processors(file, tensors, companion), companion
        )
    elif any(name.startswith("unet.") and ".attn2." in name for name in tensors):
        foreign = _Foreign("Custom Diffusion's delta.bin (diffusers)", *_from_delta(file, tensors))
    elif any(_ORIGINAL.match(name) for name in tensors):
        foreign = _Foreign("Custom Diffusion's delta.ckpt (CompVis)", *_from_original(file, tensors))
    else:
        raise _other_kind(file, tensors)
    if not foreign.embeddings:
        raise UserError(
            f"{file} comes without a token's embedding",
            cause="it was trained without a modifier token, or <new1>.safetensors (or .bin) is not beside it",
            remedy="put the embedding beside it; without one it cannot become a concept",
        )
    return foreign


def _weights_file(folder: Path, companion: Mapping[str, Any] | None) -> Path:
    own = [str(companion["weights"])] if companion and "weights" in companion else []
    for name in own or (f"{WEIGHTS}.safetensors", f"{WEIGHTS}.bin"):
        if (folder / name).is_file():
            return folder / name
    deltas = sorted(file for pattern in ("*delta*.bin", "*delta*.ckpt") for file in folder.glob(pattern))
    if len(deltas) == 1:
        return deltas[0]
    if deltas:
        raise UserError(f"{folder} holds {len(deltas)} deltas", cause=", ".join(file.name for file in deltas), remedy="name one of them")
    raise UserError(
        f"{folder} holds nothing that can be imported", cause=f"it has no {WEIGHTS}.safetensors or .bin", remedy=f"give {_KINDS}"
    )


def _flat(file: Path) -> State:
    """The tensors of a file; those in a pickle's dictionaries under names joined by dots. Read with `weights_only` alone."""
    tensors = read_tensors(file)
    if _is_safetensors(file):
        return tensors
    with file.open("rb") as opened:
        return dict(_flattened(torch.load(opened, map_location="cpu", weights_only=True), ""))


def _is_safetensors(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(9)[8:] == b"{"


def _flattened(values: Any, prefix: str) -> list[tuple[str, Tensor]]:
    if isinstance(values, Tensor):
        return [(prefix, values)]
    if not isinstance(values, Mapping):
        return []
    return [entry for name, value in values.items() for entry in _flattened(value, f"{prefix}.{name}" if prefix else str(name))]


def _from_processors(file: Path, tensors: State, companion: Mapping[str, Any] | None) -> tuple[Matrices, State]:
    matches = {name: _PROCESSOR.fullmatch(name) for name in tensors}
    _refuse_left(file, [name for name, match in matches.items() if match is None])
    tuned: Matrices = {f"{match['place']}.{match['matrix']}.weight": tensors[name] for name, match in matches.items() if match}
    return tuned, _embeddings_beside(file, companion)


def _embeddings_beside(weights: Path, companion: Mapping[str, Any] | None) -> State:
    """Those that cdvideo's export names, where it made the folder, which may hold more of an earlier one; else all."""
    found: State = {}
    own = set(companion.get("embeddings", {}).values()) if companion else set()
    files = [file for file in weights.parent.iterdir() if _EMBEDDING_FILE.fullmatch(file.name) and (not own or file.name in own)]
    for file in sorted(files, key=lambda file: (file.suffix != ".safetensors", file.name)):
        tensors = _flat(file)
        if len(tensors) != 1:
            raise UserError(
                f"{file} is no token's embedding", cause=f"it holds {len(tensors)} tensors", remedy="remove it, or give another"
            )
        ((name, value),) = tensors.items()
        found.setdefault(name, _row(file, name, value))
    return found


def _row(file: Path, name: str, value: Tensor) -> Tensor:
    row = value.reshape(-1) if value.ndim == 2 and len(value) == 1 else value
    if row.ndim != 1:
        raise UserError(f"{file}: the embedding of {name} is {tuple(value.shape)}", cause="a concept's token is one row of numbers")
    return row.float()


def _from_delta(file: Path, tensors: State) -> tuple[Matrices, State]:
    matrices = {name.removeprefix("unet."): value for name, value in tensors.items() if name.startswith("unet.")}
    rows = {name.removeprefix("modifier_token."): value for name, value in tensors.items() if name.startswith("modifier_token.")}
    _refuse_left(file, [name for name in tensors if not name.startswith(("unet.", "modifier_token."))])
    return _whole_or_low_rank(file, matrices), {name: _row(file, name, value) for name, value in rows.items()}


def _from_original(file: Path, tensors: State) -> tuple[Matrices, State]:
    matches = {name: _ORIGINAL.fullmatch(name) for name in tensors}
    _refuse_left(file, [name for name, match in matches.items() if match is None and name != "state_dict.embed"])
    matrices = {f"{_block_name(match['block'])}.{match['rest']}": tensors[name] for name, match in matches.items() if match}
    rows = tensors.get("state_dict.embed", torch.empty(0, 0))
    rows = rows[None] if rows.ndim == 1 else rows
    return _whole_or_low_rank(file, matrices), {f"<new{number}>": row.float() for number, row in enumerate(rows, 1)}


def _block_name(original: str) -> str:
    """diffusers' name of an attention block of Stable Diffusion 1.x: input block 0 is a convolution, each third one a downsampler."""
    side, _, number = original.partition(".")
    if side == "middle_block":
        return "mid_block.attentions.0"
    at_side, group = ("down_blocks", int(number) - 1) if side == "input_blocks" else ("up_blocks", int(number))
    return f"{at_side}.{group // (_LAYERS_PER_BLOCK + 1)}.attentions.{group % (_LAYERS_PER_BLOCK + 1)}"


def _whole_or_low_rank(file: Path, matrices: State) -> Matrices:
    found: Matrices = {}
    for name, value in matrices.items():
        stem, _, half = name.rpartition(".")
        if half == "u":
            down = matrices.get(f"{stem}.v")
            if down is None or value.ndim != 2 or down.ndim != 2 or value.shape[1] != down.shape[0]:
                raise UserError(f"{file} holds a compressed matrix that is not whole: {stem}", remedy="copy it again")
            found[stem] = LowRankChange(value.float(), down.float())
        elif half == "weight":
            found[name] = value
    _refuse_left(file, [name for name in found if not name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))])
    return found


def _refuse_left(file: Path, names: list[str]) -> None:
    if not names:
        return
    what = "the text encoder" if names[0].startswith("text_encoder.") else "more than cross-attention keys and values"
    raise UserError(
        f"{file} holds more than a concept can",
        cause=f"{what} was tuned too: {listed(names)}",
        remedy="train with Custom Diffusion's default, --freeze_model crossattn_kv, and without the text encoder",
    )


def _other_kind(file: Path, tensors: State, known: str | None = None) -> UserError:
    kind = known or recognise.describe({name: tuple(value.shape) for name, value in tensors.items()})
    return UserError(
        f"{file} is no file of Custom Diffusion's or ClassDiffusion's",
        cause=f"it is {recognise.with_article(kind)}",
        remedy="use it as it is, with --concept" if known else f"give {_KINDS}",
    )


def _companion_path(path: Path) -> Path:
    return (path if path.is_dir() else path.parent) / COMPANION


def _companion(path: Path) -> Mapping[str, Any] | None:
    file = _companion_path(path)
    if not file.is_file() or (path.is_file() and not path.name.startswith(WEIGHTS)):
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}", cause=str(error), remedy="delete it to import the files as another program's") from error
    if not isinstance(values, dict) or not all(isinstance(values.get(name, {}), dict) for name in ("cdvideo_concept", "embeddings")):
        return None
    if "cdvideo_concept" not in values:
        return None
    is_there = (file.parent / str(values.get("weights"))).is_file()
    if is_there and (missing := [name for name in values.get("embeddings", {}).values() if not (file.parent / name).is_file()]):
        raise UserError(
            f"{file} is not about the files beside it",
            cause=f"it names {missing[0]}, which is not there",
            remedy=f"delete {COMPANION} to import the files as another program's",
        )
    if path.is_file() and values.get("weights", path.name) != path.name:
        raise UserError(
            f"{file} is not about {path.name}", cause=f"it was written with {values['weights']}", remedy=f"import {path.parent} instead"
        )
    return values
