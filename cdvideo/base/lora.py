"""LoRAs for the image model: low-rank changes to a base's UNet and text encoder, in the files of kohya's scripts, diffusers and peft.

Layers have the names of the base's own: `unet.` or `text_encoder.`, then diffusers' or transformers' name (without `text_model.`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cdvideo.base import recognise
from cdvideo.base.catalog import LORAS
from cdvideo.base.hub import fetch
from cdvideo.base.layout import Requirement, choose, image_lora_requirements
from cdvideo.base.loading import locate
from cdvideo.base.low_rank import LowRank, LowRankInjection, adapter_settings, low_rank_changes
from cdvideo.base.weights import State, digest, read_tensors
from cdvideo.concept import Concept, fits
from cdvideo.errors import UserError
from cdvideo.strengths import split_strength

if TYPE_CHECKING:
    from cdvideo.base.model import Base

_MODELS = {"unet.": ("unet.", "lora_unet_"), "text_encoder.": ("text_encoder.", "lora_te_")}
_OLD_TEXT_NAMES = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
"""diffusers called the text encoder's matrices as the UNet's before version 0.22."""

_OTHER_METHODS = (
    ("hada_", "a LoHa"),
    ("lokr_", "a LoKr"),
    ("dora_scale", "a DoRA"),
    ("lora_magnitude_vector", "a DoRA"),
    ("lora_mid.", "a LoCon with a Tucker decomposition"),
    ("oft_", "an OFT"),
)
_WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2", 1280: "Stable Diffusion XL", 2048: "Stable Diffusion XL"}
_OF_SDXL = ("lora_te1_", "lora_te2_", "text_encoder_2.", "lora_unet_label_emb", "lora_unet_input_blocks_", "unet.add_embedding.")


@dataclass(frozen=True, kw_only=True)
class ImageLora:
    """Changes to layers of a base. `digest` is over the tensors as they lie in the file."""

    source: str
    layers: Mapping[str, LowRank]
    digest: str


WeightedImageLora = tuple[ImageLora, float]
"""A LoRA and its strength; 1 is what it was trained for, 0 leaves the base as it is."""


class ImageLoraInjection(LowRankInjection):
    """LoRAs inside a base, which is bit-identical to before once they are ejected. Several add up. They go in before a concept does."""

    def __init__(self, base: Base, loras: Sequence[WeightedImageLora]) -> None:
        """Raises UserError, before anything is changed, where one does not fit the base."""
        weights = layer_weights(base)
        for lora, _ in loras:
            _check_fits(lora, weights, base.id)
        # The base keeps it from here on: concepts are recognised by the weights without LoRAs.
        self.base_fingerprint = base.fingerprint
        super().__init__(weights, [(lora.layers, strength) for lora, strength in loras])

    def beneath(self, concept: Concept) -> Concept:
        """The concept with the LoRAs' changes added to its tuned weights: without it they would be lost where it replaces the base's."""
        tuned = dict(concept.tuned)
        for name, value in concept.tuned.items():
            layer = f"unet.{name.removesuffix('.weight')}"
            original = self.originals.get(layer)
            # One that does not fit the base is left for the injection to refuse.
            if name.endswith(".weight") and original is not None and fits(value, original):
                tuned[name] = value.to(original.float()) + (self.weights[layer].detach().float() - original.float())
        return replace(concept, tuned=tuned)


def layer_weights(base: Base) -> dict[str, Tensor]:
    """The weights of every layer that a LoRA may change, linear (O, I) and convolutional (O, I, *K), in the base's own memory."""
    return {
        f"{model}.{name.removeprefix('text_model.')}": layer.weight
        for model, network in (("unet", base.unet), ("text_encoder", base.text_encoder))
        for name, layer in network.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    }


def kohya_name(layer: str) -> str:
    """kohya's name of a layer: `lora_unet_` or `lora_te_text_model_`, and its name in the network with every dot an underscore."""
    network, _, name = layer.partition(".")
    prefix = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}[network]
    return prefix + name.replace(".", "_")


def parse_lora(text: str) -> tuple[str, float]:
    """(source, strength) from "style.safetensors" or "style.safetensors:0.7". Raises UserError for a strength that is no finite number."""
    return split_strength(text, what="a LoRA", example="style.safetensors:0.7")


def load_lora(source: str, *, base: Base, offline: bool = False) -> ImageLora:
    """The LoRA of an alias, a file, a diffusers folder or a hub id, which fits the base.

    Raises UserError where it cannot be found or read, is something else or another method's (and says what), or fits another base.
    """
    file = locate_lora(source, offline=offline)
    state = read_tensors(file)
    _check_kind(source, state)
    weights = layer_weights(base)
    settings = {prefix: adapter_settings(file, prefix) for prefix in _MODELS}
    lora = ImageLora(
        source=source,
        layers=_changes(state, source, weights, settings),
        digest=digest(state, lambda value: value.float().contiguous().view(torch.uint8)),
    )
    _check_fits(lora, weights, base.id, _made_for(state))
    return lora


