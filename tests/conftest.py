import os
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    # Read when Triton is first imported, which diffusers does: its kernels then run on the CPU, in Python.
    os.environ["TRITON_INTERPRET"] = "1"

from cdvideo import base, motion


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
