"""Out: a LoRA in kohya's layout and one embedding a token, which A1111, ComfyUI, kohya's scripts and diffusers load."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save
from torch import Tensor

from cdvideo import __version__
from cdvideo.base.lora import kohya_name
from cdvideo.concept import Concept
from cdvideo.errors import UserNote
from cdvideo.files import check_free
from cdvideo.interop.compressing import check_rank
from cdvideo.interop.low_rank import Decomposition, relative, root_sum_square
from cdvideo.interop.moving import key_value_weights
from cdvideo.interop.outputs import Export, write_new

if TYPE_CHECKING:
    from cdvideo.base import Base

TOLERANCE = 1e-3
MAX_RANK = 64
_SD15_TEXT_WIDTH = 768


def export_kohya(
    base: Base,
    concept: Concept,
    folder: Path,
    name: str,
    *,
    rank: int | None = None,
    overwrite: bool = False,
    on_layer: Callable[[int, int], None] | None = None,
) -> Export:
    """`NAME-lora.safetensors` and `NAME-token.safetensors` (`-token1`, `-token2` for several) in `folder`, and the error of each layer.

    Each layer has the smallest rank at which it loses at most 1e-3 of its change (Frobenius), but no more than 64; or `rank`. The errors
    are measured on the fp32 tensors as written; they stand in the LoRA's metadata too. The embedding is (1, D) under `emb_params`: the one
    form that all four programs read, and no pickle. Its file's name is the word that calls it. Raises UserError where the concept is not
    this base's, and for files that are there already.
    """
    if rank is not None:
        check_rank(rank)
    words = _words(concept.header.tokens, name)
    lora_path = folder / f"{name}-lora.safetensors"
    check_free([lora_path, *(folder / f"{word}.safetensors" for word in words.values())], overwrite=overwrite)
    if base.text_encoder.config.hidden_size != _SD15_TEXT_WIDTH:
        note = f"the base {base.id} is no Stable Diffusion 1.x: A1111, ComfyUI and kohya's scripts cannot run what is written"
        warnings.warn(note, UserNote, stacklevel=2)
    weights = key_value_weights(base, concept)
    whole = concept.expanded(weights).tuned
    tensors: dict[str, Tensor] = {}
    lost: dict[str, float] = {}
    norms: dict[str, float] = {}
    ranks: dict[str, int] = {}
    for count, (layer, weight) in enumerate(weights.items(), 1):
        decomposition = Decomposition.of(whole[layer].to(weight).double() - weight.double())
        change = decomposition.truncated(rank or min(MAX_RANK, decomposition.smallest_rank(TOLERANCE)))
        norms[layer], ranks[layer] = decomposition.norm, change.rank
        lost[layer] = decomposition.distance(change.up.double() @ change.down.double())
        module = kohya_name(f"unet.{layer.removesuffix('.weight')}")
        tensors[f"{module}.lora_down.weight"], tensors[f"{module}.lora_up.weight"] = change.down.contiguous(), change.up.contiguous()
        tensors[f"{module}.alpha"] = torch.tensor(float(change.rank))
        if on_layer:
            on_layer(count, len(weights))
    errors = {layer: relative(lost[layer], norms[layer]) for layer in weights}
    relative_error = relative(root_sum_square(lost), root_sum_square(norms))
    metadata = _metadata(concept, base, name, ranks=ranks, errors=errors, relative_error=relative_error, words=words)
    files = {lora_path: bytes(save(tensors, metadata=metadata))}
    for token, word in words.items():
        embedding = {"emb_params": concept.embeddings[token].detach().float().cpu().reshape(1, -1).clone()}
        files[folder / f"{word}.safetensors"] = bytes(save(embedding, metadata={"name": word, "cdvideo_token": token}))
    write_new(folder, files, overwrite=overwrite)
    return Export(files=tuple(files), tokens=words, errors=errors, relative_error=relative_error)


def _words(tokens: tuple[str, ...], name: str) -> dict[str, str]:
    """The word that calls each token: its embedding file's name, since `V*` can be neither a file nor a word in every program."""
    if len(tokens) == 1:
        return {tokens[0]: f"{name}-token"}
    return {token: f"{name}-token{number}" for number, token in enumerate(tokens, 1)}


def _metadata(
    concept: Concept,
    base: Base,
    name: str,
    *,
    ranks: dict[str, int],
    errors: dict[str, float],
    relative_error: float,
    words: dict[str, str],
) -> dict[str, str]:
    largest = str(max(ranks.values()))
    is_sd15 = base.text_encoder.config.hidden_size == _SD15_TEXT_WIDTH
    known = {"ss_base_model_version": "sd_v1", "ss_v2": "False", "modelspec.architecture": "stable-diffusion-v1/lora"} if is_sd15 else {}
    phrases = [f"{word} {class_word}" for word, class_word in zip(words.values(), concept.header.class_words, strict=True)]
    return known | {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": name,
        "modelspec.implementation": f"cdvideo {__version__}",
        "modelspec.prediction_type": "epsilon",
        "modelspec.trigger_phrase": ", ".join(phrases),
        "ss_network_module": "networks.lora",
        "ss_network_dim": largest,
        "ss_network_alpha": largest,
        "ss_output_name": f"{name}-lora",
        "ss_sd_model_name": concept.header.base,
        "ss_steps": str(concept.header.steps),
        "ss_seed": str(concept.header.seed),
        "ss_training_comment": f"K/V change of a concept, by SVD; relative error {relative_error:.3e}; needs the embedding "
        f"{', '.join(words.values())}",
        "cdvideo_concept": concept.header.to_json(),
        "cdvideo_tokens": json.dumps(words),
        "cdvideo_relative_error": repr(relative_error),
        "cdvideo_layers": json.dumps({layer: {"rank": ranks[layer], "relative_error": errors[layer]} for layer in ranks}),
    }
