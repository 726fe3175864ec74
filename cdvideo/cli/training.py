"""Running a training with a progress bar; shared by `train` and `demo`."""

from __future__ import annotations

import warnings
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from cdvideo import base, train
from cdvideo.concept import Concept, Looks
from cdvideo.config import TrainConfig
from cdvideo.errors import UserError, UserNote
from cdvideo.train.journal import Journal, Scorer, journal_folder
from cdvideo.train.optimisers import check_optimizer
from cdvideo.train.previews import class_picture_paths, class_pictures, read_class_pictures
from cdvideo.train.processes import Processes

if TYPE_CHECKING:
    from PIL.Image import Image

    from cdvideo.evaluate.clip import Clip
    from cdvideo.train.photos import Photo


def checked_options(settings: TrainConfig, out: Path, *, overwrite: bool, resume: bool) -> dict[str, Path]:
    """The folders of pictures by class word. Raises UserError for what a training refuses whatever its photos and its base are."""
    checkpoint = train.checkpoint_path(out)
    if resume:
        train.check_resumable(checkpoint)
    elif checkpoint.exists() and not overwrite:
        raise UserError(
            f"there is an unfinished training: {checkpoint}", remedy="go on from it with --resume, or begin anew with --overwrite"
        )
    check_optimizer(settings.optimizer)
    train.check_spl_weight(settings.method, settings.spl_weight)
    given: dict[str, Path] = {}
    for one in settings.subjects:
        if one.class_images and given.setdefault(one.class_word, one.class_images) != one.class_images:
            raise UserError(
                f"there are two folders of pictures of the class {one.class_word}: {given[one.class_word]} and {one.class_images}",
                remedy="put the pictures into one, and name it once",
            )
    own = train.find_method(settings.method).prior_weight
    if own if settings.prior_weight is None else settings.prior_weight:
        for folder in given.values():
            class_picture_paths(folder)
    return given


def train_concept(
    settings: TrainConfig,
    out: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    offline: bool = False,
    overwrite: bool = False,
    resume: bool = False,
) -> Concept:
    given = checked_options(settings, out, overwrite=overwrite, resume=resume)
    named = {str(subject.token): subject for subject in settings.subjects}
    photos = {token: train.load_photos(one.images, token=token, class_word=one.class_word) for token, one in named.items()}
    loaded = base.load(settings.base, device=device, dtype=dtype, offline=offline)
    for one in named.values():
        base.single_token_id(loaded.tokenizer, one.class_word)
    preset, method = loaded.preset, train.find_method(settings.method)
    subjects = [
        train.Subject(token=token, class_word=one.class_word, initializer=one.initializer or preset.initializer(number) or one.class_word)
        for number, (token, one) in enumerate(named.items())
    ]
    steps = settings.steps or preset.train_steps_for(len(subjects))
    processes = Processes.join(loaded.device)
    prior_weight = method.prior_weight if settings.prior_weight is None else settings.prior_weight
    judges = processes.is_first and bool(settings.samples_every or settings.keep == "best")
    clip = _clip(preset.kind, needed=settings.keep == "best", offline=offline) if judges else None

    @cache
    def looks() -> dict[str, Looks]:
        # Asked for once there is something to keep or to judge, so that the first step need not wait for CLIP.
        found = clip or _clip(preset.kind, needed=False, offline=offline)
        return _looks(found, photos, preset.native_size) if found else {}

    journal = None
    if processes.is_first:
        journal = Journal(
            journal_folder(out),
            subjects,
            settings=settings.model_dump(mode="json"),
            prompts=settings.sample_prompts,
            samples_every=settings.samples_every,
            scorer=_scorer(clip, looks()) if clip and settings.samples_every else None,
            logs=settings.log,
            resume=resume,
        )
    of_classes = None
    if given and not prior_weight:
        note = f"no prior preservation with {settings.method}: the pictures in {', '.join(map(str, given.values()))} are not used"
        warnings.warn(f"{note}; --prior-weight 1 uses them", UserNote, stacklevel=1)
    if "num_class_images" in settings.model_fields_set and not prior_weight:
        note = f"no prior preservation with {settings.method}: no pictures of the class are drawn; --prior-weight 1 uses some"
        warnings.warn(note, UserNote, stacklevel=1)
    if prior_weight:
        words = list(dict.fromkeys(one.class_word for one in named.values()))
        with processes.first_before_others():
            of_classes = _class_pictures(loaded, words, given, journal_folder(out), settings.num_class_images)
    count = sum(map(len, photos.values()))
    what = f"learning {', '.join(named)} from {count} photo{'s' if count > 1 else ''}"
    with tqdm(desc=what, unit="step", total=steps, dynamic_ncols=True, disable=journal is None) as bar, closing(processes):

        def on_step(progress: train.Progress) -> None:
            bar.update(progress.step - bar.n)
            bar.set_postfix(loss=f"{progress.noise_loss:.3f}", SPL=f"{progress.spl:.4f}", refresh=False)
            if journal:
                journal.step(progress)

        try:
            return train.train(
                loaded,
                photos,
                subjects,
                out=out,
                steps=steps,
                batch_size=settings.batch_size or preset.batch_size,
                learning_rate=settings.learning_rate or preset.learning_rate,
                method=settings.method,
                spl_weight=settings.spl_weight,
                spl_mode=settings.spl_mode,
                prior_weight=prior_weight,
                class_pictures=of_classes,
                looks=looks,
                cached_views=settings.cache_latents,
                accumulate=settings.accumulate,
                gradient_checkpointing=settings.gradient_checkpointing,
                optimizer=settings.optimizer,
                seed=settings.seed,
                checkpoint_every=settings.checkpoint_every,
                milestone_every=settings.samples_every or None,
                keep_best=settings.keep == "best",
                resume=resume,
                on_step=on_step,
                on_milestone=journal.milestone if journal else None,
            )
        finally:
            if journal:
                journal.close()


