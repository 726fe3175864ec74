"""Tensors out of files, and into models built without initialising anything."""

from __future__ import annotations

import hashlib
import json
import pickle
import shlex
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cdvideo.errors import UserError, first_line

State = dict[str, Tensor]
Module = TypeVar("Module", bound=nn.Module)

SAMPLES_PER_TENSOR = 4096
_CHUNKS = 8


def read_tensors(path: Path) -> State:
    """Every tensor of a .safetensors, .ckpt, .pt or .bin file, on the CPU, as stored; a wrapping `state_dict` is opened.

    The content decides how it is read, not the suffix. Pickles are read with `weights_only=True` alone. Raises UserError for what cannot be
    read: no such file, truncated, no checkpoint, or a pickle that would run code.
    """
    head = _head(path)
    if head[8:9] == b"{":
        return _read_safetensors(path)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return _read_pickle(path)
    if not head:
        reason = "the file is empty"
    elif head.startswith(b"version https://git-lfs"):
        reason = "it is a Git LFS pointer, not the file itself; run: git lfs pull"
    elif head.lstrip().startswith(b"<"):
        reason = "it is a web page; the download went wrong"
    else:
        reason = "it is neither safetensors nor a PyTorch checkpoint"
    raise UserError(f"{path} is no checkpoint", cause=reason, remedy="give a .safetensors or .ckpt file, or download it again")


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError as error:
        raise UserError(f"cannot read {path}", cause=error.strerror or str(error)) from error


def _read_safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(
            f"{path} is a damaged safetensors file", cause=f"{error}; most often it was cut short", remedy="download or copy it again"
        ) from error


def _read_pickle(path: Path) -> State:
    try:
        loaded = _unpickled(path)
    except pickle.UnpicklingError as error:
        source, target = str(path), str(path.with_suffix(".safetensors"))
        convert = (
            "import sys, torch, safetensors.torch as s; d = torch.load(sys.argv[1], map_location='cpu', weights_only=False); "
            "d = d.get('state_dict', d); "
            "s.save_file({k: v.clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}, sys.argv[2])"
        )
        raise UserError(
            f"{path} holds more than weights and is not opened",
            cause=f"a pickle can run any program when it is read ({first_line(error)[:200]})",
            remedy=f"if you trust where it came from, convert it once:\n"
            f'         python -c "{convert}" {shlex.quote(source)} {shlex.quote(target)}',
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise UserError(
            f"{path} is a damaged checkpoint",
            cause=f"{first_line(error)[:200]}; most often it was cut short",
            remedy="download or copy it again",
        ) from error
    while isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping):
        raise UserError(f"{path} is no checkpoint", cause=f"it holds a {type(loaded).__name__}, not named tensors")
    return {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}


def _unpickled(path: Path) -> Any:
    if path.suffix == ".safetensors":  # torch would believe the suffix
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=_head(path)[:2] == b"PK")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises UserError naming the file where it cannot be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}", cause=str(error)) from error
    if not isinstance(values, dict):
        raise UserError(f"cannot read {path}", cause="it holds no JSON object")
    return values


def assemble(
    build: Callable[[], Module], state: Mapping[str, Tensor], *, what: str, where: str, dtype: torch.dtype, device: torch.device
) -> Module:
    """The module that `build` makes, holding exactly `state`, frozen and in eval mode.

    It is built on the meta device, so nothing is initialised. Raises UserError naming the first tensors that are missing, left over or of
    another shape; `what` names the component and `where` the file for the message.
    """
    with torch.device("meta"):
        module = build()
    check_same(module.state_dict(), state, what=what, where=where)
    module.load_state_dict({name: converted(value, dtype, device) for name, value in state.items()}, strict=True, assign=True)
    return settled(module, device)


def converted(value: Tensor, dtype: torch.dtype | None, device: torch.device | None) -> Tensor:
    """The tensor on a device; floating-point tensors in `dtype` as well. The tensor itself where nothing changes."""
    return value.to(device=device, dtype=dtype if value.is_floating_point() else None)


def settled(module: Module, device: torch.device) -> Module:
    """The module frozen and in eval mode, its position buffers, which no file holds, filled in."""
    for name, buffer in list(module.named_buffers()):
        if buffer.is_meta:
            if not name.endswith("position_ids"):
                raise RuntimeError(f"the buffer {name} is in no file")
            owner = module.get_submodule(name.rpartition(".")[0])
            positions = torch.arange(buffer.shape[-1], device=device).expand(buffer.shape)
            owner.register_buffer("position_ids", positions, persistent=False)
    return module.eval().requires_grad_(False)


def check_same(own: Mapping[str, Tensor], state: Mapping[str, Tensor], *, what: str, where: str) -> None:
    """Raises UserError where the names or shapes of `state` are not those of `own`."""
    missing = [name for name in own if name not in state]
    extra = [name for name in state if name not in own]
    if missing or extra:
        parts = [f"lacks {listed(missing)}"] * bool(missing) + [f"has {listed(extra)} left over"] * bool(extra)
        raise UserError(f"{where} does not hold the {what} that was expected", cause=f"it {' and '.join(parts)}")
    for name, value in state.items():
        if value.shape != own[name].shape:
            shapes = f"{tuple(value.shape)} in the file, {tuple(own[name].shape)} in the model"
            raise UserError(f"{where} does not hold the {what} that was expected", cause=f"{name} is {shapes}")


def listed(names: Iterable[str], limit: int = 3) -> str:
    """The first names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(every[:limit]) + more


def sample(value: Tensor) -> Tensor:
    """Up to SAMPLES_PER_TENSOR entries, 1-D: all of a small tensor, evenly spread runs of a large one."""
    flat = value.detach().reshape(-1)
    if flat.numel() <= SAMPLES_PER_TENSOR:
        return flat
    run = SAMPLES_PER_TENSOR // _CHUNKS
    last = flat.numel() - run
    return torch.cat([flat[(start := last * i // (_CHUNKS - 1)) : start + run] for i in range(_CHUNKS)])


def digest(state: Mapping[str, Tensor], reduce: Callable[[Tensor], Tensor]) -> str:
    """16 hexadecimal digits over the names, the shapes and `reduce(sample)` (uint8) of every tensor."""
    names = sorted(state)
    header = json.dumps([[name, list(state[name].shape)] for name in names])
    reduced = [reduce(sample(state[name])) for name in names]
    content = torch.cat(reduced).cpu().numpy().tobytes() if reduced else b""
    return hashlib.sha256(header.encode() + content).hexdigest()[:16]


def lay_together(state: MutableMapping[str, Tensor]) -> None:
    """Has matrices of queries, keys and values lie one behind the other, where an attention's are of one shape: one product gives all."""
    for name in [name for name in state if name.endswith(".to_q.weight")]:
        names = [name, *(name.replace(".to_q.", f".{other}.") for other in ("to_k", "to_v"))]
        if len({state[one].shape if one in state else None for one in names}) == 1:
            state.update(zip(names, torch.cat([state[one] for one in names]).chunk(3), strict=True))


def lay_weights_together(model: nn.Module) -> None:
    """`lay_together` of a model's own weights."""
    parameters = dict(model.named_parameters())
    state = {name: value.detach() for name, value in parameters.items()}
    lay_together(state)
    for name, value in state.items():
        if value.data_ptr() != parameters[name].data_ptr():
            parameters[name].data = value
