"""A base model from its name: what ships with the package, a hub id, a diffusers folder, or a single checkpoint file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cdvideo.base.catalog import BASES, BaseAlias, LoraAlias, MotionAlias, unknown_name
from cdvideo.base.hub import fetch
from cdvideo.base.layout import base_requirements, choose, weight_files
from cdvideo.base.single_file import NOT_WEIGHTS, SD15_FOLDER, shipped_tokenizer, split_checkpoint
from cdvideo.base.weights import State, assemble, digest, read_json, read_tensors
from cdvideo.errors import UserError

__all__ = ["Components", "fingerprint", "load_components", "locate"]

POCKET_FOLDER = Path(__file__).resolve().parents[1] / "pocket" / "weights"
_FILE_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
_DEPRECATED_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


@dataclass
class Components:
    """A base model's parts, frozen and in eval mode. `canonical_id` is what to load it by again."""

    source: str
    canonical_id: str
    tokenizer: Any
    text_encoder: Any
    unet: Any
    vae: Any
    scheduler_config: dict[str, Any]


def load_components(source: str, *, dtype: torch.dtype, device: torch.device, offline: bool = False) -> Components:
    """The base of an alias, a hub id, a diffusers folder, or a single SD1.5 checkpoint, in `dtype` on `device`.

    Nothing is initialised at random, and every tensor is accounted for. Raises UserError naming what cannot be found, read or used.
    """
    canonical_id, path = locate_base(source, half=dtype != torch.float32, offline=offline)
    if path.is_dir():
        return _from_folder(source, canonical_id, path, dtype, device)
    return _from_single_file(source, canonical_id, path, dtype, device)


def locate_base(source: str, *, half: bool, offline: bool = False) -> tuple[str, Path]:
    """(canonical id, local path) of a base; with `half` the hub's fp16 files are preferred. Raises UserError where it cannot be found."""
    return locate(
        source,
        kind="base",
        aliases=BASES,
        shipped=lambda name: POCKET_FOLDER,
        fetch_from_hub=lambda location: fetch(location, base_requirements(half=half), what="base", offline=offline),
    )


def locate(
    source: str,
    *,
    kind: str,
    aliases: Mapping[str, BaseAlias] | Mapping[str, MotionAlias] | Mapping[str, LoraAlias],
    shipped: Callable[[str], Path],
    fetch_from_hub: Callable[[str], Path],
) -> tuple[str, Path]:
    """(canonical id, local path) of a model given by alias, path or hub id; aliases come first, then paths.

    `shipped` gives the folder of an alias that needs no download.
    """
    if alias := aliases.get(source):
        return (alias.location, fetch_from_hub(alias.location)) if alias.location else (source, shipped(source))
    path = Path(source).expanduser()
    if source and path.exists():
        return str(path.resolve()), path
    looks_like_path = source.startswith((".", "/", "~", "\\")) or source.endswith(_FILE_SUFFIXES) or source.count("/") > 1 or "\\" in source
    if source and looks_like_path:
        raise UserError(f"there is no {kind} at {source}", cause=f"looked at {path.absolute()}", remedy="check the path")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        return source, fetch_from_hub(source)
    raise unknown_name(kind, source, aliases)


def _from_folder(source: str, canonical_id: str, folder: Path, dtype: torch.dtype, device: torch.device) -> Components:
    from transformers import CLIPTokenizer

    half = dtype != torch.float32
    _check_folder(folder, half)
    configs = {name: read_json(folder / name / "config.json") for name in ("unet", "vae", "text_encoder")}
    states = {
        name: read_tensors(folder / choose([weight_files(name, half=half)], lambda file: (folder / file).is_file())[0][0])
        for name in configs
    }
    return _components(
        source,
        canonical_id,
        tokenizer=CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True),
        configs=configs,
        states=states,
        scheduler_config=read_json(folder / "scheduler" / "scheduler_config.json"),
        where=str(folder),
        dtype=dtype,
        device=device,
    )


def _check_folder(folder: Path, half: bool) -> None:
    if not (folder / "model_index.json").is_file():
        config = folder / "config.json"
        is_motion = config.is_file() and '"MotionAdapter"' in config.read_text(encoding="utf-8")
        what = "it is a motion module; give it with --motion" if is_motion else "it has no model_index.json"
        raise UserError(
            f"{folder} is no base model", cause=what, remedy="give the folder that holds model_index.json, unet/, vae/ and so on"
        )
    index = read_json(folder / "model_index.json")
    other = next((name for name in ("text_encoder_2", "transformer", "prior") if index.get(name, [None])[0]), None)
    if other:
        raise UserError(f"{folder} is no Stable Diffusion 1.5", cause=f"it is a {index.get('_class_name')} (it has a {other})")
    missing = choose(base_requirements(half=half), lambda file: (folder / file).is_file())[1]
    if missing:
        raise UserError(f"{folder} is incomplete", cause=f"it lacks {', '.join(missing)}", remedy="download or copy it again")


