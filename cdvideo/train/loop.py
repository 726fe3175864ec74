"""The training loop of ClassDiffusion (Huang et al. 2024, section 3.4) and of the methods that it is compared with."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch import Tensor, nn

from cdvideo.base import Base, versions
from cdvideo.base.device import keep_freed_memory
from cdvideo.base.quick_layers import quick_layers
from cdvideo.base.recorded import Recordings
from cdvideo.concept import Concept, ConceptHeader, Looks
from cdvideo.errors import Interrupted, UserError
from cdvideo.train.batches import Batch, Batches, CachedViews, Encode, FreshViews, made_ahead, posteriors
from cdvideo.train.checkpoint import checkpoint_path, load_checkpoint, save_checkpoint
from cdvideo.train.methods import check_spl_weight, find_method
from cdvideo.train.optimisers import make_optimizer
from cdvideo.train.passes import Pass, Passes, as_graphs, inputs_ahead, pass_inputs, records_graphs, records_operators
from cdvideo.train.photos import Photo
from cdvideo.train.preservation import Preservation, class_distances
from cdvideo.train.processes import Processes
from cdvideo.train.subject import Subject, class_examples, subject_examples

GPU_REPORT_EVERY = 10
"""Losses on a GPU are read, and looked at for values that are not numbers, at least this often: reading one waits for the GPU."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a training stands after a step; `prior_loss` and `spl` are 0 where they are not part of the loss."""

    step: int
    steps: int
    noise_loss: float
    prior_loss: float
    spl: float


@dataclass(frozen=True, kw_only=True)
class Milestone:
    """A training at one of its checkpoints, or at its end, while what was learnt by then is in the base; `concept` makes a copy of it."""

    step: int
    steps: int
    base: Base
    concept: Callable[[], Concept]
    drift: dict[str, float]
    """By token: the cosine distance in text space from the class to the phrase with the token."""


