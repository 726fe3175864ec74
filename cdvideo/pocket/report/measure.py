"""Measures the shipped pocket base: renders what is not rendered yet, then looks at everything with the judge, CLIP and optical flow."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cdvideo.evaluate.clip import Clip, clip_of
from cdvideo.pocket.judge import Judge
from cdvideo.pocket.recipes.judge import held_out_accuracy
from cdvideo.pocket.report import camera
from cdvideo.pocket.report.figures import Figure, mean, median, missing, rate
from cdvideo.pocket.report.likeness import followed, identity, read_photos, sample_subjects
from cdvideo.pocket.report.prompts import CAMERA_PROMPTS, HELD_OUT, Prompt, motion_prompts, moving_scenes, still_prompts
from cdvideo.pocket.report.rendering import NUM_FRAMES, Order, load_base, median_seconds, read_frames, renderer
from cdvideo.pocket.report.results import JudgedCamera, JudgedClip, JudgedStill, Label
from cdvideo.pocket.report.shelf import Shelf, work_through
from cdvideo.pocket.world.icons import Icons
from cdvideo.pocket.world.painter import Painter
from cdvideo.pocket.world.scene import sample_scene
from cdvideo.resources import resource

WEIGHTS = Path(__file__).parents[1] / "weights"
NUM_SCENES = 96
SIDE = 128


def digest(*files: Path) -> str:
    """Twelve hex digits of the files' content: pictures are kept under the weights that made them."""
    found = hashlib.sha256()
    for file in files:
        found.update(file.read_bytes())
    return found.hexdigest()[:12]


def weight_files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix in (".safetensors", ".json"))


@dataclass
class Bench:
    """Where pictures are kept, and with how many processes they are made."""

    work: Path
    guidance: float
    processes: int
    device: str = "auto"

    @cached_property
    def folder(self) -> Path:
        parts = weight_files(*(WEIGHTS / name for name in ("unet", "text_encoder", "vae", "tokenizer")))
        return self.work / "report" / digest(*parts)

    @cached_property
    def moving_folder(self) -> Path:
        module = resource("motion_modules", "pocket")
        return self.folder / f"motion-{digest(module / 'config.json', module / 'diffusion_pytorch_model.safetensors')}"

    @cached_property
    def judge(self) -> Judge:
        return Judge.load()

    @cached_property
    def clip(self) -> Clip | None:
        return clip_of("pocket")

    def render(self, folder: Path, orders: dict[str, Order], title: str) -> None:
        work_through(orders, Shelf(folder / "done.jsonl"), renderer(self.device), processes=self.processes, title=title)

    def look(self, frames: NDArray[np.uint8]) -> list[dict[str, Label]]:
        """What the judge sees in each frame, by label."""
        seen = self.judge.predict(frames)
        return [{name: options[index] for name, options in seen.items()} for index in range(len(frames))]

    def identity(self, frames: NDArray[np.uint8]) -> tuple[float | None, float | None]:
        """CLIP cosine of a clip's subject with its first frame, and from frame to frame, wherever in the picture the subject is."""
        return identity(self.clip.images(followed(frames, self.judge.look(frames).poses))) if self.clip else (None, None)


def stills(bench: Bench, count: int) -> list[JudgedStill]:
    folder = bench.folder / f"stills-g{bench.guidance:g}"
    prompts = {f"{index:03d}": prompt for index, prompt in enumerate(still_prompts(count))}
    orders = {key: _order(prompt, folder / f"{key}.png", bench) for key, prompt in prompts.items()}
    bench.render(folder, orders, "held-out prompts")
    seen = bench.look(np.concatenate([read_frames(order.path) for order in orders.values()]))
    return [JudgedStill(prompt=prompt, path=orders[key].path, seen=one) for (key, prompt), one in zip(prompts.items(), seen, strict=True)]


def _order(prompt: Prompt, path: Path, bench: Bench, num_frames: int = 1) -> Order:
    return Order(prompt=prompt.text, seed=prompt.seed, path=path, guidance=bench.guidance, num_frames=num_frames)


def still_figures(judged: list[JudgedStill]) -> dict[str, Figure]:
    figures = {
        part: rate([still.right(part) for still in judged if still.prompt.expected[part]]) for part in ("subject", "worn", "held", "place")
    }
    figures["all"] = rate([still.all_right for still in judged])
    figures["colour"] = rate([still.right("colour") for still in judged if still.prompt.expected["colour"] and "colour" in still.seen])
    for part in ("worn", "held"):
        unasked = [still for still in judged if not still.prompt.expected[part]]
        figures[f"{part}_unasked"] = rate([still.seen[part] is not None for still in unasked])
    return figures


def clips(bench: Bench, count: int) -> list[JudgedClip]:
    folder = bench.moving_folder / f"clips-g{bench.guidance:g}"
    prompts = {f"{index:03d}": prompt for index, prompt in enumerate(motion_prompts(count))}
    orders = {key: _order(prompt, folder / f"{key}.webp", bench, NUM_FRAMES) for key, prompt in prompts.items()}
    bench.render(folder, orders, "clips")
    judged = []
    for key, prompt in prompts.items():
        frames = read_frames(orders[key].path)
        first, neighbour = bench.identity(frames)
        seen = bench.judge.motion(frames)
        judged.append(JudgedClip(prompt=prompt, path=orders[key].path, seen=seen, cosine_to_first=first, cosine_to_neighbour=neighbour))
    return judged


