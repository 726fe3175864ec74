"""The training loop of ClassDiffusion (Huang et al. 2024, section 3.4), in its paper mode."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch import Tensor, nn

from cdvideo.base import Base, versions
from cdvideo.concept import Concept, ConceptHeader
from cdvideo.errors import Interrupted, UserError
from cdvideo.train.checkpoint import checkpoint_path, load_checkpoint, save_checkpoint
from cdvideo.train.losses import masked_noise_loss, semantic_preservation_loss
from cdvideo.train.methods import KeyValueTuning, Subject
from cdvideo.train.photos import View, random_view


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a training stands after a step."""

    step: int
    steps: int
    noise_loss: float
    spl: float


def train(
    base: Base,
    photos: dict[str, list[Image.Image]],
    subjects: list[Subject],
    *,
    out: Path,
    steps: int,
    batch_size: int,
    learning_rate: float,
    spl_weight: float = 1.0,
    seed: int = 0,
    checkpoint_every: int = 50,
    resume: bool = False,
    on_step: Callable[[Progress], None] | None = None,
) -> Concept:
    """The concept that `steps` steps on the photos (by token, square RGB) make of the subjects; also written to `out`.

    `learning_rate` is for one picture and is multiplied by `batch_size`, as in the public script. The state is kept in a checkpoint beside
    `out` every `checkpoint_every` steps and on Ctrl-C; with `resume` the training goes on from there and ends as if never interrupted.
    """
    started = time.monotonic()
    settings = {
        "base": base.fingerprint,
        "tokens": [subject.token for subject in subjects],
        "class_words": [subject.class_word for subject in subjects],
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "spl_weight": spl_weight,
        "seed": seed,
        "photos": sum(map(len, photos.values())),
    }
    state = load_checkpoint(checkpoint_path(out), settings) if resume else None
    samples = [(subject, photo) for subject in subjects for photo in photos[subject.token]]
    scheduler = DDPMScheduler.from_config(base.components.scheduler_config)
    generator = torch.Generator().manual_seed(seed)

    with torch.no_grad():
        class_features = base.text_features([f"a photo of a {subject.class_word}" for subject in subjects])

    with KeyValueTuning(base, subjects) as tuning:
        optimizer = torch.optim.AdamW(tuning.parameters, lr=learning_rate * batch_size, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
        # Gradients of fp16 passes would vanish without scaling; in every other precision this does nothing.
        scaler = torch.amp.GradScaler(base.device.type, enabled=base.dtype == torch.float16)
        first = 0
        if state:
            first = _restore(state, tuning, optimizer, generator)
            scaler.load_state_dict(state["scaler"])

        def snapshot(step: int) -> None:
            values = {name: value.detach() for name, value in tuning.key_values.items()}
            rows, random_state = tuning.embedding.rows.detach(), generator.get_state()
            saved = {"settings": settings, "step": step, "key_values": values, "rows": rows, "random": random_state}
            save_checkpoint(checkpoint_path(out), {**saved, "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()})

        step, checkpointed = first, bool(state)
        try:
            for step in range(first, steps):
                views = draw_views(samples, batch_size, base, generator)
                noise_loss, spl = step_losses(base, views, subjects, class_features, scheduler, generator)
                loss = noise_loss + spl_weight * spl
                if not torch.isfinite(loss):
                    raise UserError(
                        f"the loss is not a number at step {step + 1}",
                        cause=f"captions of the batch: {', '.join(view.caption for view in views)}",
                        remedy="try a lower --learning-rate, or --dtype fp32",
                    )
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(tuning.parameters, 1.0)
                scaler.step(optimizer)
                scaler.update()
                if on_step:
                    on_step(Progress(step=step + 1, steps=steps, noise_loss=float(noise_loss.detach()), spl=float(spl.detach())))
                if (step + 1) % checkpoint_every == 0 and step + 1 < steps:
                    snapshot(step + 1)
                    checkpointed = True
        except KeyboardInterrupt:
            # The interrupted step may have drawn noise already, so the last whole checkpoint is the one to go on from.
            if not checkpointed:
                raise Interrupted(f"at step {step + 1}, before the first checkpoint", remedy="start again") from None
            kept = f"the last checkpoint is kept: {checkpoint_path(out)}"
            raise Interrupted(f"at step {step + 1}", cause=kept, remedy="go on with --resume") from None
        header = ConceptHeader(
            base=base.id,
            fingerprint=base.fingerprint,
            tokens=tuple(subject.token for subject in subjects),
            class_words=tuple(subject.class_word for subject in subjects),
            spl_weight=spl_weight,
            steps=steps,
            seed=seed,
            versions=versions(),
            training={
                "batch_size": batch_size,
                "learning_rate": learning_rate,
                "photos": settings["photos"],
                "seconds": round(time.monotonic() - started, 1),
            },
        )
        key_values = {name: value.detach().clone() for name, value in tuning.key_values.items()}
        concept = Concept(header=header, key_values=key_values, embeddings=tuning.embeddings())
    concept.save(out)
    checkpoint_path(out).unlink(missing_ok=True)
    return concept


def draw_views(samples: list[tuple[Subject, Image.Image]], batch_size: int, base: Base, generator: torch.Generator) -> list[View]:
    picked = torch.randint(len(samples), (batch_size,), generator=generator).tolist()
    views = []
    for subject, photo in (samples[index] for index in picked):
        caption = f"photo of a {subject.token} {subject.class_word}"
        views.append(random_view(photo, base.preset.native_size, caption, generator, base.latent_factor))
    return views


def step_losses(
    base: Base, views: list[View], subjects: list[Subject], class_features: Tensor, scheduler: Any, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The masked noise loss and the semantic preservation loss of one batch, from one pass through the text encoder."""
    num_views = len(views)
    with torch.no_grad():
        latents = base.encode(torch.stack([view.pixels for view in views]), generator)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    timesteps = torch.randint(scheduler.config.num_train_timesteps, (num_views,), generator=generator).to(base.device)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    target = scheduler.get_velocity(latents, noise, timesteps) if scheduler.config.prediction_type == "v_prediction" else noise
    mask = torch.stack([view.mask for view in views]).to(base.device)

    prompts = [view.caption for view in views] + [f"a photo of a {subject.token} {subject.class_word}" for subject in subjects]
    autocast = torch.autocast(base.device.type, base.dtype, enabled=base.dtype != torch.float32)
    with autocast:
        states, features = base.text_states_and_features(prompts)
        noise_pred = base.unet(noisy, timesteps, encoder_hidden_states=states[:num_views]).sample
    spl = semantic_preservation_loss(features[num_views:].float(), class_features.float())
    return masked_noise_loss(noise_pred.float(), target.float(), mask), spl


def _restore(state: dict[str, Any], tuning: KeyValueTuning, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> int:
    with torch.no_grad():
        for name, value in state["key_values"].items():
            tuning.key_values[name].copy_(value)
        tuning.embedding.rows.copy_(state["rows"])
    optimizer.load_state_dict(state["optimizer"])
    generator.set_state(state["random"])
    return int(state["step"])
