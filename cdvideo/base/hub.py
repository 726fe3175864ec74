"""Models from the Hugging Face hub: what is cached here, and fetching what is not. Imports no torch.

The cache comes first: a model that lies there completely is used without asking the network whether a newer one exists.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdvideo.base.catalog import BASES, MOTIONS, BaseAlias, MotionAlias
from cdvideo.base.layout import Requirement, choose
from cdvideo.errors import UserError

TIMEOUT_SECONDS = 8.0


@dataclass(frozen=True, kw_only=True)
class CachedModel:
    """A model in the local hub cache. `kind` is "base", "motion" or "other"; `alias` and `licence` are known for the catalog's models."""

    location: str
    kind: str
    alias: str | None
    licence: str | None
    size_bytes: int
    path: Path


def cached_models() -> list[CachedModel]:
    """What lies in the local hub cache, by name."""
    from huggingface_hub import constants

    aliases: list[BaseAlias | MotionAlias] = [*BASES.values(), *MOTIONS.values()]
    known = {alias.location: alias for alias in aliases if alias.location}
    models = []
    for folder in sorted(Path(constants.HF_HUB_CACHE).glob("models--*")):
        location = folder.name.removeprefix("models--").replace("--", "/", 1)
        size = _size_on_disk(folder)
        if not size:
            continue
        alias = known.get(location)
        models.append(
            CachedModel(
                location=location,
                kind=_kind(folder),
                alias=alias.name if alias else None,
                licence=alias.licence if alias else None,
                size_bytes=size,
                path=folder,
            )
        )
    return models


def _kind(folder: Path) -> str:
    for index in folder.glob("snapshots/*/model_index.json"):
        return "base" if '"unet"' in index.read_text(encoding="utf-8") else "other"
    for config in folder.glob("snapshots/*/config.json"):
        return "motion" if '"MotionAdapter"' in config.read_text(encoding="utf-8") else "other"
    return "other"


def _size_on_disk(folder: Path) -> int:
    sizes: dict[tuple[int, int], int] = {}
    for where, _, names in os.walk(folder):
        for name in names:
            stat = os.stat(os.path.join(where, name), follow_symlinks=False)
            if not os.path.islink(os.path.join(where, name)):
                sizes[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(sizes.values())


def fetch(location: str, requirements: Sequence[Requirement], *, what: str, offline: bool = False) -> Path:
    """The local folder of a hub model that meets the requirements, downloaded if it is not cached. `what` names its kind to the user.

    Raises UserError where it is not cached and cannot be fetched; an unreachable hub is noticed within seconds.
    """
    from huggingface_hub import constants

    cached = cached_folder(location)
    if cached is not None and not choose(requirements, lambda name: (cached / name).is_file())[1]:
        return cached
    looked = f"looked in the cache {constants.HF_HUB_CACHE}"
    if offline or constants.HF_HUB_OFFLINE:
        cause = f"{looked}, and the hub may not be asked ({'--offline' if offline else 'HF_HUB_OFFLINE is set'})"
        raise UserError(f"the {what} {location} is not on this machine", cause=cause, remedy=how_to_supply(location, requirements))
    return _download(location, requirements, what=what, looked=looked)


def cached_folder(location: str) -> Path | None:
    """The folder of a hub model's newest snapshot in the local cache, complete or not."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(str(snapshot_download(location, local_files_only=True)))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise UserError(
            f"{location!r} is no hub id", cause=str(error).splitlines()[0], remedy="hub ids have the form owner/name"
        ) from error


def _download(location: str, requirements: Sequence[Requirement], *, what: str, looked: str) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    from huggingface_hub.errors import HTTPError as ConnectionFailure  # type: ignore[attr-defined]

    remedy = how_to_supply(location, requirements)
    try:
        info = HfApi().model_info(location, timeout=TIMEOUT_SECONDS)
        siblings = {sibling.rfilename for sibling in info.siblings or ()}
        files, missing = choose(requirements, siblings.__contains__)
        if missing:
            raise UserError(
                f"{location} on the hub is no {what} that can be used here",
                cause=f"it lacks {', '.join(missing)}",
                remedy="give another hub id, a folder in diffusers' layout, or a checkpoint file",
            )
        return Path(snapshot_download(location, allow_patterns=files, etag_timeout=TIMEOUT_SECONDS))
    except GatedRepoError as error:
        raise UserError(
            f"the {what} {location} asks for its licence to be accepted",
            cause=f"{looked}, then asked {constants.ENDPOINT}",
            remedy=f"accept it on {constants.ENDPOINT}/{location}, then run: hf auth login",
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"there is no {what} {location} on the hub",
            cause=f"{looked} and on {constants.ENDPOINT}; a private one looks the same",
            remedy="check the spelling, or run: hf auth login",
        ) from error
    except (ConnectionFailure, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"cannot fetch the {what} {location}", cause=f"{looked}, then asked {constants.ENDPOINT}: {reason}", remedy=remedy
        ) from error


def how_to_supply(location: str, requirements: Sequence[Requirement]) -> str:
    """How a user brings a hub model to a machine that cannot reach the hub."""
    files = [name for alternatives in requirements for name in alternatives[0]]
    folder = location.rpartition("/")[2]
    return (
        f"on a machine with a network run\n         hf download {location} {' '.join(files)} --local-dir {folder}\n"
        f"       and give the folder here; or give a checkpoint file (.safetensors) instead"
    )
