"""A training's state on disk: whole or not at all, and enough to go on bit for bit."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from cdvideo.errors import UserError
from cdvideo.files import replace_files


def checkpoint_path(out: Path) -> Path:
    """Where the training that will write `out` keeps its checkpoint."""
    return out.with_suffix(".checkpoint")


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    replace_files(path, [(path, lambda file: torch.save(state, file))])


def check_resumable(path: Path) -> None:
    """Raises UserError where there is no checkpoint."""
    if not path.exists():
        raise UserError(f"nothing to resume: no checkpoint {path}", remedy="train without --resume, or name the same --out as before")


def load_checkpoint(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The state in a checkpoint. Raises UserError where it is missing, damaged, or of a training with other settings."""
    check_resumable(path)
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        saved = state["settings"]
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise UserError(f"the checkpoint {path} is damaged", cause=str(error), remedy="train without --resume") from error
    for name, value in settings.items():
        if saved.get(name) != value:
            raise UserError(
                f"the checkpoint {path} is of another training: {name} was {saved.get(name)!r} and is {value!r} now",
                remedy=f"give the same {name} as before, or train without --resume",
            )
    return state
