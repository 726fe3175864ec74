"""Tiny, real, deterministic components shaped like Stable Diffusion 1.5 and AnimateDiff, built in well under a second.

Every builder returns a genuine transformers or diffusers object with seeded weights, float32, in eval mode and without
gradients. The same seed gives the same weights. The sizes: pictures of 32x32 px (latents 16x16, the autoencoder halves once),
text of 16 tokens, width 32, a UNet of two levels (16 and 32 channels, 8 groups, 4 heads), motion tables of 16 frames.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, MotionAdapter, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WORDS = ("photo", "of", "bear", "dog", "cat", "teddy", "ktn", "reading", "book", "an", "on", "the", "in", "snow", "beach", "bad", "quality")
NUM_TOKENS = 16
TEXT_WIDTH = 32
UNET_CONFIG: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
VAE_CONFIG: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": 32,
}
MOTION_CONFIG: dict[str, Any] = {
    "block_out_channels": (16, 32),
    "motion_layers_per_block": 1,
    "motion_num_attention_heads": 4,
    "motion_norm_num_groups": 8,
    "motion_max_seq_length": 16,
    "use_motion_mid_block": True,
}


def finished(module: nn.Module, seed: int) -> None:
    """Give every parameter seeded values that are neither zero nor one (constant initialisations hide mistakes), and freeze it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(0.1 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
            else:
                parameter.copy_(noise * (1.0 / parameter[0].numel()) ** 0.5)
    module.eval().requires_grad_(False)


def tokenizer(words: tuple[str, ...] = WORDS, model_max_length: int = NUM_TOKENS) -> CLIPTokenizer:
    """A byte-level BPE tokenizer of CLIP's kind: `words` (and single letters) are one token, anything else splits into letters."""
    symbols = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
    vocabulary = [*symbols, *(symbol + "</w>" for symbol in symbols)]
    merges: list[tuple[str, str]] = []
    for word in words:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            pieces[:2] = ["".join(pair)]
            if pair not in merges:
                merges.append(pair)
                vocabulary.append("".join(pair))
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(vocabulary)}, merges=merges, model_max_length=model_max_length)


def text_encoder(seed: int = 0, vocab_size: int | None = None, **overrides: Any) -> CLIPTextModel:
    """A two-layer CLIP text encoder whose config says `eos_token_id=2`, as Stable Diffusion 1.5's does."""
    config: dict[str, Any] = {
        "vocab_size": vocab_size or len(tokenizer()),
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": NUM_TOKENS,
        "projection_dim": TEXT_WIDTH,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    model = CLIPTextModel(CLIPTextConfig(**{**config, **overrides}))
    finished(model, seed + 1)
    return model


def unet(seed: int = 0, **overrides: Any) -> UNet2DConditionModel:
    """A two-level UNet with cross-attention at the upper level and in the middle."""
    model = UNet2DConditionModel(**{**UNET_CONFIG, **overrides})
    finished(model, seed + 2)
    return model


def vae(seed: int = 0, **overrides: Any) -> AutoencoderKL:
    """A two-level autoencoder: one halving, 4 latent channels."""
    model = AutoencoderKL(**{**VAE_CONFIG, **overrides})
    finished(model, seed + 3)
    return model


def motion_adapter(seed: int = 0, **overrides: Any) -> MotionAdapter:
    """A motion module for `unet()`, with a middle block (as v2) and a position table of 16 frames."""
    model = MotionAdapter(**{**MOTION_CONFIG, **overrides})
    finished(model, seed + 4)
    return model


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's training schedule."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )


def pipeline_folder(folder: Path, seed: int = 0) -> Path:
    """Write all components to `folder` in diffusers' layout and return it."""
    index = {
        "_class_name": "StableDiffusionPipeline",
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    tokenizer().save_pretrained(folder / "tokenizer")
    text_encoder(seed).save_pretrained(folder / "text_encoder")
    unet(seed).save_pretrained(folder / "unet")
    vae(seed).save_pretrained(folder / "vae")
    scheduler().save_pretrained(folder / "scheduler")
    return folder
