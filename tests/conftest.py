import pytest

from cdvideo import base, motion


@pytest.fixture
def pocket() -> base.Base:
    return base.load("pocket", device="cpu", dtype="fp32")


@pytest.fixture
def pocket_motion(pocket: base.Base) -> motion.MotionModule:
    return motion.load_motion(pocket.preset.default_motion, base_unet=pocket.unet, dtype=pocket.dtype, device=pocket.device)
