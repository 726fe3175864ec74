"""Which device and precision a run uses."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cdvideo.errors import UserError, UserNote

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""What glibc's malloc.h calls so."""


@contextmanager
def threads_of(number: int | None) -> Iterator[None]:
    """Within it, a CPU computes with so many threads, or as before where that is None: their number decides how sums are rounded."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def resolve_device(name: str = "auto") -> torch.device:
    """The device of a name: "auto" (CUDA, else Apple's MPS, else the CPU), "cpu", "cuda", "cuda:N" or "mps".

    Of several processes on one machine, each takes its own GPU (LOCAL_RANK, as launchers set it) where none is named by number.

    Raises UserError for any other name and for a device that is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return _cuda(None)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise UserError("there is no MPS device here", cause="MPS is Apple's GPU", remedy="leave --device out, or use --device cpu")
        return torch.device("mps")
    if match := re.fullmatch(r"cuda(?::(\d+))?", name):
        return _cuda(int(match[1]) if match[1] else None)
    raise UserError(f"{name!r} is no device", remedy="choose --device auto, cpu, cuda, cuda:N or mps")


def _cuda(index: int | None) -> torch.device:
    _let_segments_grow()
    if not torch.cuda.is_available():
        cause = "PyTorch sees no GPU; is the driver installed?" if torch.version.cuda else "this PyTorch was built without CUDA"
        raise UserError("there is no CUDA device here", cause=cause, remedy="leave --device out, or use --device cpu")
    count = torch.cuda.device_count()
    if index is not None and index >= count:
        raise UserError(f"there is no cuda:{index}", cause=f"this machine has {count}", remedy=f"choose cuda:0 to cuda:{count - 1}")
    return torch.device("cuda", _own_gpu() if index is None else index)


def _let_segments_grow() -> None:
    """Has PyTorch take a GPU's memory in segments that grow, so that little of it lies between tensors unused.

    Where the user has set it up otherwise, or it is in use already, nothing changes.
    """
    names = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
    if sys.platform == "linux" and not torch.cuda.is_initialized() and not any(name in os.environ for name in names):
        os.environ[names[0]] = "expandable_segments:True"


def _own_gpu() -> int:
    local_rank = os.environ.get("LOCAL_RANK")
    return torch.cuda.current_device() if local_rank is None else int(local_rank) % torch.cuda.device_count()


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The precision of a name: "fp32", "fp16", "bf16", "auto" or "fast".

    "auto" is bf16 on CUDA devices that compute in it, fp16 on other GPUs and fp32 on the CPU. "fast" is the same, but for bf16 on a CPU
    that computes in it. Raises UserError for any other name.
    """
    if name in DTYPES:
        return DTYPES[name]
    if name not in ("auto", "fast"):
        raise UserError(f"{name!r} is no precision", remedy=f"choose --dtype auto, fast, {', '.join(DTYPES)}")
    if name == "fast" and device.type == "cpu":
        return torch.bfloat16 if cpu_computes_in_bf16() else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    return torch.float16 if device.type == "mps" else torch.float32


def cpu_computes_in_bf16() -> bool:
    """Whether the CPU has instructions for bf16."""
    asks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(ask() for ask in asks if ask)


def say_slow_dtype(device: torch.device, dtype: torch.dtype) -> None:
    """Says where a CPU has half precision for its memory alone: oneDNN does not compute in it there, and PyTorch's own loops are slow."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return
    name = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype)
    computes = getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", None) if name else None
    if computes and not computes():
        warnings.warn(f"this processor does not compute in {name}: it takes much longer than fp32, and less memory", UserNote, stacklevel=3)


def keep_freed_memory(device: torch.device) -> None:
    """Lets this process keep what it frees for what it allocates next, where it computes on a CPU under Linux' C library.

    By default that library may give large blocks back and fetch them anew, page by page, at every layer of a UNet.
    Blocks of 32 MiB (the most that it takes) and more still go back.
    """
    if device.type != "cpu":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
