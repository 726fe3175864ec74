"""Devices and precisions by name."""

import os
import sys
import warnings

import pytest
import torch

from cdvideo.base import device
from cdvideo.base.device import resolve_device, resolve_dtype
from cdvideo.errors import UserError, UserNote

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda", 0), torch.device("mps")


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_auto_takes_the_gpu_that_is_there(two_gpus):
    assert resolve_device("auto") == resolve_device("cuda") == CUDA
    assert resolve_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch's segments grow under Linux alone")
def test_segments_of_memory_grow_unless_the_user_has_set_them_up(two_gpus, monkeypatch):
    resolve_device("cuda")
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "max_split_size_mb:64", "the user's own"
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF")
    resolve_device("auto")
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"


def test_auto_falls_back_to_the_cpu(no_gpu):
    assert resolve_device("auto") == resolve_device("cpu") == CPU


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "gpu", "cuda:x", ""])
def test_devices_that_are_not_there(no_gpu, name):
    with pytest.raises(UserError) as refused:
        resolve_device(name)
    assert refused.value.remedy


def test_a_gpu_too_many(two_gpus):
    with pytest.raises(UserError, match="cuda:2"):
        resolve_device("cuda:2")


def test_auto_precision(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert resolve_dtype("auto", CUDA) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert resolve_dtype("auto", CUDA) == torch.float16
    assert (resolve_dtype("auto", MPS), resolve_dtype("auto", CPU)) == (torch.float16, torch.float32)
    assert resolve_dtype("bf16", CPU) == torch.bfloat16
    for able, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(device, "cpu_computes_in_bf16", lambda able=able: able)
        assert resolve_dtype("fast", CPU) == dtype
    assert resolve_dtype("fast", MPS) == resolve_dtype("auto", MPS)
    with pytest.raises(UserError, match="fp8"):
        resolve_dtype("fp8", CPU)


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
def test_a_processor_that_does_not_compute_in_half_precision_is_named(monkeypatch, name, dtype):
    for able in (True, False):
        monkeypatch.setattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", lambda able=able: able)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for chosen in (dtype, torch.float32):
                device.say_slow_dtype(CPU, chosen)
            device.say_slow_dtype(CUDA, dtype)
        assert [name in str(one.message) and issubclass(one.category, UserNote) for one in said] == ([] if able else [True])
