"""What a training leaves to look at while it runs: a log, a growing sheet of fixed prompts, and scores."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cdvideo.errors import UserError
from cdvideo.files import replace_files
from cdvideo.train.loop import Milestone, Progress
from cdvideo.train.previews import SAMPLE_PHRASES, draw, png_bytes
from cdvideo.train.subject import Subject
from cdvideo.video.sheet import contact_sheet

Scorer = Callable[[NDArray[np.uint8], Sequence[str]], dict[str, float]]
"""From pictures (N, H, W, 3) and their prompts without tokens, scores by name, among them "score", by which the best is kept."""
LOG_EVERY = 10
_ROW_NAME = re.compile(r"samples-\d{6,}\.png")
_PROMPTS = "prompts"
"""The entry of a row's PNG that holds them."""


class Journal:
    """Writes `log.jsonl` and `samples.png` into a folder, and to TensorBoard or Weights & Biases where asked to.

    With `samples_every`, the fixed prompts are drawn at every milestone whose step is a multiple of it, and at the end; with a `scorer` the
    pictures are scored, and a milestone's score is the scorer's.
    """

    def __init__(
        self,
        folder: Path,
        subjects: Sequence[Subject],
        *,
        settings: dict[str, Any],
        prompts: Sequence[str] = (),
        samples_every: int = 0,
        scorer: Scorer | None = None,
        logs: Sequence[str] = (),
        resume: bool = False,
    ) -> None:
        self.folder, self.subjects = folder, subjects
        self.prompts = list(prompts) or sample_prompts(subjects)
        self.samples_every, self.scorer = samples_every, scorer
        self.sheet_path, self.log_path = folder / "samples.png", folder / "log.jsonl"
        self._sinks = [_open(log, folder, settings) for log in logs]
        self._resume = resume
        self._recent: list[Progress] = []
        self._began = False

    def step(self, progress: Progress) -> None:
        self._begin(progress.step)
        self._recent.append(progress)
        if progress.step % LOG_EVERY == 0 or progress.step == progress.steps:
            names = ("noise_loss", "prior_loss", "spl")
            self._write(progress.step, {name: float(np.mean([getattr(one, name) for one in self._recent])) for name in names})
            self._recent.clear()

    def milestone(self, milestone: Milestone) -> float | None:
        """Logs the drift and, where it is time, draws and scores; returns the score."""
        self._begin(milestone.step + 1)
        values = {f"drift/{token}": distance for token, distance in milestone.drift.items()}
        is_end = milestone.step == milestone.steps
        if self.samples_every and (milestone.step % self.samples_every == 0 or is_end):
            pictures = draw(milestone.base, self.prompts)
            row = Image.fromarray(np.concatenate(list(pictures), axis=1))
            path = self.folder / f"samples-{milestone.step:06d}.png"
            replace_files(path, [(path, png_bytes(row, {_PROMPTS: json.dumps(self.prompts)}))])
            self._draw_sheet()
            for sink in self._sinks:
                sink.picture(milestone.step, np.asarray(row))
            if self.scorer:
                values |= self.scorer(pictures, [self.without_tokens(prompt) for prompt in self.prompts])
        self._write(milestone.step, values)
        return values.get("score")

    def without_tokens(self, prompt: str) -> str:
        for subject in self.subjects:
            prompt = re.sub(rf"(?<!\w){re.escape(subject.token)} {re.escape(subject.class_word)}(?!\w)", subject.class_word, prompt)
            prompt = re.sub(rf"(?<!\w){re.escape(subject.token)}(?!\w)", subject.class_word, prompt)
        return prompt

    def _begin(self, step: int) -> None:
        """Makes the folder when there is something to keep in it, without what an earlier training left from this step on."""
        if self._began:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._resume:
            for old in (self.log_path, self.sheet_path, *self._drawn()):
                old.unlink(missing_ok=True)
        self._forget_from(step)
        for sink in self._sinks:
            sink.begin(step)
        self._began = True

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()

    def _forget_from(self, step: int) -> None:
        """Removes what a stopped training had logged after the checkpoint that is gone on from."""
        if self.log_path.exists():
            kept = [line for line in self.log_path.read_text(encoding="utf-8").splitlines() if _step(line) < step]
            replace_files(self.log_path, [(self.log_path, "".join(f"{line}\n" for line in kept).encode())])

    def _drawn(self) -> list[Path]:
        """The rows of pictures, by step; not what else somebody may keep beside them."""
        return sorted(path for path in self.folder.iterdir() if _ROW_NAME.fullmatch(path.name))

    def _draw_sheet(self) -> None:
        rows, labels, before = [], [], None
        for path in self._drawn():
            with Image.open(path) as picture:
                pixels, prompts = np.asarray(picture.convert("RGB")), json.loads(picture.info.get(_PROMPTS, "[]"))
                rows.append(np.stack(np.split(pixels, pixels.shape[1] // pixels.shape[0], axis=1)))
            step = f"step {int(path.stem.removeprefix('samples-'))}"
            # A training that goes on may have been given others.
            labels.append(f"{' | '.join(prompts)}: {step}" if prompts and prompts != before else step)
            before = prompts
        sheet = contact_sheet(rows, max(map(len, rows)), labels)
        replace_files(self.sheet_path, [(self.sheet_path, png_bytes(sheet))])

    def _write(self, step: int, values: dict[str, float]) -> None:
        with self.log_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **{name: round(value, 6) for name, value in values.items()}}) + "\n")
        for sink in self._sinks:
            sink.numbers(step, values)


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except ValueError:
        return float("inf")


def sample_prompts(subjects: Sequence[Subject]) -> list[str]:
    """The fixed prompts: each phrase after each subject's."""
    return [f"a {subject.token} {subject.class_word} {phrase}".strip() for subject in subjects for phrase in SAMPLE_PHRASES]


def journal_folder(out: Path) -> Path:
    """Where the training that will write `out` keeps its log and its sheet."""
    return out.with_suffix(".training")


def _open(log: str, folder: Path, settings: dict[str, Any]) -> _TensorBoard | _WeightsAndBiases:
    return _TensorBoard(folder) if log == "tensorboard" else _WeightsAndBiases(folder, settings)


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            remedy = 'pip install "cdvideo[log]", or leave --log out'
            raise UserError("a log for TensorBoard needs the package tensorboardX", cause=str(error), remedy=remedy) from error
        self._kind, self.folder = SummaryWriter, folder
        self.writer: Any = None

    def begin(self, step: int) -> None:
        """Hides what an earlier run logged of this step and later ones."""
        self.writer = self._kind(str(self.folder), purge_step=step)

    def numbers(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, step: int, picture: NDArray[np.uint8]) -> None:
        self.writer.add_image("samples", picture, step, dataformats="HWC")

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class _WeightsAndBiases:
    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            remedy = "pip install wandb, or leave --log out"
            raise UserError("a log at Weights & Biases needs the package wandb", cause=str(error), remedy=remedy) from error
        self.wandb = wandb
        self.run = wandb.init(project="cdvideo", dir=str(folder), config=settings)

    def begin(self, step: int) -> None:
        """A run of its own has nothing to hide."""

    def numbers(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def picture(self, step: int, picture: NDArray[np.uint8]) -> None:
        self.run.log({"samples": self.wandb.Image(picture)}, step=step)

    def close(self) -> None:
        self.run.finish()
