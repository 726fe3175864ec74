"""Running a training with a progress bar; shared by `train` and `demo`."""

from __future__ import annotations

import warnings
from pathlib import Path

from tqdm import tqdm

from cdvideo import base, train
from cdvideo.concept import Concept
from cdvideo.config import TrainConfig
from cdvideo.errors import UserNote


def train_concept(
    settings: TrainConfig, out: Path, *, device: str = "auto", dtype: str = "auto", offline: bool = False, resume: bool = False
) -> Concept:
    paths = train.find_photos(settings.images)
    photos = [train.load_photo(path) for path in paths]
    loaded = base.load(settings.base, device=device, dtype=dtype, offline=offline)
    preset = loaded.preset
    steps = settings.steps or preset.train_steps
    subject = train.Subject(
        token=settings.token, class_word=settings.class_word, initializer=preset.initializer_token or settings.class_word
    )
    base.single_token_id(loaded.tokenizer, subject.class_word)
    if not resume and train.checkpoint_path(out).exists():
        message = f"starting anew; --resume would go on from {train.checkpoint_path(out)}"
        warnings.warn(message, UserNote, stacklevel=1)
    with tqdm(total=steps, desc=f"learning {settings.token} from {len(photos)} photos", unit="step", dynamic_ncols=True) as bar:

        def on_step(progress: train.Progress) -> None:
            bar.update(progress.step - bar.n)
            bar.set_postfix(loss=f"{progress.noise_loss:.3f}", SPL=f"{progress.spl:.4f}", refresh=False)

        return train.train(
            loaded,
            {subject.token: photos},
            [subject],
            out=out,
            steps=steps,
            batch_size=settings.batch_size or preset.batch_size,
            learning_rate=settings.learning_rate or preset.learning_rate,
            spl_weight=preset.spl_weight if settings.spl_weight is None else settings.spl_weight,
            seed=settings.seed,
            resume=resume,
            on_step=on_step,
        )
