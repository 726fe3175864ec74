"""A base of Stable Diffusion 1.5's size with random weights in a file (`write FILE`), and a training of it (`train FILE STEPS`), each in a
process of its own, so that the training's peak memory is its own.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

GIB = 2**30


def write(path: Path) -> None:
    """Writes a checkpoint in the original layout, in bf16; 2 GB."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig, CLIPTextModel

    from cdvideo.base.single_file import SD15_FOLDER
    from cdvideo.base.weights import read_json
    from tests.base import original_layout
    from tests.base.test_sd15_full_size import filled

    configs = {name: read_json(SD15_FOLDER / name / "config.json") for name in ("unet", "vae", "text_encoder")}
    with torch.device("meta"):
        models: list[Any] = [
            UNet2DConditionModel.from_config(configs["unet"]),
            AutoencoderKL.from_config(configs["vae"]),
            CLIPTextModel(CLIPTextConfig.from_dict(configs["text_encoder"])),
        ]
    state = original_layout.checkpoint(*(filled(model, seed) for seed, model in enumerate(models, start=1)))
    save_file({name: value.contiguous() for name, value in state.items()}, path)


def random_motion() -> Any:
    """A v2 motion module of full size, a MotionAdapter in bf16 on the CPU: its weights random, its position tables its own."""
    from diffusers import MotionAdapter

    from cdvideo.motion.module import position_table
    from tests.base.test_sd15_full_size import filled

    with torch.device("meta"):
        adapter = MotionAdapter(use_motion_mid_block=True, motion_max_seq_length=32)
    filled(adapter, 2)
    for positions in adapter.buffers():
        positions.copy_(position_table(positions.shape[-1], positions.shape[1]))
    return adapter.eval()


def learn_bear(loaded: Any, steps: int, **settings: Any) -> None:
    """Trains a base on the sample bear, two pictures a step; `settings` are further ones of `cdvideo.train.train`. Nothing is kept."""
    from cdvideo.resources import resource
    from cdvideo.train import Subject, find_photos, load_photo
    from cdvideo.train import train as train_concept

    subject = Subject(token="V*", class_word="bear", initializer=str(loaded.preset.initializer(0)))
    photos = {"V*": [load_photo(path) for path in find_photos(resource("samples", "bear"))]}
    with tempfile.TemporaryDirectory() as scratch:
        train_concept(
            loaded,
            photos,
            [subject],
            out=Path(scratch) / "bear.safetensors",
            steps=steps,
            batch_size=2,
            learning_rate=loaded.preset.learning_rate,
            **settings,
        )


def train(checkpoint: Path, steps: int) -> None:
    """Trains at 512x512, batch 2, bf16, with gradient checkpointing; prints a line of JSON after every step."""
    from cdvideo import base
    from cdvideo.train import Progress

    def on_step(progress: Progress) -> None:
        values = {"step": progress.step, "noise_loss": round(progress.noise_loss, 4), "peak_gib": round(peak_bytes() / GIB, 3)}
        print(json.dumps(values), flush=True)

    learn_bear(base.load(str(checkpoint), device="cpu", dtype="bf16"), steps, gradient_checkpointing=True, on_step=on_step)


def peak_bytes() -> int:
    """The most memory this process has held. On Linux from its own status: `getrusage` also counts what the parent held before `exec`."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]))
    else:
        train(Path(sys.argv[2]), int(sys.argv[3]))