def train(
    base: Base,
    photos: Mapping[str, Sequence[Photo | Image.Image]],
    subjects: Sequence[Subject],
    *,
    out: Path,
    steps: int,
    batch_size: int,
    learning_rate: float,
    method: str = "classdiffusion",
    spl_weight: float | None = None,
    spl_mode: str = "paper",
    prior_weight: float | None = None,
    class_pictures: Mapping[str, Sequence[Image.Image]] | None = None,
    looks: Callable[[], Mapping[str, Looks]] = dict,
    cached_views: int = 0,
    accumulate: int = 1,
    gradient_checkpointing: bool = False,
    optimizer: str = "adamw",
    seed: int = 0,
    checkpoint_every: int = 50,
    milestone_every: int | None = None,
    keep_best: bool = False,
    resume: bool = False,
    on_step: Callable[[Progress], None] | None = None,
    on_milestone: Callable[[Milestone], float | None] | None = None,
) -> Concept:
    """The concept that `steps` steps on the photos (by token, square RGB) make of the subjects; also written to `out`.

    `learning_rate` is for one picture and is multiplied by the pictures of a step, as in the public script, and by the method's factor. A
    step has `batch_size` pictures in each process, `accumulate` times. The weights of the losses are the method's own where they are None;
    with a prior weight, `class_pictures` (by class word) are learnt from as well. `looks` gives what the photos look like, by token,
    which is only kept in the concept. With `cached_views`, that many views of each photo are encoded once and used again and again. Passes
    are recorded (`passes`), but with `gradient_checkpointing`.

    The state is kept in a checkpoint beside `out` every `checkpoint_every` steps; with `resume` the training goes on from there and ends
    as if never interrupted. `on_milestone` is called there, every `milestone_every` steps, and at the end, and may return a score: with
    `keep_best` the concept with the highest is the result. Of several processes, the first calls both callbacks, keeps the best and writes
    the files; what the others return is of the last step.
    """
    started = time.monotonic()
    chosen = find_method(method)
    check_spl_weight(method, spl_weight)
    spl_weight = chosen.spl_weight if spl_weight is None else spl_weight
    prior_weight = chosen.prior_weight if prior_weight is None else prior_weight
    if prior_weight and class_pictures is None:
        raise ValueError("prior preservation needs class_pictures")
    keep_freed_memory(base.device)
    processes = Processes.join(base.device)
    share = batch_size * accumulate
    step_rate = learning_rate * chosen.learning_rate_factor * share * processes.size
    settings = {
        "base": base.fingerprint,
        "tokens": [subject.token for subject in subjects],
        "class_words": [subject.class_word for subject in subjects],
        "initializers": [subject.initializer for subject in subjects],
        "method": method,
        "steps": steps,
        "batch_size": share * processes.size,
        "learning_rate": learning_rate,
        "spl_weight": spl_weight,
        "spl_mode": spl_mode,
        "prior_weight": prior_weight,
        "cached_views": cached_views,
        "optimizer": optimizer,
        "seed": seed,
        "photos": sum(map(len, photos.values())),
        "content of the photos": _digest(photos),
        "content of the class pictures": _digest(class_pictures) if prior_weight and class_pictures else None,
        "dtype": str(base.dtype).removeprefix("torch."),
    }
    state = load_checkpoint(checkpoint_path(out), settings) if resume else None
    scheduler = DDPMScheduler.from_config(base.components.scheduler_config)

    with (
        _full_memory_named(base.device),
        _checkpointed_gradients(base, gradient_checkpointing),
        chosen.tune(base, subjects) as tuning,
        quick_layers(base.unet, base.text_encoder),
    ):
        batches = _batches(base, photos, subjects, class_pictures if prior_weight else None, cached_views, seed, scheduler)
        preservation = Preservation(tuning, spl_mode) if spl_weight else None
        stepper = make_optimizer(optimizer, tuning.parameters, step_rate)
        # Gradients of fp16 passes would vanish without scaling; in every other precision this does nothing.
        scaler = torch.amp.GradScaler(base.device.type, enabled=base.dtype == torch.float16)
        first, best, seconds_before = 0, _Best(), 0.0
        if state:
            tuning.load_state_dict(state["trained"])
            stepper.load_state_dict(state["optimizer"])
            scaler.load_state_dict(state["scaler"])
            first, best, seconds_before = int(state["step"]), _Best(**state["best"]), float(state.get("seconds", 0))

        def seconds() -> float:
            return round(seconds_before + time.monotonic() - started, 1)

        def concept(step: int, trained: Mapping[str, Tensor] | None = None) -> Concept:
            kept = ("batch_size", "learning_rate", "photos", "optimizer", "prior_weight", "cached_views", "initializers")
            training = {**{name: settings[name] for name in kept}, "seconds": seconds()}
            header = ConceptHeader(
                base=base.id,
                fingerprint=base.fingerprint,
                tokens=tuple(subject.token for subject in subjects),
                class_words=tuple(subject.class_word for subject in subjects),
                method=method,
                spl_weight=spl_weight,
                spl_mode=spl_mode,
                steps=step,
                seed=seed,
                versions=versions(),
                training=training,
            )
            if trained is not None:
                tuning.load_state_dict(trained)
            return Concept(header=header, tuned=tuning.tuned_weights(), embeddings=tuning.embeddings(), looks=looks())

        def reach(step: int, *, keep: bool) -> None:
            """What is due at a milestone; with `keep` it is a checkpoint, too."""
            if not all(torch.isfinite(value).all() for value in tuning.parameters):
                raise UserError(f"the weights are not numbers after step {step}", remedy="try a lower --learning-rate, or --dtype fp32")
            if not processes.is_first:
                return
            score = None
            if on_milestone:
                drift = class_distances(base, subjects)
                score = on_milestone(Milestone(step=step, steps=steps, base=base, concept=partial(concept, step), drift=drift))
            if keep_best and score is not None:
                best.offer(step, score, tuning.state_dict())
            if keep:
                saved = {"settings": settings, "step": step, "trained": tuning.state_dict(), "optimizer": stepper.state_dict()}
                saved |= {"scaler": scaler.state_dict(), "best": vars(best), "seconds": seconds()}
                save_checkpoint(checkpoint_path(out), saved)

        def draw(micro_step: int) -> Batch:
            step, turn = divmod(micro_step, accumulate)
            start = processes.rank * share + turn * batch_size
            batch = batches.draw(step, range(start, start + batch_size))
            return batch.pinned() if base.device.type == "cuda" else batch

        report_every = 1 if base.device.type == "cpu" else min(GPU_REPORT_EVERY, -(-steps // 50))
        unread: list[tuple[int, Tensor, list[str]]] = []
        step, checkpointed = first, bool(state)
        encode: Encode = partial(posteriors, base)
        forward, are_graphs, until_end = Pass(base, preservation, batches.num_prior(batch_size)), False, ExitStack()
        passes = Passes(
            forward,
            tuning.parameters,
            scaler,
            prior_weight=prior_weight,
            spl_weight=spl_weight,
            accumulate=accumulate,
            records=records_operators(base.device, base.dtype, gradient_checkpointing),
        )
        try:
            if records_graphs(base.device, gradient_checkpointing) and first < steps:
                # Before batches are made ahead, which is done in another thread.
                recordings = Recordings(base.device)
                until_end.callback(recordings.forget)
                encode = recordings.of(posteriors, base)
                # Twice, since encoding is recorded at its second time, which no other thread may disturb either.
                for _ in range(1 if cached_views else 2):
                    like = pass_inputs(base, draw(first * accumulate), scheduler, encode)
                are_graphs = until_end.enter_context(as_graphs(forward, like))
            drawn = until_end.enter_context(closing(made_ahead(draw, range(first * accumulate, steps * accumulate))))
            coming = inputs_ahead(drawn, lambda batch: pass_inputs(base, batch, scheduler, encode), base.device, beside=are_graphs)
            if are_graphs:
                for value in tuning.parameters:
                    value.grad = torch.zeros_like(value)
            for step in range(first, steps):
                stepper.zero_grad(set_to_none=not are_graphs)
                parts, names = [], []
                for _ in range(accumulate):
                    batch, inputs = next(coming)
                    parts.append(passes(inputs))
                    names += [f"{name} as {caption!r}" for name, caption in zip(batch.names, batch.captions, strict=True)]
                processes.average_gradients(tuning.parameters)
                scaler.unscale_(stepper)
                nn.utils.clip_grad_norm_(tuning.parameters, 1.0)
                scaler.step(stepper)
                scaler.update()
                unread.append((step + 1, torch.stack(parts).mean(0), names))
                keeps = (step + 1) % checkpoint_every == 0 and step + 1 < steps
                is_due = keeps or (milestone_every is not None and (step + 1) % milestone_every == 0 and step + 1 < steps)
                if len(unread) == report_every or is_due or step + 1 == steps:
                    for progress in _read(unread, steps, processes):
                        if on_step and processes.is_first:
                            on_step(progress)
                    unread.clear()
                if is_due:
                    reach(step + 1, keep=keeps)
                    checkpointed = checkpointed or keeps
            reach(steps, keep=False)
        except KeyboardInterrupt:
            if not checkpointed:
                raise Interrupted(f"at step {step + 1}, before the first checkpoint", remedy="start again") from None
            kept = f"the last checkpoint is kept: {checkpoint_path(out)}"
            raise Interrupted(f"at step {step + 1}", cause=kept, remedy="go on with --resume") from None
        finally:
            until_end.close()
        if keep_best and processes.is_first and best.trained is None:
            raise ValueError("the best is kept by the scores that on_milestone returns, and none was a number")
        made = concept(best.step, best.trained) if keep_best and processes.is_first else concept(steps)
    if processes.is_first:
        made.save(out)
        checkpoint_path(out).unlink(missing_ok=True)
    processes.wait()
    return made


@dataclass
class _Best:
    """The best score so far, and what was learnt by then."""

    step: int = 0
    score: float = -math.inf
    trained: dict[str, Tensor] | None = None

    def offer(self, step: int, score: float, trained: dict[str, Tensor]) -> None:
        if score > self.score:
            self.step, self.score, self.trained = step, score, trained


def _digest(photos: Mapping[str, Sequence[Photo | Image.Image]]) -> str:
    """Eight hex digits of all that is learnt from: pictures, masks and captions."""
    found = hashlib.sha256()
    for token, some in photos.items():
        for one in some:
            parts = (one.picture, one.mask, one.caption) if isinstance(one, Photo) else (one, None, None)
            for part in (token, *parts):
                found.update(part.tobytes() if isinstance(part, Image.Image) else str(part).encode())
    return found.hexdigest()[:8]


def _batches(
    base: Base,
    photos: Mapping[str, Sequence[Photo | Image.Image]],
    subjects: Sequence[Subject],
    class_pictures: Mapping[str, Sequence[Image.Image]] | None,
    cached_views: int,
    seed: int,
    scheduler: Any,
) -> Batches:
    own = FreshViews(base, subject_examples(subjects, photos))
    prior = FreshViews(base, class_examples(subjects, class_pictures), augmented=False) if class_pictures is not None else None
    timesteps = scheduler.config.num_train_timesteps
    if not cached_views:
        return Batches(base, own, prior, seed=seed, num_train_timesteps=timesteps)
    cached_prior = CachedViews(base, prior, 1, seed) if prior else None
    return Batches(base, CachedViews(base, own, cached_views, seed), cached_prior, seed=seed, num_train_timesteps=timesteps)


@contextmanager
def _full_memory_named(device: torch.device) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"there is not enough memory on {device} for this training",
            cause=str(error).split(". ")[0],
            remedy="use --gradient-checkpointing, a smaller --batch-size or --dtype bf16; --samples-every needs some, too",
        ) from None


@contextmanager
def _checkpointed_gradients(base: Base, wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    # diffusers checkpoints only in training mode, which for these models differs from evaluation in nothing else: they have no dropout.
    base.unet.enable_gradient_checkpointing()
    base.unet.train()
    try:
        yield
    finally:
        base.unet.eval()
        base.unet.disable_gradient_checkpointing()


def _read(unread: Sequence[tuple[int, Tensor, list[str]]], steps: int, processes: Processes) -> list[Progress]:
    """The losses of the last steps, the mean over the processes, as numbers. Raises UserError for the first that is none."""
    values = processes.mean(torch.stack([losses for _, losses, _ in unread])).tolist()
    found = []
    for (step, _, names), (noise, prior, spl) in zip(unread, values, strict=True):
        if not math.isfinite(noise + prior + spl):
            raise UserError(
                f"the loss is not a number at step {step}",
                cause=f"its batch: {', '.join(names)}",
                remedy="start again with a lower --learning-rate, or with --dtype fp32",
            )
        found.append(Progress(step=step, steps=steps, noise_loss=noise, prior_loss=prior, spl=spl))
    return found
