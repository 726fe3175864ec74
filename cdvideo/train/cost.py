"""What a training takes on a device: measured by a few steps of it, or estimated from counts."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from cdvideo.base import load
from cdvideo.base.catalog import BasePreset
from cdvideo.base.device import DTYPES
from cdvideo.train.loop import Progress, train
from cdvideo.train.methods import find_method
from cdvideo.train.passes import records_graphs, records_operators
from cdvideo.train.subject import Subject

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
PROBE_STEPS = 3
SD15_PARAMETERS = 1_066_000_000
SD15_UNET_PARAMETERS = 859_520_964
SD15_KEY_VALUE_PARAMETERS = 19_169_280
SD15_SINGULAR_VECTOR_NUMBERS = 1_081_298_720
SD15_STEP_FLOPS_PER_VIEW = 2.9e12
"""UNet forward and backward for keys and values (1.73), and the autoencoder's encoder (1.12), at 512x512; counted on the real shapes."""
SD15_ACTIVATION_BYTES_PER_VIEW = {2: 0.75e9, 4: 1.5e9}
"""By the bytes of a number; counted on the real shapes, without gradient checkpointing."""
CHECKPOINTED_SHARE = 0.3
"""Of that with gradient checkpointing, by the peak of a bf16 step on random weights of that size."""
_LIBRARIES_BYTES = 1e9
_REACHED = 0.5
"""The share of a plain matrix product's speed that a step is taken to reach."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of a training that its cost depends on, named as `train` names them; None is the base's or the method's own."""

    method: str = "classdiffusion"
    steps: int | None = None
    batch_size: int | None = None
    accumulate: int = 1
    prior_weight: float | None = None
    cached_views: int = 0
    gradient_checkpointing: bool = False
    optimizer: str = "adamw"
    num_concepts: int = 1

    def steps_of(self, preset: BasePreset) -> int:
        return self.steps or preset.train_steps_for(self.num_concepts)

    @property
    def has_prior(self) -> bool:
        return bool(find_method(self.method).prior_weight if self.prior_weight is None else self.prior_weight)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the training takes: seconds a step and in all, the peak memory in bytes, and how these were found out.

    `measured` is False for an estimate from counts. `memory_bytes` is the GPU's where `device` is one, else the process's;
    `available_bytes` is what there is of it.
    """

    device: str
    dtype: str
    steps: int
    batch_size: int
    step_seconds: float
    total_seconds: float
    memory_bytes: int | None
    available_bytes: int | None
    measured: bool


def measured_cost(base: str, photo: Image.Image, subject: Subject, recipe: Recipe, *, device: torch.device, dtype: torch.dtype) -> Cost:
    """What training on such photos (square RGB) takes, from a few steps of it."""
    started = time.perf_counter()
    loaded = load(base, device=str(device), dtype=DTYPE_NAMES[dtype], offline=True)
    load_seconds = time.perf_counter() - started
    preset = loaded.preset
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    ends: list[float] = []

    def on_step(progress: Progress) -> None:
        ends.append(time.perf_counter())

    views = recipe.batch_size or preset.batch_size
    with tempfile.TemporaryDirectory() as scratch:
        train(
            loaded,
            {subject.token: [photo]},
            [subject],
            out=Path(scratch) / "probe.safetensors",
            steps=PROBE_STEPS,
            batch_size=views,
            learning_rate=preset.learning_rate,
            method=recipe.method,
            prior_weight=recipe.prior_weight,
            class_pictures={subject.class_word: [photo]} if recipe.has_prior else None,
            cached_views=min(recipe.cached_views, PROBE_STEPS),
            accumulate=recipe.accumulate,
            gradient_checkpointing=recipe.gradient_checkpointing,
            optimizer=recipe.optimizer,
            on_step=on_step,
        )
    # The first step also warms up what later ones find ready.
    step_seconds = (ends[-1] - ends[0]) / (len(ends) - 1)
    count = recipe.steps_of(preset)
    return Cost(
        device=str(device),
        dtype=DTYPE_NAMES[dtype],
        steps=count,
        batch_size=views,
        step_seconds=step_seconds,
        total_seconds=load_seconds + count * step_seconds,
        memory_bytes=_peak_memory(device),
        available_bytes=_memory(device),
        measured=True,
    )


def estimated_cost(preset: BasePreset, recipe: Recipe, *, device: torch.device, dtype: torch.dtype) -> Cost:
    """What training a Stable Diffusion 1.5 takes, from its counts and the speed of a matrix product on the device."""
    count, width = recipe.steps_of(preset), dtype.itemsize
    views = recipe.batch_size or preset.batch_size
    at_once = 2 * views if recipe.has_prior else views
    step_seconds = recipe.accumulate * at_once * SD15_STEP_FLOPS_PER_VIEW / (_REACHED * _matrix_product_flops(device, dtype))
    activations = at_once * SD15_ACTIVATION_BYTES_PER_VIEW[width]
    if recipe.gradient_checkpointing:
        step_seconds, activations = step_seconds * 4 / 3, activations * CHECKPOINTED_SHARE
    trained = {"dreambooth": SD15_UNET_PARAMETERS, "textual-inversion": 0, "svdiff": 0}.get(recipe.method, SD15_KEY_VALUE_PARAMETERS)
    # What trains is kept in fp32 four times over: itself, its gradient and AdamW's two moments, which take a byte each in 8 bits.
    # A pass that is recorded as a CUDA graph has gradients of its own.
    kept = (10 if recipe.optimizer == "adamw8bit" else 16) + (4 if records_graphs(device, recipe.gradient_checkpointing) else 0)
    memory = SD15_PARAMETERS * width + kept * trained + activations
    memory += 4 * SD15_SINGULAR_VECTOR_NUMBERS if recipe.method == "svdiff" else 0
    # Where operators are recorded, a second batch's gradients are computed beside those that they are added to.
    records = records_operators(device, dtype, recipe.gradient_checkpointing)
    memory += 4 * trained if records and recipe.accumulate > 1 else 0
    # Weights as a pass reads them, made of what trains, are kept until they have had their gradients.
    memory += SD15_UNET_PARAMETERS * width if recipe.method == "svdiff" or (recipe.method == "dreambooth" and width < 4) else 0
    memory += _LIBRARIES_BYTES if device.type == "cpu" else 0
    return Cost(
        device=str(device),
        dtype=DTYPE_NAMES[dtype],
        steps=count,
        batch_size=views,
        step_seconds=step_seconds,
        total_seconds=count * step_seconds,
        memory_bytes=int(memory),
        available_bytes=_memory(device),
        measured=False,
    )


def _matrix_product_flops(device: torch.device, dtype: torch.dtype, side: int = 1024, repeats: int = 3) -> float:
    """Floating-point operations a second that a matrix product reaches here; takes some tens of milliseconds."""
    matrix = torch.ones(side, side, device=device, dtype=dtype)
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        float((matrix @ matrix)[0, 0])
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds[1:])


def _peak_memory(device: torch.device) -> int | None:
    """The most bytes used so far: of the GPU's memory by PyTorch, or of the machine's by this process. None where it cannot be told."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def _memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
