"""The paper's phenomenon in miniature: Custom Diffusion loses composition as steps grow, ClassDiffusion keeps it (Huang et al. 2024).

Personal subjects are trained through the public code with λ = 0 and λ = 1, and each training's concept is kept at several steps. The base
without a concept, asked for the class alone, is the ceiling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cdvideo import train
from cdvideo.base import Base
from cdvideo.concept import Concept
from cdvideo.pocket.report.likeness import sample_subjects
from cdvideo.pocket.report.prompts import Prompt, personal_prompts
from cdvideo.pocket.report.rendering import Order, load_base, renderer
from cdvideo.pocket.report.shelf import Record, Shelf, work_through
from cdvideo.train.preservation import class_distances

TOKEN = "V*"
METHODS = {"Custom Diffusion": 0.0, "ClassDiffusion": 1.0}
"""The two that the paper compares, each with its weight of the semantic preservation loss."""
BASE = "base"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is tried. Everything in it that changes a result is part of the name of where the result is kept.

    `arms` are names and the weights of the semantic preservation loss that they stand for.
    """

    subjects: tuple[str, ...]
    steps: tuple[int, ...] = (60, 240, 480)
    num_prompts: int = 25
    guidance: float = 7.5
    learning_rate: float | None = None
    seed: int = 0
    arms: tuple[tuple[str, float], ...] = tuple(METHODS.items())


@dataclass(frozen=True, kw_only=True)
class Training:
    """One subject learnt with one method; the concept at each of `steps` goes to `concept_path`."""

    subject: str
    method: str
    spl_weight: float
    steps: tuple[int, ...]
    learning_rate: float | None
    seed: int
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One picture of the experiment. `steps` is 0 for the base."""

    subject: str
    method: str
    steps: int
    number: int
    prompt: Prompt
    path: Path


def concept_path(folder: Path, subject: str, method: str, steps: int) -> Path:
    return folder / f"{subject}-{method.replace(' ', '').lower()}-{steps}.safetensors"


class Trainer:
    """Trains one subject after another on one base."""

    def __init__(self, device: str) -> None:
        self.base = load_base(device)

    def __call__(self, training: Training) -> Record:
        return {"drift": {str(steps): distance for steps, distance in concepts_along(self.base, training).items()}}


def concepts_along(base: Base, training: Training) -> dict[int, float]:
    """The drift of the concept at each of the steps, which are written on the way of one training.

    Every sample depends on the seed and its step alone and the rate is constant, so that the state after 60 steps is a training of 60.
    """
    subject = train.Subject(token=TOKEN, class_word=training.subject, initializer=base.preset.initializer(0) or training.subject)
    photos = [train.load_photo(path) for path in sample_subjects()[training.subject]]
    steps = sorted(training.steps)
    out = concept_path(training.folder, training.subject, training.method, steps[-1])

    def keep(milestone: train.Milestone) -> None:
        if milestone.step in steps:
            milestone.concept().save(concept_path(training.folder, training.subject, training.method, milestone.step))

    train.train(
        base,
        {TOKEN: photos},
        [subject],
        out=out,
        steps=steps[-1],
        batch_size=base.preset.batch_size,
        learning_rate=training.learning_rate or base.preset.learning_rate,
        spl_weight=training.spl_weight,
        seed=training.seed,
        checkpoint_every=math.gcd(*steps),
        resume=train.checkpoint_path(out).exists(),
        on_milestone=keep,
    )
    distances = {}
    for step in steps:
        concept = Concept.load(concept_path(training.folder, training.subject, training.method, step))
        with base.inject(concept):
            distances[step] = class_distances(base, [subject])[TOKEN]
    return distances


def cells(plan: Plan, folder: Path) -> dict[str, Cell]:
    """Every picture of the plan by key. The same prompt and noise for both methods, at every number of steps, and for the base."""
    found = {}
    arms = [(BASE, 0), *((method, steps) for steps in plan.steps for method, _ in plan.arms)]
    for subject in plan.subjects:
        prompts = personal_prompts(subject, TOKEN, plan.num_prompts)
        for method, steps in arms:
            for number, prompt in enumerate(prompts):
                key = f"{subject} {method} {steps} {number}"
                path = folder / subject / f"{method.replace(' ', '').lower()}-{steps}" / f"{number:02d}.png"
                found[key] = Cell(subject=subject, method=method, steps=steps, number=number, prompt=prompt, path=path)
    return found


def without_token(text: str) -> str:
    return text.replace(f"{TOKEN} ", "")


def plan_folder(work: Path, plan: Plan, fingerprint: str) -> Path:
    rate = "" if plan.learning_rate is None else f"-lr{plan.learning_rate:g}"
    return work / "phenomenon" / f"{fingerprint[:12]}-s{plan.seed}{rate}"


def run(plan: Plan, folder: Path, *, processes: int, device: str) -> tuple[dict[str, Cell], dict[str, Record]]:
    """Trains and renders what is not there yet; the pictures, and each training's drift by "subject method"."""
    most = max(plan.steps)
    trainings = {
        f"{subject} {method} {','.join(map(str, plan.steps))}": Training(
            subject=subject,
            method=method,
            spl_weight=spl_weight,
            steps=plan.steps,
            learning_rate=plan.learning_rate,
            seed=plan.seed,
            folder=folder / f"concepts-{most}",
        )
        for subject in plan.subjects
        for method, spl_weight in plan.arms
    }
    start: Callable[[], Trainer] = partial(Trainer, device)
    drifts = work_through(trainings, Shelf(folder / "trainings.jsonl"), start, processes=processes, title="trainings")
    pictures = folder / f"pictures-g{plan.guidance:g}"
    planned = cells(plan, pictures)
    orders = {key: _order(cell, plan, folder / f"concepts-{most}") for key, cell in planned.items()}
    work_through(orders, Shelf(pictures / "pictures.jsonl"), renderer(device), processes=processes, title="pictures of personal subjects")
    return planned, {key.rsplit(" ", 1)[0]: record for key, record in drifts.items()}


def _order(cell: Cell, plan: Plan, concepts: Path) -> Order:
    is_base = cell.method == BASE
    return Order(
        prompt=without_token(cell.prompt.text) if is_base else cell.prompt.text,
        seed=cell.prompt.seed,
        path=cell.path,
        guidance=plan.guidance,
        concept=None if is_base else concept_path(concepts, cell.subject, cell.method, cell.steps),
    )
