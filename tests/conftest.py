import multiprocessing
import os
from collections.abc import Iterator

import pytest

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    # Read when torch is first imported, here and by what tests start: as many threads altogether as there are cores.
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))

import torch

if not torch.cuda.is_available():
    # Read when Triton is first imported, which diffusers does: its kernels then run on the CPU, in Python.
    os.environ["TRITON_INTERPRET"] = "1"

from cdvideo import base, motion

multiprocessing.set_forkserver_preload(["tests.train.children", "cdvideo.pocket.recipes.camera", "cdvideo.pocket.recipes.motion"])


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch computes in one thread, and so adds up a batch's parts in the same order whatever their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pocket() -> base.Base:
    return base.load("pocket", device="cpu", dtype="fp32")


@pytest.fixture
def pocket_motion(pocket: base.Base) -> motion.MotionModule:
    return motion.load_motion(pocket.preset.default_motion, base_unet=pocket.unet, dtype=pocket.dtype, device=pocket.device)
