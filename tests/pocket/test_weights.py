"""What ships: real classes, fp16, small, and really trained."""

import struct
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNetMotionModel
from PIL import Image
from transformers import CLIPTextModel

import cdvideo.pocket
from cdvideo.animate import Studio
from cdvideo.pocket.judge import Judge
from cdvideo.resources import resource
from cdvideo.train import find_photos, load_photo

WEIGHTS = [*(Path(cdvideo.pocket.__file__).parent / "weights").rglob("*.safetensors"), *resource("motion_modules").rglob("*.safetensors")]


def test_everything_together_is_at_most_100_megabytes_in_fp16():
    assert {path.parent.name for path in WEIGHTS} >= {"vae", "text_encoder", "unet", "pocket", "judge"}
    assert sum(path.stat().st_size for path in WEIGHTS) < 100e6
    for path in WEIGHTS:
        content = path.read_bytes()
        header = content[8 : 8 + struct.unpack("<Q", content[:8])[0]]
        assert b'"F16"' in header and b'"F32"' not in header


def test_the_classes_are_stable_diffusions(pocket, pocket_motion):
    assert type(pocket.unet) is UNet2DConditionModel
    assert type(pocket.vae) is AutoencoderKL
    assert type(pocket.text_encoder) is CLIPTextModel
    with Studio(pocket, [], pocket_motion) as studio:
        assert isinstance(studio._motion_unet, UNetMotionModel)


def test_the_autoencoder_restores_a_picture_it_has_never_seen(pocket):
    photo = load_photo(find_photos(resource("samples", "bear"))[0]).resize((128, 128), Image.Resampling.LANCZOS)
    pixels = torch.tensor(list(photo.get_flattened_data())).view(128, 128, 3).permute(2, 0, 1)[None] / 127.5 - 1
    restored = pocket.decode(pocket.moments(pixels)[0]).permute(0, 3, 1, 2) / 127.5 - 1
    psnr = 10 * torch.log10(4 / (restored - pixels).pow(2).mean())
    assert psnr > 23


def test_latents_have_unit_deviation(pocket):
    photos = [load_photo(path).resize((128, 128)) for path in find_photos(resource("samples", "bear"))]
    pixels = torch.stack(
        [torch.tensor(list(photo.get_flattened_data())).view(128, 128, 3).permute(2, 0, 1) / 127.5 - 1 for photo in photos]
    )
    assert 0.5 < pocket.moments(pixels)[0].std() < 1.6


@pytest.mark.parametrize(("near", "far"), [("a photo of a happy bear", "a photo of a dog"), ("a picture of a bear", "a photo of a frog")])
def test_the_text_encoder_keeps_a_class_together(pocket, near, far):
    with torch.no_grad():
        bear, close, other = pocket.text_features(["a photo of a bear", near, far])
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(bear, close, dim=0) > cosine(bear, other, dim=0) + 0.1


@pytest.mark.parametrize(
    ("prompt", "motion"), [("a bear walking to the left on the beach", "left"), ("a car moving to the right", "right")]
)
def test_subjects_walk_where_the_prompt_says(pocket, pocket_motion, prompt, motion):
    with Studio(pocket, [], pocket_motion) as studio:
        clip = studio.clip(prompt, num_inference_steps=25, seed=1)
    assert Judge.load().motion(clip.frames) == motion
