"""ClassDiffusion's training written once more, from the paper and from what the libraries offer, to hold the package's own against.

Nothing of `cdvideo.train` is used: diffusers' Custom Diffusion attention processor trains keys and values, the whole embedding table is
the parameter with every row but the tokens' kept as it was, the text encoder is called once for the captions and once for the phrases,
and the noise schedule, the clipping of gradients and the cosine distance are written out.

Shapes: `B` samples, `N` concepts, `L` text positions, `D` text width, `C h w` latents.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor, CustomDiffusionAttnProcessor
from torch import Tensor


@dataclass(frozen=True)
class ReferenceSubject:
    token: str
    class_word: str
    initializer: str


@dataclass(frozen=True)
class ReferenceSample:
    """Views (B, 3, H, W) in [-1, 1], masks (B, h, w), and the noise of one step."""

    captions: Sequence[str]
    pixels: Tensor
    mask: Tensor
    posterior_noise: Tensor
    noise: Tensor
    timesteps: Tensor


@dataclass(frozen=True)
class ReferenceResult:
    noise_losses: list[float]
    preservation_losses: list[float]
    tuned: dict[str, Tensor]
    rows: dict[str, Tensor]


def reference_training(
    components: Any,
    subjects: Sequence[ReferenceSubject],
    samples: Iterable[ReferenceSample],
    *,
    learning_rate: float,
    preservation_weight: float,
    mode: str,
) -> ReferenceResult:
    """`learning_rate` is the optimiser's; `components` has tokenizer, text_encoder, unet, vae and scheduler_config, and is left alone."""
    tokenizer, text_encoder = copy.deepcopy(components.tokenizer), copy.deepcopy(components.text_encoder)
    starts = [tokenizer.convert_tokens_to_ids(tokenizer.tokenize(subject.initializer)[0]) for subject in subjects]
    assert tokenizer.add_tokens([subject.token for subject in subjects]) == len(subjects)
    token_ids = [tokenizer.convert_tokens_to_ids(subject.token) for subject in subjects]
    text_encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    text_encoder.requires_grad_(False)
    table = text_encoder.get_input_embeddings().weight
    with torch.no_grad():
        table[token_ids] = table[starts]
    table.requires_grad_(True)
    frozen_rows = torch.ones(len(table), dtype=torch.bool)
    frozen_rows[token_ids] = False
    before = table.detach().clone()

    unet = copy.deepcopy(components.unet).requires_grad_(False)
    processors = custom_diffusion_processors(unet)
    unet.set_attn_processor(dict(processors))
    matrices = {
        f"{name.removesuffix('.processor')}.{which}.weight": getattr(processor, f"{which}_custom_diffusion").weight
        for name, processor in processors.items()
        if isinstance(processor, CustomDiffusionAttnProcessor)
        for which in ("to_k", "to_v")
    }
    parameters = [table, *matrices.values()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8, foreach=False)

    def ids_of(prompts: Sequence[str]) -> Tensor:
        length = tokenizer.model_max_length
        return tokenizer(list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids

    phrases = ids_of([f"a photo of a {subject.token} {subject.class_word}" for subject in subjects])
    class_phrases = ids_of([f"a photo of a {subject.class_word}" for subject in subjects])
    own_ids = torch.tensor(token_ids)[:, None]

    def features(ids: Tensor) -> Tensor:
        if mode == "paper":
            states = text_encoder(ids).last_hidden_state
            return torch.stack([row[tokens.tolist().index(tokenizer.eos_token_id)] for row, tokens in zip(states, ids, strict=True)])
        states = encoded_without_position(text_encoder, ids, own_ids)
        return torch.stack([row[int(tokens.argmax())] for row, tokens in zip(states, ids, strict=True)])

    with torch.no_grad():
        class_features = features(class_phrases)

    alphas = noise_schedule(components.scheduler_config)
    noise_losses, preservation_losses = [], []
    for sample in samples:
        with torch.no_grad():
            posterior = components.vae.encode(sample.pixels).latent_dist
            latents = (posterior.mean + torch.exp(0.5 * posterior.logvar) * sample.posterior_noise) * components.vae.config.scaling_factor
        alpha = alphas[sample.timesteps].float()[:, None, None, None]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * sample.noise
        states = text_encoder(ids_of(sample.captions)).last_hidden_state
        noise_pred = unet(noisy, sample.timesteps, encoder_hidden_states=states, return_dict=False)[0]
        noise_loss = torch.stack(
            [
                (error.square().sum(dim=0) * mask).sum() / mask.sum()
                for error, mask in zip(noise_pred - sample.noise, sample.mask, strict=True)
            ]
        ).mean()
        distances = [1 - cosine(one, other) for one, other in zip(features(phrases), class_features, strict=True)]
        preservation = torch.stack(distances).sum() / (len(subjects) if mode == "official" else 1)

        optimizer.zero_grad()
        (noise_loss + preservation_weight * preservation).backward()
        table.grad[frozen_rows] = 0
        norm = torch.sqrt(sum(parameter.grad.square().sum() for parameter in parameters))
        for parameter in parameters:
            parameter.grad *= min(1.0, 1.0 / (float(norm) + 1e-6))
        optimizer.step()
        with torch.no_grad():
            table[frozen_rows] = before[frozen_rows]
        noise_losses.append(noise_loss.item())
        preservation_losses.append(preservation.item())
    rows = {subject.token: table[index].detach() for subject, index in zip(subjects, token_ids, strict=True)}
    return ReferenceResult(noise_losses, preservation_losses, {name: value.detach() for name, value in matrices.items()}, rows)


def custom_diffusion_processors(unet: Any) -> dict[str, Any]:
    """diffusers' processors with keys and values of their own at every cross-attention, holding the UNet's, and plain ones elsewhere."""
    found: dict[str, Any] = {}
    for name in unet.attn_processors:
        attention = unet.get_submodule(name.removesuffix(".processor"))
        if "attn2" not in name:
            found[name] = AttnProcessor()
            continue
        width, text_width = attention.to_k.weight.shape
        processor = CustomDiffusionAttnProcessor(train_kv=True, train_q_out=False, hidden_size=width, cross_attention_dim=text_width)
        processor.to_k_custom_diffusion.load_state_dict(attention.to_k.state_dict())
        processor.to_v_custom_diffusion.load_state_dict(attention.to_v.state_dict())
        found[name] = processor
    return found


def encoded_without_position(text_encoder: Any, ids: Tensor, own_ids: Tensor) -> Tensor:
    """Last hidden states (N, L, D), where each row's own token (N, 1) enters as its bare embedding."""
    rows = text_encoder.get_input_embeddings().weight[ids]
    positions = text_encoder.embeddings.position_embedding.weight[: ids.shape[1]]
    embedded = torch.where((ids == own_ids)[..., None], rows, rows + positions)
    length = ids.shape[1]
    causal = torch.full((length, length), torch.finfo(torch.float32).min).triu(1).expand(len(ids), 1, length, length)
    return text_encoder.final_layer_norm(text_encoder.encoder(inputs_embeds=embedded, attention_mask=causal).last_hidden_state)


def noise_schedule(config: dict[str, Any]) -> Tensor:
    """The cumulative products of 1 - beta of Stable Diffusion's schedule, whose betas' roots grow evenly."""
    assert config["beta_schedule"] == "scaled_linear" and config.get("prediction_type", "epsilon") == "epsilon"
    steps = config.get("num_train_timesteps", 1000)
    betas = torch.linspace(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, steps, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0)


def cosine(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum() / (one.square().sum().sqrt() * other.square().sum().sqrt())
