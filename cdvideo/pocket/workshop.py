"""The parts of the pocket base: how each is trained, from what, and where the finished ones go."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, MotionAdapter, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from torch.multiprocessing.spawn import spawn

from cdvideo.motion.lora import save_motion_lora
from cdvideo.pocket import judge as judge_files
from cdvideo.pocket.recipes import autoencoder, camera, clip, judge, latents, motion, unet
from cdvideo.pocket.recipes.device import training_device
from cdvideo.pocket.recipes.pictures import draw_curve
from cdvideo.pocket.recipes.processes import on_every_core
from cdvideo.pocket.recipes.run import CHECKPOINT, begin_with
from cdvideo.pocket.world.icons import Icons
from cdvideo.pocket.world.moves import CAMERAS
from cdvideo.pocket.world.painter import Painter
from cdvideo.pocket.world.samples import paint_samples
from cdvideo.sampling.schedules import SCHEDULES

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = Path(__file__).parent / "weights"
MOTION_WEIGHTS = ROOT / "motion_modules" / "pocket"
DIFFUSERS_FILE = "diffusion_pytorch_model.safetensors"
NUM_STILLS, NUM_CAMERA_CLIPS, CLIP_FRAMES = 48_000, 160, 16
MOST_PAINTERS = 16
"""Each takes some hundred MB of a GPU, on which it encodes what it has painted."""
NUM_CLIPS = {"cpu": 3_000, "cuda": 12_000}
"""A GPU sees so many in its minutes that it would know fewer by heart."""


@dataclass(frozen=True)
class Workshop:
    """Where a training keeps its work, and how many processes train, and paint what is trained on."""

    folder: Path
    processes: int
    painters: int

    @property
    def painter(self) -> Painter:
        return Painter(Icons(self.folder / "icons"))

    def latents(self, name: str, *, count: int, seed: int, num_frames: int = 1, camera: str | None = None) -> Path:
        """The encoded picture world under a name, made once."""
        path = self.folder / f"{name}.pt"
        if not path.exists():
            share = count // self.painters
            spawn(_encode_share, (self, name, share, seed, num_frames, camera), nprocs=self.painters)
            parts = [self.folder / f"{name}-{rank}.pt" for rank in range(self.painters)]
            latents.Latents.joined([latents.Latents.load(part) for part in parts]).save(path)
            for part in parts:
                part.unlink()
        return path

    def autoencoder(self) -> AutoencoderKL:
        """As good as it is by now."""
        model, decoder = autoencoder.finished(self.painter, self.folder / "autoencoder"), self.folder / "decoder"
        return autoencoder.with_decoder(model, decoder) if (decoder / CHECKPOINT).exists() else model

    def clip(self) -> clip.Lesson:
        """As good as it is by now; its text side never changes after the first training."""
        vision = self.folder / "vision"
        return clip.Lesson.finished(self.folder / "clip", vision if (vision / CHECKPOINT).exists() else None)

    def moving(self) -> tuple[UNet2DConditionModel, MotionAdapter]:
        """The UNet and the motion module, which learns last and teaches the UNet's keys and values with it."""
        return motion.finished(self.folder / "unet", self.folder / "motion")

    def unet(self) -> UNet2DConditionModel:
        """As good as it is by now."""
        return self.moving()[0] if (self.folder / "motion" / CHECKPOINT).exists() else unet.finished(self.folder / "unet")

    def pipeline(self) -> StableDiffusionPipeline:
        """The image model of the parts that are trained by now."""
        lesson = self.clip()
        return StableDiffusionPipeline(
            vae=self.autoencoder(),
            text_encoder=lesson.model.text_model.eval(),
            tokenizer=lesson.tokenizer,
            unet=self.unet(),
            scheduler=DDIMScheduler.from_config(SCHEDULES["stable-diffusion"]),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    def keep(self, part: str, picture: Image.Image | None = None) -> None:
        """Draws a part's curve from its log, where it was trained here, and keeps a picture of what it makes beside it."""
        folder = self.folder / part
        if (folder / "log.jsonl").exists():
            draw_curve(folder / "log.jsonl", folder / "curve.png")
        if picture is not None:
            picture.save(folder / "samples.png")


def _encode_share(rank: int, workshop: Workshop, name: str, count: int, seed: int, num_frames: int, camera: str | None) -> None:
    torch.set_num_threads(1)
    lesson = workshop.clip()
    painter = workshop.painter
    coder = autoencoder.finished(painter, workshop.folder / "autoencoder")
    encoded = latents.encode_world(
        painter,
        coder,
        lesson.model.text_model.eval(),
        lesson.tokenizer,
        count=count,
        seed=seed + rank,
        num_frames=num_frames,
        camera=camera,
    )
    encoded.save(workshop.folder / f"{name}-{rank}.pt")


def train_autoencoder(workshop: Workshop, seconds: float) -> None:
    autoencoder.train(workshop.painter, workshop.folder / "autoencoder", seconds)
    workshop.keep("autoencoder", autoencoder.show(workshop.autoencoder(), workshop.painter))


def train_decoder(workshop: Workshop, seconds: float) -> None:
    joint = autoencoder.finished(workshop.painter, workshop.folder / "autoencoder")
    autoencoder.train_decoder(workshop.painter, joint, workshop.folder / "decoder", seconds)
    workshop.keep("decoder", autoencoder.show(workshop.autoencoder(), workshop.painter))


def train_clip(workshop: Workshop, seconds: float) -> None:
    clip.train(workshop.painter, workshop.folder / "clip", seconds)
    workshop.keep("clip", clip.show(workshop.painter, workshop.clip()))


def train_vision(workshop: Workshop, seconds: float) -> None:
    clip.train_vision(workshop.painter, workshop.folder / "clip", workshop.folder / "vision", seconds)
    workshop.keep("vision", clip.show(workshop.painter, workshop.clip()))


def train_judge(workshop: Workshop, seconds: float) -> None:
    judge.train(workshop.painter, workshop.folder / "judge", seconds)
    workshop.keep("judge", judge.show(judge.finished(workshop.folder / "judge"), workshop.painter))


def train_unet(workshop: Workshop, seconds: float) -> None:
    data = workshop.latents("stills", count=NUM_STILLS, seed=100)
    on_every_core(unet.train_worker, data, workshop.folder / "unet", seconds, processes=workshop.processes)
    workshop.keep("unet", unet.show(workshop.pipeline()))


def train_motion(workshop: Workshop, seconds: float) -> None:
    count = NUM_CLIPS[training_device().type]
    clips = workshop.latents(f"clips-{count}", count=count, seed=200, num_frames=CLIP_FRAMES)
    stills = workshop.latents("stills", count=NUM_STILLS, seed=100)
    folder = workshop.folder
    on_every_core(motion.train_worker, clips, stills, folder / "unet", folder / "motion", seconds, processes=workshop.processes)
    pipeline = workshop.pipeline()
    workshop.keep("unet", unet.show(pipeline))
    workshop.keep("motion", motion.show(pipeline, workshop.moving()[1]))


def train_cameras(workshop: Workshop, seconds: float) -> None:
    """One MotionLoRA for each camera move, each for its share of the time."""
    folder = workshop.folder
    for number, move in enumerate(CAMERAS):
        data = workshop.latents(f"camera-{move}", count=NUM_CAMERA_CLIPS, seed=300 + 2 * number, num_frames=CLIP_FRAMES, camera=move)
        own, share = folder / "cameras" / move, seconds / len(CAMERAS)
        on_every_core(camera.train_worker, data, folder / "unet", folder / "motion", own, share, processes=workshop.processes)
        workshop.keep(f"cameras/{move}")
    moves = {move: camera.finished(folder / "cameras" / move) for move in CAMERAS}
    camera.show(workshop.pipeline(), workshop.moving()[1], moves).save(folder / "cameras" / "samples.png")


def begin_with_shipped(workshop: Workshop) -> None:
    """Lets every part that has no checkpoint yet begin with the weights that ship."""
    shipped = {
        "autoencoder": (WEIGHTS / "vae" / DIFFUSERS_FILE, ""),
        "clip": (WEIGHTS / "clip" / "model.safetensors", "model."),
        "judge": (WEIGHTS / "judge" / judge_files.FILE, ""),
        "unet": (WEIGHTS / "unet" / DIFFUSERS_FILE, ""),
        "motion": (MOTION_WEIGHTS / DIFFUSERS_FILE, ""),
    }
    for part, (file, prefix) in shipped.items():
        if not (workshop.folder / part / CHECKPOINT).exists():
            begin_with(workshop.folder / part, {prefix + name: value for name, value in load_file(file).items()})
            if part == "clip":
                shutil.copytree(WEIGHTS / "tokenizer", workshop.folder / part / "tokenizer")
    for move in CAMERAS:
        if not (workshop.folder / "cameras" / move / CHECKPOINT).exists():
            begin_with(workshop.folder / "cameras" / move, camera.as_trained(load_file(MOTION_WEIGHTS / "loras" / f"{move}.safetensors")))


def export_moving(workshop: Workshop, share: float = 1.0) -> None:
    """Writes the UNet and the motion module, in fp16, where the package finds them.

    With a `share` below 1 only so far from the weights that ship to those that are finished here, in a straight line (Wortsman et al.
    2022): long training on clips makes the motion module sure of itself, also where a concept's keys and values ask for no motion.
    """
    base, adapter = workshop.moving()
    for part, folder in ((base, WEIGHTS / "unet"), (adapter, MOTION_WEIGHTS)):
        finished = part.state_dict()
        if share < 1:
            shipped = load_file(folder / DIFFUSERS_FILE)
            part.load_state_dict({name: torch.lerp(value.float(), finished[name], share) for name, value in shipped.items()}, strict=False)
        part.half().save_pretrained(folder)


def export(workshop: Workshop, share: float = 1.0) -> None:
    """Writes the finished parts, in fp16, where the package finds them, and the personal subjects' pictures into `samples/`.

    `share` is as for `export_moving`.

    The judge and the camera moves are written where they were trained here; those that ship stay otherwise.
    """
    folder = workshop.folder
    paint_samples(workshop.painter, ROOT / "samples")
    if (drawn := folder / "unet" / "samples.png").exists():
        shutil.copy(drawn, ROOT / "samples" / "pocket.png")
    lesson = workshop.clip()
    if (folder / "judge" / CHECKPOINT).exists():
        judge.save(judge.finished(folder / "judge"), WEIGHTS / "judge")
    export_moving(workshop, share)
    parts = {"vae": workshop.autoencoder(), "text_encoder": lesson.model.text_model, "clip": lesson.model}
    for name, part in parts.items():
        shutil.rmtree(WEIGHTS / name, ignore_errors=True)
        part.half().save_pretrained(WEIGHTS / name)
    lesson.tokenizer.save_pretrained(WEIGHTS / "tokenizer")
    scheduler = {"_class_name": "DDIMScheduler", "_diffusers_version": "0.42.1", **SCHEDULES["stable-diffusion"]}
    for name, content in {"scheduler/scheduler_config.json": scheduler, "model_index.json": MODEL_INDEX}.items():
        path = WEIGHTS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n")
    for move in CAMERAS if all((folder / "cameras" / move / CHECKPOINT).exists() for move in CAMERAS) else ():
        save_motion_lora(MOTION_WEIGHTS / "loras" / f"{move}.safetensors", camera.finished(folder / "cameras" / move))


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


@dataclass(frozen=True)
class Part:
    """A part's training, and the minutes it is given on two CPU cores or on a GPU."""

    train: Callable[[Workshop, float], None]
    cpu_minutes: float
    gpu_minutes: float

    @property
    def minutes(self) -> float:
        return self.cpu_minutes if training_device().type == "cpu" else self.gpu_minutes


PARTS = {
    "autoencoder": Part(train_autoencoder, 20, 5),
    "clip": Part(train_clip, 17, 4),
    "judge": Part(train_judge, 20, 4),
    "unet": Part(train_unet, 240, 8),
    "decoder": Part(train_decoder, 30, 3),
    "vision": Part(train_vision, 20, 3),
    "motion": Part(train_motion, 200, 5),
    "cameras": Part(train_cameras, 24, 4),
}
