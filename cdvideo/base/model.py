"""The base model, and a concept's way into it and out again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from cdvideo.base.catalog import BasePreset, preset_for
from cdvideo.base.device import resolve_device, resolve_dtype, say_slow_dtype
from cdvideo.base.gpu_layers import fused_layers, has_kernels
from cdvideo.base.loading import Components, fingerprint, load_components
from cdvideo.base.recorded import Recorded
from cdvideo.base.text import ConceptEmbedding, eos_features, token_ids, tokenizer_with
from cdvideo.base.weights import lay_weights_together
from cdvideo.concept import KEY_VALUE_SUFFIXES, Concept
from cdvideo.errors import UserError, UserNote

DECODED_AT_ONCE = 2
"""Pictures that the autoencoder decodes together: more are hardly faster, and take more memory."""


@dataclass
class Base:
    """A Stable-Diffusion-1.5-shaped model, ready to encode prompts, predict noise and decode latents."""

    components: Components
    preset: BasePreset
    device: torch.device
    dtype: torch.dtype

    @property
    def id(self) -> str:
        return self.components.canonical_id

    @property
    def unet(self) -> Any:
        return self.components.unet

    @property
    def vae(self) -> Any:
        return self.components.vae

    @property
    def text_encoder(self) -> Any:
        return self.components.text_encoder

    @property
    def tokenizer(self) -> Any:
        return self.components.tokenizer

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.unet, self.text_encoder)

    @property
    def latent_factor(self) -> int:
        """Pixels a side of one latent cell."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def text_states(self, prompts: list[str]) -> Tensor:
        return self.text_states_and_features(prompts)[0]

    def text_states_and_features(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Last hidden states (B, L, D), and of these the EOS features (B, D), which the semantic preservation loss compares."""
        ids = token_ids(self.tokenizer, prompts).to(self.device)
        states = self.text_encoder(ids).last_hidden_state
        return states, eos_features(states, ids, self.tokenizer.eos_token_id)

    def text_features(self, prompts: list[str]) -> Tensor:
        return self.text_states_and_features(prompts)[1]

    @torch.no_grad()
    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation, each (B, C, h, w) and scaled as latents are, of the posterior of pixels (B, 3, H, W) in [-1, 1]."""
        with fused_layers(self.vae):
            posterior = self.vae.encode(pixels.to(self.device, non_blocking=True).to(self.dtype)).latent_dist
        return posterior.mean * self.vae.config.scaling_factor, posterior.std * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (N, H, W, 3) uint8 on the CPU from latents (N, C, h, w). Raises UserError as `decoded` does."""
        return torch.cat(list(self.decoded(latents)))

    def decoded(self, latents: Tensor, recorded: Recorded | None = None) -> Iterator[Tensor]:
        """Pictures (n, H, W, 3) uint8 on the CPU from latents (N, C, h, w): a few at a time.

        The next few are begun before those of before are given, so that a GPU decodes them while the caller looks at those.

        `recorded` is `decode_some`, whose recordings are let go of where memory runs out.
        In fp16 or bf16 the autoencoder may overflow or draw black: such pictures are decoded once more in fp32, which is said. Raises
        UserError where they still hold values that are not numbers. Where memory runs out for some at once, they are decoded one by one.
        """
        decode: Callable[[Tensor], Tensor] = recorded or self.decode_some
        again, start, chunk = False, 0, DECODED_AT_ONCE
        before: Tensor | None = None
        while start < len(latents):
            part = latents[start : start + chunk]
            try:
                decoded = decode(part)
                if before is not None:
                    yield before
                    before = None
                is_broken, is_black = _faults(decoded)
                if self.dtype != torch.float32 and (is_broken or is_black):
                    decoded, again = self._decode_in_fp32(part), True
                    is_broken, _ = _faults(decoded)
            except torch.OutOfMemoryError:
                if recorded and decode is recorded:
                    recorded.recordings.forget()
                    decode = self.decode_some
                    continue
                if chunk == 1:
                    raise UserError(
                        f"there is not enough memory on {self.device} to decode one picture", remedy="give a smaller --size"
                    ) from None
                warnings.warn("memory ran out: pictures are decoded one by one", UserNote, stacklevel=2)
                chunk = 1
                continue
            if is_broken:
                raise UserError(
                    "the decoded picture holds values that are not numbers",
                    cause="the latents overflowed while denoising" if not torch.isfinite(part).all() else "the autoencoder overflowed",
                    remedy="try --dtype fp32, or a lower --guidance",
                )
            pixels = ((decoded.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
            before = rearrange(pixels, "n c h w -> n h w c").cpu()
            start += len(part)
        if before is not None:
            yield before
        if again:
            name = str(self.dtype).removeprefix("torch.")
            warnings.warn(
                f"the autoencoder failed in {name}: pictures that were black or no numbers are decoded in fp32", UserNote, stacklevel=2
            )

    @torch.no_grad()
    def decode_some(self, latents: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) in [-1, 1] from latents (N, C, h, w), all at once."""
        with fused_layers(self.vae):
            return self.vae.decode(latents.to(self.vae.device, self.vae.dtype) / self.vae.config.scaling_factor).sample

    def _decode_in_fp32(self, latents: Tensor) -> Tensor:
        # In the same memory again afterwards, which recordings of its encoder read.
        before = {value: value.data for value in self.vae.parameters()}
        self.vae.to(torch.float32)
        try:
            return self.decode_some(latents)
        finally:
            for value, data in before.items():
                value.data = data

    def inject(self, concept: Concept, scale: float = 1.0) -> Injection:
        """Puts the concept into this base; `eject` on the result, or the end of its `with` block, takes it out."""
        return Injection(self, concept, scale)


class Vocabulary:
    """The words of some concepts inside a base, and nothing else of them: its tokenizer reads their tokens, which have their embeddings.

    `eject`, or the end of a `with` block, takes them out. Raises UserError for a concept that is not this base's.
    """

    def __init__(self, base: Base, concepts: Sequence[Concept]) -> None:
        for concept in concepts:
            _check_belongs(base, concept)
        self.base = base
        self._tokenizer = base.components.tokenizer
        self._embedding = base.text_encoder.get_input_embeddings()
        if not concepts:
            return
        tokens = tuple(token for concept in concepts for token in concept.header.tokens)
        base.components.tokenizer = tokenizer_with(self._tokenizer, tokens)
        rows = torch.stack([concept.embeddings[token] for concept in concepts for token in concept.header.tokens])
        embedding = ConceptEmbedding(self._embedding, rows.to(base.device, torch.float32))
        base.text_encoder.set_input_embeddings(embedding.requires_grad_(False))

    def eject(self) -> None:
        self.base.text_encoder.set_input_embeddings(self._embedding)
        self.base.components.tokenizer = self._tokenizer

    def __enter__(self) -> Vocabulary:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.eject()


class Injection:
    """A concept inside a base. While it is there, the base is what was tuned; afterwards it is bit-identical to before."""

    def __init__(self, base: Base, concept: Concept, scale: float = 1.0) -> None:
        self._vocabulary = Vocabulary(base, [concept])
        self.base, self.concept = base, concept
        self._originals: dict[str, Tensor] = {}
        try:
            self._put_in(scale)
        except BaseException:
            self.eject()
            raise

    @torch.no_grad()
    def _put_in(self, scale: float) -> None:
        parameters = dict(self.base.unet.named_parameters())
        for name, value in self.concept.tuned.items():
            original = self._originals[name] = parameters[name].detach().clone()
            tuned = value.to(original)
            parameters[name].copy_(tuned if scale == 1.0 else torch.lerp(original, tuned, scale))

    def eject(self) -> None:
        parameters = dict(self.base.unet.named_parameters())
        with torch.no_grad():
            for name, original in self._originals.items():
                parameters[name].copy_(original)
        self._originals = {}
        self._vocabulary.eject()

    def __enter__(self) -> Injection:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.eject()


def _faults(decoded: Tensor) -> list[bool]:
    """Whether pictures of (N, 3, H, W) in [-1, 1] hold what is no number, and whether one is black all over."""
    # One answer, since each waits for a GPU.
    return torch.stack([~torch.isfinite(decoded).all(), (decoded.amax(dim=(1, 2, 3)) <= -1).any()]).tolist()


def key_value_names(unet: Any) -> list[str]:
    """The names of the cross-attention key and value matrices of a UNet2DConditionModel."""
    return [name for name, _ in unet.named_parameters() if name.endswith(KEY_VALUE_SUFFIXES)]


def _check_belongs(base: Base, concept: Concept) -> None:
    parameters, tuned = dict(base.unet.named_parameters()), set(concept.tuned)
    key_values = set(key_value_names(base.unet))
    # Some methods tune no matrix or every one; but keys and values come together or not at all.
    missing = sorted(key_values - tuned) if tuned & key_values else []
    extra = sorted(tuned - set(parameters))
    made_for = f"it was made for the base {concept.header.base}, and this base is {base.id}"
    remedy = f"use it with --base {concept.header.base}, or train one for this base"
    whose = f"the concept {concept.source}" if concept.source else f"the concept of {', '.join(concept.header.tokens)}"
    if concept.header.base == base.id:
        made_for, remedy = f"it was made for another version of the base {base.id}", "train it again"
    if missing or extra:
        which = f"lacks {missing[0]}" if missing else f"has {extra[0]}, which the base has not"
        raise UserError(f"{whose} does not fit the base: it {which}", cause=made_for, remedy=remedy)
    if name := concept.misfit(parameters):
        shapes = f"{tuple(concept.tuned[name].shape)} in the concept, {tuple(parameters[name].shape)} in the base"
        raise UserError(f"{whose} does not fit the base: {name} is {shapes}", cause=made_for, remedy=remedy)
    width = base.text_encoder.config.hidden_size
    for token, row in concept.embeddings.items():
        if row.shape != (width,):
            raise UserError(
                f"{whose} does not fit the base: the embedding of {token} is {tuple(row.shape)}, the base's are ({width},)",
                cause=made_for,
                remedy=remedy,
            )
    if concept.header.fingerprint != base.fingerprint:
        raise UserError(
            f"{whose} was tuned from other weights than this base's",
            cause=f"its fingerprint is {concept.header.fingerprint}, the base's is {base.fingerprint}; {made_for}",
            remedy=remedy,
        )


def load(name: str, *, device: str = "auto", dtype: str = "auto", offline: bool = False) -> Base:
    """The base of a name: `pocket`, `sd15`, a hub id, a diffusers folder, or a single checkpoint file. Weights are frozen."""
    chosen_device = resolve_device(device)
    chosen_dtype = resolve_dtype(dtype, chosen_device)
    say_slow_dtype(chosen_device, chosen_dtype)
    components = load_components(name, dtype=chosen_dtype, device=chosen_device, offline=offline)
    # Of the autoencoder's large pictures of few channels a CPU needs a tenth to a third less time to encode or decode; of the UNet's, none.
    fast_in_this_order = [components.vae] if chosen_device.type == "cpu" else []
    if has_kernels(chosen_device):
        fast_in_this_order = [components.vae, components.unet]
        lay_weights_together(components.unet)
    for model in fast_in_this_order:
        model.to(memory_format=torch.channels_last)
    return Base(components=components, preset=preset_for(components.unet), device=chosen_device, dtype=chosen_dtype)


def versions() -> dict[str, str]:
    """The versions that a record should name."""
    import diffusers
    import transformers

    from cdvideo import __version__

    return {
        "cdvideo": __version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }
