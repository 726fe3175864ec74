"""ClassDiffusion's training written straight down with diffusers and transformers, as the public scripts do it: what `cdvideo train` is
measured against.

Every step draws its views, encodes them, runs the text encoder three times (captions, phrases, classes), hands AdamW the whole table of
token embeddings, and reads its loss. The whole table's gradient is set to 0 but for the tokens', as in diffusers'
`train_custom_diffusion.py`. Where scripts differ, this does what is faster: attention by `scaled_dot_product_attention`, photos decoded and
cropped once, class features without a graph, no loader processes to start again and again.

Shapes: `B` samples, `C` latent channels, `h w` latent height and width, `N` subjects, `L` text positions, `D` text width.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import AttnProcessor2_0, CustomDiffusionAttnProcessor2_0
from torch import Tensor, nn

from cdvideo.base import Base, tokenizer_with
from cdvideo.train import Subject
from cdvideo.train.batches import Batches, FreshViews
from cdvideo.train.subject import Example


class ReferenceTraining:
    """One training, advanced by `step`. It changes `base`, which belongs to it alone, and draws what `cdvideo.train.train` draws."""

    def __init__(
        self, base: Base, examples: Sequence[Example], subjects: Sequence[Subject], *, batch_size: int, learning_rate: float, seed: int = 0
    ) -> None:
        self.batch_size, self.number = batch_size, 0
        self.unet, self.vae, self.text_encoder = base.unet, base.vae, base.text_encoder
        self.tokenizer = base.components.tokenizer = tokenizer_with(base.tokenizer, tuple(subject.token for subject in subjects))
        self.scheduler = DDPMScheduler.from_config(base.components.scheduler_config)
        self.batches = Batches(
            base, FreshViews(base, examples), None, seed=seed, num_train_timesteps=self.scheduler.config.num_train_timesteps
        )

        self.token_ids = self.tokenizer.convert_tokens_to_ids([subject.token for subject in subjects])
        self.text_encoder.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
        self.table = self.text_encoder.get_input_embeddings().weight
        with torch.no_grad():
            for subject, token_id in zip(subjects, self.token_ids, strict=True):
                self.table[token_id] = self.table[self._ids([subject.initializer], padded=False)[0, 1]]
        self.table.requires_grad_(True)
        self.untrained = torch.ones(len(self.table), dtype=torch.bool)
        self.untrained[self.token_ids] = False

        self.tuned = _add_custom_diffusion(self.unet)
        self.phrases = [f"a photo of a {subject.token} {subject.class_word}" for subject in subjects]
        self.classes = [f"a photo of a {subject.class_word}" for subject in subjects]
        parameters = itertools.chain([self.table], self.tuned.parameters())
        self.optimizer = torch.optim.AdamW(parameters, lr=learning_rate * batch_size, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
        self.rate = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda _: 1.0)

    def step(self) -> tuple[float, float]:
        """Takes one step; returns its loss of the noise and its semantic preservation loss."""
        batch = self.batches.draw(self.number, range(self.batch_size))
        assert batch.pixels is not None
        with torch.no_grad():
            posterior = self.vae.encode(batch.pixels).latent_dist
        latents = (posterior.mean + posterior.std * batch.posterior_noise) * self.vae.config.scaling_factor
        noisy = self.scheduler.add_noise(latents, batch.noise, batch.timesteps)

        states = self.text_encoder(batch.ids).last_hidden_state
        noise_pred = self.unet(noisy, batch.timesteps, encoder_hidden_states=states).sample
        mask = batch.mask[:, None]
        error = F.mse_loss(noise_pred.float(), batch.noise.float(), reduction="none")
        noise_loss = ((error * mask).sum([1, 2, 3]) / mask.sum([1, 2, 3])).mean()
        phrases = self._end_of_text(self.phrases)
        with torch.no_grad():
            classes = self._end_of_text(self.classes)
        preservation_loss = (1 - F.cosine_similarity(phrases, classes, dim=-1)).sum()
        loss = noise_loss + preservation_loss

        loss.backward()
        assert self.table.grad is not None
        self.table.grad[self.untrained] = 0
        nn.utils.clip_grad_norm_(itertools.chain([self.table], self.tuned.parameters()), 1.0)
        self.optimizer.step()
        self.rate.step()
        self.optimizer.zero_grad()
        self.number += 1
        return noise_loss.detach().item(), preservation_loss.detach().item()

    def _ids(self, prompts: list[str], *, padded: bool = True) -> Tensor:
        ids: Tensor = self.tokenizer(prompts, padding="max_length" if padded else False, truncation=True, return_tensors="pt").input_ids
        return ids

    def _end_of_text(self, prompts: list[str]) -> Tensor:
        """(N, D): the features at the first end-of-text token, the paper's choice."""
        ids = self._ids(prompts)
        ends = (ids == self.tokenizer.eos_token_id).int().argmax(dim=-1)
        states: Tensor = self.text_encoder(ids).last_hidden_state
        return states[torch.arange(len(ids)), ends]


def _add_custom_diffusion(unet: Any) -> nn.ModuleList:
    """Gives every cross-attention a trained copy of its keys and values, as diffusers' script does, and returns them."""
    processors: dict[str, Any] = {}
    for name in unet.attn_processors:
        attention = unet.get_submodule(name.removesuffix(".processor"))
        if not name.endswith("attn2.processor"):
            processors[name] = AttnProcessor2_0()
            continue
        processor = CustomDiffusionAttnProcessor2_0(
            train_kv=True,
            train_q_out=False,
            hidden_size=attention.to_k.out_features,
            cross_attention_dim=attention.to_k.in_features,
        )
        processor.to_k_custom_diffusion.load_state_dict(copy.deepcopy(attention.to_k.state_dict()))
        processor.to_v_custom_diffusion.load_state_dict(copy.deepcopy(attention.to_v.state_dict()))
        processors[name] = processor
    unet.set_attn_processor(dict(processors))
    return nn.ModuleList(processor for processor in processors.values() if isinstance(processor, nn.Module))