def _from_single_file(
    source: str, canonical_id: str, path: Path, dtype: torch.dtype, device: torch.device, configs: Path = SD15_FOLDER
) -> Components:
    return _components(
        source,
        canonical_id,
        tokenizer=shipped_tokenizer(configs),
        configs={name: read_json(configs / name / "config.json") for name in ("unet", "vae", "text_encoder")},
        states=split_checkpoint(path, configs),
        scheduler_config=read_json(configs / "scheduler" / "scheduler_config.json"),
        where=str(path),
        dtype=dtype,
        device=device,
    )


def _components(
    source: str,
    canonical_id: str,
    *,
    tokenizer: Any,
    configs: dict[str, dict[str, Any]],
    states: dict[str, State],
    scheduler_config: dict[str, Any],
    where: str,
    dtype: torch.dtype,
    device: torch.device,
) -> Components:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    _check_shape(configs, scheduler_config, where)
    build: dict[str, Callable[[], Any]] = {
        "unet": lambda: UNet2DConditionModel.from_config(_without_origin(configs["unet"])),
        "vae": lambda: AutoencoderKL.from_config(_without_origin(configs["vae"])),
        "text_encoder": lambda: CLIPTextModel(CLIPTextConfig.from_dict(_without_origin(configs["text_encoder"]))),
    }
    titles = {"unet": "UNet", "vae": "autoencoder", "text_encoder": "text encoder"}
    states = {"unet": states["unet"], "vae": _modern_vae(states["vae"]), "text_encoder": _modern_text(states["text_encoder"])}
    models = {
        name: assemble(build[name], states.pop(name), what=title, where=where, dtype=dtype, device=device) for name, title in titles.items()
    }
    positions = models["text_encoder"].config.max_position_embeddings
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return Components(source, canonical_id, tokenizer, models["text_encoder"], models["unet"], models["vae"], scheduler_config)


def _without_origin(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in ("_name_or_path", "torch_dtype", "dtype")}


def _check_shape(configs: dict[str, dict[str, Any]], scheduler_config: dict[str, Any], where: str) -> None:
    unet, vae, text = configs["unet"], configs["vae"], configs["text_encoder"]
    problem = None
    if unet.get("_class_name", "UNet2DConditionModel") != "UNet2DConditionModel":
        problem = f"its UNet is a {unet['_class_name']}"
    elif vae.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
        problem = f"its autoencoder is a {vae['_class_name']}"
    elif unet.get("in_channels", 4) != vae.get("latent_channels", 4):
        problem = f"its UNet takes {unet['in_channels']} channels and latents have {vae.get('latent_channels', 4)} (inpainting?)"
    elif unet.get("cross_attention_dim") != text.get("hidden_size"):
        problem = f"its UNet reads text of width {unet.get('cross_attention_dim')}, the text encoder writes {text.get('hidden_size')}"
    elif unet.get("cross_attention_dim") == 1024:
        problem = "it is Stable Diffusion 2"
    elif scheduler_config.get("prediction_type", "epsilon") != "epsilon":
        problem = f"it predicts {scheduler_config['prediction_type']}, not the noise"
    if problem:
        raise UserError(
            f"{where} is not shaped like Stable Diffusion 1.5", cause=problem, remedy="give Stable Diffusion 1.5 or a model tuned from it"
        )


def _modern_text(state: State) -> State:
    """The text encoder's tensors under today's names: transformers 5 dropped the `text_model.` level."""
    return {name.removeprefix("text_model."): value for name, value in state.items() if not name.endswith(NOT_WEIGHTS)}


def _modern_vae(state: State) -> State:
    """The autoencoder's tensors under today's names: its attention was renamed in diffusers 0.18, the hub's files were not."""

    def renamed(name: str) -> str:
        for old, new in _DEPRECATED_ATTENTION.items():
            if ".attentions." in name:
                name = name.replace(old, new)
        return name

    return {renamed(name): value for name, value in state.items()}


def fingerprint(unet: Any, text_encoder: Any) -> str:
    """16 hexadecimal digits that name a base's weights, the same in fp32, fp16 and bf16 and on every device.

    Over the names and shapes of all tensors and the signs of up to 4096 entries of each: signs are what no cast changes, and tuning a model
    flips some. Take it before a concept is injected.
    """
    state = {f"unet.{name}": value for name, value in unet.state_dict().items()}
    text = text_encoder.state_dict()
    state.update({f"text_encoder.{name.removeprefix('text_model.')}": value for name, value in text.items()})
    return digest(state, lambda value: torch.signbit(value).to(torch.uint8))