def clip_figures(judged: list[JudgedClip]) -> dict[str, Figure]:
    to_first = [clip.cosine_to_first for clip in judged if clip.cosine_to_first is not None]
    to_neighbour = [clip.cosine_to_neighbour for clip in judged if clip.cosine_to_neighbour is not None]
    absent = "" if to_first else "pocket's CLIP is not in cdvideo/pocket/weights/clip"
    return {
        "motion": rate([clip.right for clip in judged]),
        "identity": mean(to_neighbour, absent),
        "identity_to_first": mean(to_first, absent),
    }


def cameras(bench: Bench, num_prompts: int = len(CAMERA_PROMPTS)) -> list[JudgedCamera]:
    """A clip of each prompt without a MotionLoRA, and one with each of the eight from the same noise; none where they do not ship."""
    loras = [resource("motion_modules", "pocket") / "loras" / f"{name}.safetensors" for name in camera.EXPECTED]
    if not all(path.exists() for path in loras):
        return []
    folder = bench.moving_folder / f"cameras-{digest(*loras)}-g{bench.guidance:g}"
    orders = {}
    for name in (None, *camera.EXPECTED):
        for number, text in enumerate(CAMERA_PROMPTS[:num_prompts]):
            key = f"{name or 'without'}-{number}"
            path = folder / f"{key}.webp"
            seed = HELD_OUT + number
            orders[key] = Order(prompt=text, seed=seed, path=path, guidance=bench.guidance, num_frames=NUM_FRAMES, camera=name)
    bench.render(folder, orders, "camera clips")
    drifts = {key: camera.drift(read_frames(order.path)) for key, order in orders.items()}
    return [
        JudgedCamera(
            camera=name,
            prompt=text,
            path=orders[f"{name}-{number}"].path,
            drift=vars(drifts[f"{name}-{number}"]),
            without=vars(drifts[f"without-{number}"]),
            right=camera.obeys(name, drifts[f"{name}-{number}"], drifts[f"without-{number}"]),
        )
        for name in camera.EXPECTED
        for number, text in enumerate(CAMERA_PROMPTS[:num_prompts])
    ]


def timings(bench: Bench, *, again: bool = False) -> dict[str, Figure]:
    """Medians of five on every core of this machine, measured once; `again` measures anew. Nothing else should run meanwhile."""
    threads = len(os.sched_getaffinity(0))
    shelf = Shelf(bench.moving_folder / "seconds.jsonl")
    figures = {}
    for name, num_frames in {"still_s": 1, "clip_s": NUM_FRAMES}.items():
        key = f"{name} on {threads} threads"
        if again or key not in shelf.records:
            load = os.getloadavg()[0]
            shelf.add(key, {"seconds": median_seconds(num_frames, threads=threads), "load": round(load, 1)})
        record = shelf.records[key]
        note = f"median of {len(record['seconds'])} after a warm-up, {threads} threads, load average before it {record['load']}"
        figures[name] = median(record["seconds"], note)
    return figures


def reconstruction(icons: Path) -> dict[str, Figure]:
    """PSNR of pictures that went through the autoencoder and back: held-out scenes where the icons are, and the sample photos."""
    photos = np.concatenate([read_photos(paths, SIDE) for paths in sample_subjects().values()])
    figures = {"psnr_photos_db": mean(_psnr(photos), f"at {SIDE} px")}
    if not any(icons.glob("*")):
        return {"psnr_db": missing("its scenes need the icon families: run `make pocket` once, which fetches them"), **figures}
    painter, rng = Painter(Icons(icons)), np.random.default_rng((HELD_OUT, 1))
    scenes = [np.asarray(painter.frame(sample_scene(rng), float(rng.random()), SIDE)) for _ in range(NUM_SCENES)]
    return {"psnr_db": mean(_psnr(np.stack(scenes))), **figures}


@torch.no_grad()
def _psnr(pictures: NDArray[np.uint8]) -> list[float]:
    base = load_base("cpu")
    found = []
    for part in np.array_split(pictures, max(1, len(pictures) // 16)):
        restored = base.decode(base.moments(torch.from_numpy(part).permute(0, 3, 1, 2).float() / 127.5 - 1)[0]).numpy()
        error = ((restored.astype(float) - part) ** 2).mean(axis=(1, 2, 3))
        found += (10 * np.log10(255**2 / error)).tolist()
    return found


def world_identity(bench: Bench, icons: Path, count: int = 28) -> dict[str, Figure]:
    """The same measure of identity on clips of the picture world itself: what a model that has learnt it wholly would reach."""
    if not any(icons.glob("*")) or not bench.clip:
        return {}
    painter, rng = Painter(Icons(icons)), np.random.default_rng((HELD_OUT, 3))
    scenes = [scene for _, scene in zip(range(count), moving_scenes(rng), strict=False)]
    found = [bench.identity(np.stack([np.asarray(frame) for frame in painter.clip(scene, NUM_FRAMES, SIDE)])) for scene in scenes]
    return {"identity_world": mean([neighbour for _, neighbour in found if neighbour is not None])}


def judge_accuracy(bench: Bench, icons: Path, count: int) -> dict[str, float]:
    """The judge's own share of right answers on held-out scenes and clips; empty where the icons are not there."""
    if not any(icons.glob("*")):
        return {}
    return held_out_accuracy(bench.judge, Painter(Icons(icons)), count, HELD_OUT + 2)
