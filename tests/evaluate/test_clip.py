"""CLIP as a measure: against transformers' own processor and model, on a small random CLIP in the hub's layout."""

import json

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from cdvideo.errors import UserError
from cdvideo.evaluate.clip import POCKET_WEIGHTS, Clip, clip_of, fetch_clip
from tests.base.test_loading import cache

SETTINGS = {
    "crop_size": 32,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 32,
}
TEXTS = ["a photo of a bear", "a bear on the beach", "a bear"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def folder(hub, tmp_path):
    """OpenAI's ViT-L/14 as the hub's cache holds it, but for the size of its towers."""
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 16}
    tokenizer = CLIPTokenizer.from_pretrained(POCKET_WEIGHTS / "tokenizer")
    text = {**tower, "vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
    text |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    config = CLIPConfig(text_config=text, vision_config={**tower, "image_size": 32, "patch_size": 8}, projection_dim=16)
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    (tmp_path / "clip/preprocessor_config.json").write_text(json.dumps(SETTINGS))
    cache(hub, "openai/clip-vit-large-patch14", tmp_path / "clip")
    return next(hub.glob("*/snapshots/*"))


def test_features_are_those_of_transformers_own_processor(folder):
    clip = clip_of("sd15")
    assert clip is not None
    # Smooth pictures: the processor rounds after it has scaled, which shows only in noise.
    side = np.linspace(0, 255, 96)
    pictures = np.stack([np.stack(np.broadcast_arrays(side[:, None], side[None], level), -1) for level in (30, 90, 220)]).astype(np.uint8)
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPImageProcessor.from_pretrained(folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    inputs = processor(images=[Image.fromarray(one) for one in pictures], return_tensors="pt")
    words = tokenizer(TEXTS, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        both = model(input_ids=words.input_ids, pixel_values=inputs.pixel_values)
    assert torch.allclose(clip.images(pictures), both.image_embeds, atol=1e-4)
    assert torch.allclose(clip.texts(TEXTS), both.text_embeds, atol=1e-5)
    expected = (both.image_embeds * both.text_embeds).sum(-1).mean()
    assert clip.alignment(pictures, TEXTS) == pytest.approx(float(expected), abs=1e-4)
    assert clip.likeness(pictures, clip.images(pictures[:1])) == pytest.approx(clip.likeness(pictures, pictures[:1]), abs=1e-6)
    assert clip.name != Clip().name and clip.name == Clip(folder).name


def test_a_clip_is_asked_for_only_where_it_is_not_there(folder, monkeypatch):
    monkeypatch.setattr("cdvideo.base.hub._download", lambda *_, **__: pytest.fail("the hub was asked"))
    fetch_clip("sd15")
    fetch_clip("pocket")
    (folder / "preprocessor_config.json").unlink()
    assert clip_of("sd15") is None, "half a model is none"
    with pytest.raises(UserError, match="the CLIP that judges pictures openai/clip-vit-large-patch14 is not on this machine"):
        fetch_clip("sd15", offline=True)


@pytest.mark.usefixtures("hub")
def test_without_a_clip_there_is_none():
    assert clip_of("sd15") is None