def _class_pictures(loaded: base.Base, words: list[str], given: dict[str, Path], folder: Path, count: int) -> dict[str, list[Image]]:
    """By class word, the pictures that the user gave, or else those that the base draws."""
    found = {}
    for word in words:
        if word in given:
            found[word] = read_class_pictures(loaded, given[word])
            continue
        with tqdm(total=count, desc=f"pictures of a {word} for prior preservation", unit="picture", dynamic_ncols=True) as bar:

            def drawn(done: int, bar: Any = bar) -> None:
                bar.update(done - bar.n)

            own = folder / f"class-{word}-{loaded.fingerprint[:8]}"
            found[word] = class_pictures(loaded, word, own, count, on_picture=drawn)
    return found


def _looks(clip: Clip, photos: dict[str, list[Photo]], side: int) -> dict[str, Looks]:
    """What the photos of each token look like to CLIP at the size that they are learnt at."""
    import numpy as np

    seen = {token: np.stack([np.asarray(photo.picture.resize((side, side))) for photo in some]) for token, some in photos.items()}
    return {token: Looks(clip.images(pictures), clip.name) for token, pictures in seen.items()}


def _scorer(clip: Clip, looks: dict[str, Looks]) -> Scorer:
    """Scores by CLIP: how well pictures fit their prompts, and how like they are to the photos."""
    import torch

    own = torch.cat([seen.features for seen in looks.values()])

    def score(pictures: Any, prompts: Any) -> dict[str, float]:
        alignment, likeness = clip.alignment(pictures, prompts), clip.likeness(pictures, own)
        return {"clip_t": alignment, "clip_i": likeness, "score": alignment + likeness}

    return score


def _clip(kind: str, *, needed: bool, offline: bool) -> Clip | None:
    """The CLIP of a kind of base; fetched only where it is needed, None where it is not and is not on this machine either."""
    from cdvideo.evaluate.clip import clip_of, fetch_clip

    if needed:
        fetch_clip(kind, offline=offline)
    clip = clip_of(kind)
    if clip is None and needed:
        raise UserError("no CLIP is there for this base, so the best checkpoint cannot be told", remedy="leave --keep best out")
    return clip