def together(first: Sequence[WeightedImageLora], second: Sequence[WeightedImageLora]) -> list[WeightedImageLora]:
    """The LoRAs of both; of one that is in both, at the strength of the second."""
    strengths = {lora.digest: (lora, strength) for lora, strength in (*first, *second)}
    return list(strengths.values())


def describe_loras(loras: Sequence[WeightedImageLora]) -> list[dict[str, Any]]:
    """What a record says of LoRAs."""
    return [{"file": lora.source, "digest": lora.digest, "strength": strength} for lora, strength in loras]


def locate_lora(source: str, *, offline: bool = False) -> Path:
    """The file of a LoRA's alias, file, folder or hub id. Raises UserError where there is none."""
    alias = LORAS.get(source)
    requirements: Sequence[Requirement] = [[(alias.file,)]] if alias else image_lora_requirements()
    _, path = locate(
        source,
        kind="LoRA",
        aliases=LORAS,
        shipped=Path,
        fetch_from_hub=lambda location: fetch(location, requirements, what="LoRA", offline=offline),
    )
    if not path.is_dir():
        return path
    files, missing = choose(requirements, lambda name: (path / name).is_file())
    if missing:
        raise UserError(f"{path} holds no LoRA", cause=f"it lacks {missing[0]}", remedy="give the file itself")
    return path / files[0]


def _check_kind(source: str, state: State) -> None:
    for marker, method in _OTHER_METHODS:
        if name := next((name for name in state if marker in name), None):
            raise UserError(
                f"{source} is no LoRA that can be used",
                cause=f"it is {method}: it holds {name}",
                remedy="merge it into a checkpoint with the program that made it and give that with --base, or give a plain LoRA",
            )
    remedies = {
        recognise.MOTION: "give it with --motion",
        recognise.MOTION_LORA: "it changes motion, not pictures: give it with --camera",
        recognise.SD15: "give it with --base",
        "a cdvideo concept": "give it with --concept",
    }
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    otherwise = "give a LoRA for Stable Diffusion 1.5, of kohya's layout or diffusers'"
    recognise.refuse_others("a LoRA", shapes, source, called="LoRA", remedies=remedies, otherwise=otherwise)


def _changes(state: State, source: str, weights: Mapping[str, Tensor], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, LowRank]:
    by_kohya = {kohya_name(layer): layer for layer in weights}

    def refused(cause: str) -> UserError:
        remedy = "give a LoRA for Stable Diffusion 1.5, of kohya's layout or diffusers'"
        return UserError(f"{source} is no LoRA that can be used", cause=cause, remedy=remedy)

    def layer_of(name: str) -> str:
        return by_kohya.get(name) or _layer(name)

    of_text = {name: value for name, value in state.items() if name.startswith(_MODELS["text_encoder."])}
    of_unet = {name: value for name, value in state.items() if name not in of_text}
    return {
        **low_rank_changes(of_unet, layer_of, refused, settings["unet."]),
        **low_rank_changes(of_text, layer_of, refused, settings["text_encoder."]),
    }


def _layer(name: str) -> str:
    """The layer that diffusers or peft call so; kohya's names of layers that the base has not stay as they are."""
    name = name.replace("base_model.model.", "")
    if name.startswith("text_encoder."):
        stem, _, last = name.replace("text_encoder.text_model.", "text_encoder.").rpartition(".")
        return f"{stem}.{_OLD_TEXT_NAMES.get(last, last)}"
    if name.startswith(("unet.", "lora_", "text_encoder")):
        return re.sub(r"\.to_out$", ".to_out.0", name)
    return _layer(f"unet.{name}")


def _check_fits(lora: ImageLora, weights: Mapping[str, Tensor], base_id: str, made_for: str | None = None) -> None:
    hint = f"; it is made for {made_for}" if made_for else ""
    for layer, low_rank in lora.layers.items():
        cause = None
        if layer not in weights:
            cause = f"it changes {layer}, which the base has not"
        elif not low_rank.fits(weights[layer]):
            cause = f"{layer} is {low_rank.shape} in the LoRA, {tuple(weights[layer].shape)} in the base"
        if cause:
            raise UserError(
                f"the LoRA {lora.source} does not fit the base {base_id}",
                cause=f"{cause}{hint}",
                remedy="give one that was trained on this base, or choose that base with --base",
            )


def _made_for(state: State) -> str | None:
    """The family of bases that the names or the width of the text betray, or None."""
    if any(name.startswith(_OF_SDXL) for name in state):
        return "Stable Diffusion XL"
    widths = (
        value.shape[1]
        for name, value in state.items()
        if re.search(r"attn2[._](processor\.)?to_k(_lora)?\W.*(lora_A|down)\.weight$", name) and value.ndim > 1
    )
    return next((_WIDTHS[width] for width in widths if width in _WIDTHS), None)
