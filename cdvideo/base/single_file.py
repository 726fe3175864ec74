"""A Stable Diffusion 1.5 checkpoint in the original layout (one .safetensors or .ckpt), taken apart into diffusers' components.

The file needs nothing else: the components' configurations and CLIP's vocabulary ship in `sd15/`.
"""

from __future__ import annotations

import gzip
from functools import lru_cache
from pathlib import Path
from typing import Any

from cdvideo.base import recognise
from cdvideo.base.weights import State, listed, read_json, read_tensors
from cdvideo.errors import UserError

SD15_FOLDER = Path(__file__).resolve().parent / "sd15"
_VOCABULARY = "tokenizer/bpe_simple_vocab_16e6.txt.gz"
_NUM_MERGES = 49408 - 2 * 256 - 2
UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
_COMPONENTS = {UNET: "UNet", VAE: "autoencoder", TEXT: "text encoder"}
NOT_WEIGHTS = ("position_ids", "logit_scale", "text_projection", "text_projection.weight")
"""Entries of text encoders that saving programs leave in and SD1.5 does not use."""


def split_checkpoint(path: Path, configs: Path = SD15_FOLDER) -> dict[str, State]:
    """The diffusers-named tensors of "unet", "vae" and "text_encoder" in an original-layout file; `configs` holds their configurations.

    Raises UserError that says what the file is where it is no SD1.x checkpoint, and names the tensors that no component takes.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    state = read_tensors(path)
    unet_config, vae_config = (read_json(configs / name / "config.json") for name in ("unet", "vae"))
    _check_kind(path, state, unet_config)
    parts = {prefix: {name: value for name, value in state.items() if name.startswith(prefix)} for prefix in _COMPONENTS}
    for prefix, tensors in parts.items():
        if not tensors:
            raise UserError(
                f"{path} lacks the {_COMPONENTS[prefix]}",
                cause=f"no tensor's name starts with {prefix}",
                remedy="give a complete checkpoint, or a folder in diffusers' layout",
            )
    parts[VAE] = {name: value for name, value in parts[VAE].items() if not name.startswith((f"{VAE}loss.", f"{VAE}model_ema."))}
    components = {
        "unet": dict(convert_ldm_unet_checkpoint(parts[UNET], unet_config)),
        "vae": dict(convert_ldm_vae_checkpoint(parts[VAE], vae_config)),
        "text_encoder": {name.removeprefix(TEXT): value for name, value in parts[TEXT].items()},
    }
    _check_all_taken(path, parts[UNET], components["unet"])
    _check_all_taken(path, parts[VAE], components["vae"])
    return components


def _check_kind(path: Path, state: State, unet_config: dict[str, Any]) -> None:
    kind = recognise.describe({name: tuple(value.shape) for name, value in state.items()}, text_width=unet_config["cross_attention_dim"])
    if kind == recognise.SD15:
        return
    remedies = {
        recognise.MOTION: "give it with --motion",
        "a cdvideo concept": "give it with --concept",
        "a UNet in diffusers' layout, without the rest of the model": "give the folder that holds model_index.json",
    }
    raise UserError(
        f"{path} is no Stable Diffusion 1.5 checkpoint",
        cause=f"it is {recognise.with_article(kind)}",
        remedy=remedies.get(kind, "give a checkpoint of Stable Diffusion 1.5 or of a model tuned from it"),
    )


def _check_all_taken(path: Path, source: State, taken: State) -> None:
    """The converter passes over what it does not know; a tensor it took keeps its memory."""
    addresses = {value.data_ptr() for value in taken.values()}
    left = [name for name, value in source.items() if value.data_ptr() not in addresses]
    if left:
        raise UserError(f"{path} holds tensors that Stable Diffusion 1.5 has not", cause=listed(left))


def shipped_tokenizer(configs: Path = SD15_FOLDER) -> Any:
    """CLIP's tokenizer: built from OpenAI's vocabulary, or loaded where `configs` holds a saved one."""
    from transformers import CLIPTokenizer

    if not (configs / _VOCABULARY).is_file():
        return CLIPTokenizer.from_pretrained(str(configs / "tokenizer"), local_files_only=True)
    merges = _merges(configs / _VOCABULARY)
    symbols = _byte_symbols()
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges, model_max_length=77)


@lru_cache(maxsize=1)
def _merges(path: Path) -> list[tuple[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        next(file)
        pairs = [next(file).split() for _ in range(_NUM_MERGES)]
    return [(first, second) for first, second in pairs]


def _byte_symbols() -> list[str]:
    """A printable character for each byte, in byte-level BPE's order: the printable bytes stand for themselves and come first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(code) for code in (*printable, *range(0x100, 0x200 - len(printable)))]
