"""Out: the files of diffusers' Custom Diffusion script, which ClassDiffusion's script writes too.

A folder with `pytorch_custom_diffusion_weights.safetensors` (or `.bin`), the cross-attention matrices under the names of attention
processors, and one `<new1>.safetensors` for each token, its embedding under the token's name.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from cdvideo.concept import Concept, LowRankChange
from cdvideo.errors import UserError
from cdvideo.files import explained
from cdvideo.interop.moving import require_key_values
from cdvideo.interop.outputs import Export, write_new

WEIGHTS = "pytorch_custom_diffusion_weights"
COMPANION = "cdvideo.json"
_LOADING = (
    "Embeddings: pipe.load_textual_inversion(FOLDER, weight_name=NAME) for each file in `embeddings`.",
    "Matrices: diffusers' pipe.unet.load_attn_procs(FOLDER, weight_name=NAME) leaves the UNet as it was unless it is also given "
    "_pipeline=pipe (0.42), and needs the .bin, in which all processors are named. Or write each "
    "PLACE.attn2.processor.to_k_custom_diffusion.weight into the UNet's PLACE.attn2.to_k.weight, and to_v likewise.",
    "In prompts, write the token's name here (`tokens`) in place of its name in cdvideo.",
)


def export_diffusers(concept: Concept, folder: Path, *, pickled: bool = False, overwrite: bool = False) -> Export:
    """The files in `folder`; with `pickled` as `.bin`. `cdvideo.json` beside them holds the header and says how to load them.

    Raises UserError for a compressed concept (`Concept.expanded` makes it whole) and for files that are there already.
    """
    require_key_values(concept)
    suffix = "bin" if pickled else "safetensors"
    processors: dict[str, Any] = {}
    for name, value in concept.tuned.items():
        if isinstance(value, LowRankChange):
            raise UserError("the concept is compressed, and these files need whole matrices", remedy="give the base, with --base")
        assert isinstance(value, Tensor)
        processors[processor_name(name)] = value.detach().cpu().contiguous()
    if pickled:
        # diffusers sets processors all at once, so the self-attention's have to be there, with nothing in them.
        processors |= {f"{place}.attn1.processor": {} for place in sorted({name.split(".attn2.")[0] for name in concept.tuned})}
    names = foreign_tokens(concept.header.tokens)
    embeddings = {token: f"{_file_stem(name)}.{suffix}" for token, name in names.items()}
    about = {
        "tokens": names,
        "weights": f"{WEIGHTS}.{suffix}",
        "embeddings": {names[token]: file for token, file in embeddings.items()},
        "how_to_load": _LOADING,
        "cdvideo_concept": asdict(concept.header),
    }
    dumped = _pickled if pickled else _safe
    files = {folder / f"{WEIGHTS}.{suffix}": dumped(processors)}
    files |= {folder / embeddings[token]: dumped({names[token]: concept.embeddings[token].detach().cpu().clone()}) for token in names}
    files[folder / COMPANION] = (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode()
    earlier = _exported_before(folder)
    write_new(folder, files, overwrite=overwrite)
    with explained(folder):
        for file in earlier:
            # Some disks do not tell names apart by case.
            if file.exists() and not any(file.samefile(new) for new in files):
                file.unlink()
    return Export(files=tuple(files), tokens=names)


def _exported_before(folder: Path) -> set[Path]:
    """The files of an earlier export there, which would be taken for parts of the next one."""
    try:
        about = json.loads((folder / COMPANION).read_text(encoding="utf-8"))
        names = [about["weights"], *about["embeddings"].values()]
        return {folder / name for name in names if Path(name).name == name}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def processor_name(parameter: str) -> str:
    """`….attn2.to_k.weight` as diffusers' Custom Diffusion files call it."""
    return re.sub(r"\.attn2\.to_([kv])\.weight$", r".attn2.processor.to_\1_custom_diffusion.weight", parameter)


def foreign_tokens(tokens: Iterable[str]) -> dict[str, str]:
    """The names that the scripts give to these tokens: `V*` and `V1*` are `<new1>`, `V2*` is `<new2>`; others take what is free."""
    names: dict[str, str] = {}
    waiting = []
    for token in tokens:
        match = re.fullmatch(r"V(\d*)\*", token)
        name = f"<new{match[1] or 1}>" if match else token if re.fullmatch(r"<new\d+>", token) else None
        if name is None or name in names.values():
            waiting.append(token)
        else:
            names[token] = name
    for token in waiting:
        names[token] = next(name for number in range(1, len(names) + 2) if (name := f"<new{number}>") not in names.values())
    return {token: names[token] for token in tokens}


def _file_stem(token: str) -> str:
    """Windows has no files with angle brackets in their names."""
    return token.strip("<>") if os.name == "nt" else token


def _safe(tensors: dict[str, Tensor]) -> bytes:
    return bytes(save(tensors, metadata={"format": "pt"}))


def _pickled(tensors: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    torch.save(tensors, content)
    return content.getvalue()
