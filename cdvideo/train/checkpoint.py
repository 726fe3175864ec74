"""A training's state on disk: whole or not at all, and enough to go on bit for bit."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from cdvideo.errors import UserError, first_line
from cdvideo.files import replace_files

_OPTIONS = {
    "cached_views": "--cache-latents",
    "class_words": "--class",
    "tokens": "--token",
    **{name: f"--{name.replace('_', '-')}" for name in ("method", "steps", "learning_rate", "spl_weight", "spl_mode", "prior_weight")},
    **{name: f"--{name}" for name in ("optimizer", "seed", "dtype")},
}
"""What a user calls the settings."""


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
    except (RuntimeError, EOFError, KeyError, TypeError, ValueError, IndexError, pickle.UnpicklingError) as error:
        cause = "it is no checkpoint of a training" if isinstance(error, (KeyError, TypeError, IndexError)) else first_line(error)
        raise UserError(f"the checkpoint {path} is damaged", cause=cause, remedy="begin anew with --overwrite") from error
    changed = [name for name, value in settings.items() if saved.get(name) != value]
    if changed:
        raise UserError(
            f"the checkpoint {path} is of another training",
            cause="; ".join(_change(name, saved.get(name), settings[name]) for name in changed),
            remedy="give the same as before, or begin anew with --overwrite",
        )
    return state


def _change(name: str, then: Any, now: Any) -> str:
    if name.startswith("content"):
        return f"the {name} is another"
    return f"{_OPTIONS.get(name, name.replace('_', ' '))} was {then!r} and is {now!r} now"
