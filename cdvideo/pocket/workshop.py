"""The parts of the pocket base: how each is trained, from what, and where the finished ones go."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.multiprocessing.spawn import spawn

from cdvideo.pocket.recipes import autoencoder, clip, latents, unet
from cdvideo.pocket.recipes.processes import on_every_core
from cdvideo.pocket.world.icons import Icons
from cdvideo.pocket.world.scene import Painter

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = Path(__file__).parent / "weights"
MOTION_WEIGHTS = ROOT / "motion_modules" / "pocket"
NUM_STILLS, NUM_CLIPS, CLIP_FRAMES = 32_000, 2_400, 16


@dataclass(frozen=True)
class Workshop:
    """Where a training keeps its work, and on how many processes."""

    folder: Path
    processes: int

    @property
    def painter(self) -> Painter:
        return Painter(Icons(self.folder / "icons"))

    def latents(self, name: str, *, count: int, seed: int, num_frames: int, moving: bool) -> Path:
        """The encoded picture world under a name, made once."""
        path = self.folder / f"{name}.pt"
        if not path.exists():
            share = count // self.processes
            spawn(_encode_share, (self, name, share, seed, num_frames, moving), nprocs=self.processes)
            parts = [self.folder / f"{name}-{rank}.pt" for rank in range(self.processes)]
            latents.Latents.joined([latents.Latents.load(part) for part in parts]).save(path)
            for part in parts:
                part.unlink()
        return path


def _encode_share(rank: int, workshop: Workshop, name: str, count: int, seed: int, num_frames: int, moving: bool) -> None:
    torch.set_num_threads(1)
    model, tokenizer = clip.finished(workshop.folder / "clip")
    painter = workshop.painter
    coder = autoencoder.finished(painter, workshop.folder / "autoencoder")
    encoded = latents.encode_world(
        painter, coder, model.text_model, tokenizer, count=count, seed=seed + rank, num_frames=num_frames, moving=moving
    )
    encoded.save(workshop.folder / f"{name}-{rank}.pt")


def train_autoencoder(workshop: Workshop, seconds: float) -> None:
    torch.manual_seed(0)
    autoencoder.train(workshop.painter, workshop.folder / "autoencoder", seconds)


def train_clip(workshop: Workshop, seconds: float) -> None:
    torch.manual_seed(0)
    clip.train(workshop.painter, workshop.folder / "clip", seconds)


def train_unet(workshop: Workshop, seconds: float) -> None:
    data = workshop.latents("stills", count=NUM_STILLS, seed=100, num_frames=1, moving=False)
    on_every_core(unet.train_worker, data, workshop.folder / "unet", seconds, processes=workshop.processes)


def train_motion(workshop: Workshop, seconds: float) -> None:
    from cdvideo.pocket.recipes import motion

    data = workshop.latents("clips", count=NUM_CLIPS, seed=200, num_frames=CLIP_FRAMES, moving=True)
    folder = workshop.folder
    on_every_core(motion.train_worker, data, folder / "unet", folder / "motion", seconds, processes=workshop.processes)


def export(workshop: Workshop) -> None:
    """Writes the finished parts, in fp16, where the package finds them."""
    from cdvideo.pocket.recipes import motion

    painter, folder = workshop.painter, workshop.folder
    for name, part in {
        "vae": lambda: autoencoder.finished(painter, folder / "autoencoder"),
        "text_encoder": lambda: clip.finished(folder / "clip")[0].text_model,
        "unet": lambda: unet.finished(folder / "unet"),
    }.items():
        shutil.rmtree(WEIGHTS / name, ignore_errors=True)
        part().half().save_pretrained(WEIGHTS / name)
    clip.finished(folder / "clip")[1].save_pretrained(WEIGHTS / "tokenizer")
    scheduler = {"_class_name": "DDIMScheduler", "_diffusers_version": "0.42.1", **_stable_diffusion_schedule()}
    for name, content in {"scheduler/scheduler_config.json": scheduler, "model_index.json": MODEL_INDEX}.items():
        path = WEIGHTS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n")
    if (folder / "motion").exists():
        motion.finished(folder / "unet", folder / "motion").half().save_pretrained(MOTION_WEIGHTS)


def _stable_diffusion_schedule() -> dict[str, object]:
    from cdvideo.sampling.schedules import SCHEDULES

    return SCHEDULES["stable-diffusion"]


MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

PARTS: dict[str, tuple[Callable[[Workshop, float], None], float]] = {
    "autoencoder": (train_autoencoder, 9),
    "clip": (train_clip, 13),
    "unet": (train_unet, 58),
    "motion": (train_motion, 26),
}
"""Each part's training and the minutes of two CPU cores that it was given."""
