"""A tiny base for trainings that take a moment: 64-pixel pictures, latents of 8x8, text of 16 tokens."""

import json
from pathlib import Path

import pytest
from PIL import Image

from cdvideo import base, train
from cdvideo.base import Base
from cdvideo.resources import resource
from tests import tiny

VAE_OF_FACTOR_8 = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (4, 4, 8, 8),
}
PHOTO_SIDE = 96


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory) -> Path:
    folder = tiny.pipeline_folder(tmp_path_factory.mktemp("base") / "small")
    tiny.vae(**VAE_OF_FACTOR_8).save_pretrained(folder / "vae")
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "sample_size": 8}))
    return folder


@pytest.fixture
def small(small_folder) -> Base:
    return base.load(str(small_folder), device="cpu", dtype="fp32")


@pytest.fixture(params=["fp32", "bf16"])
def small_in_either(small_folder, request) -> Base:
    """In the precision that trains, and in one whose trained weights are converted for every pass."""
    return base.load(str(small_folder), device="cpu", dtype=request.param)


@pytest.fixture(scope="session")
def pictures() -> dict[str, list[Image.Image]]:
    def some(name: str) -> list[Image.Image]:
        paths = train.find_photos(resource("samples", name))[:3]
        return [train.load_photo(path).resize((PHOTO_SIDE, PHOTO_SIDE)) for path in paths]

    return {"V*": some("bear"), "V1*": some("bear"), "V2*": some("dog")}


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory, pictures) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, picture in enumerate(pictures["V*"]):
        picture.save(folder / f"bear-{number}.png")
    return folder
