"""Stable Diffusion 1.5 and AnimateDiff v2 at full size, out of files in their original layouts, with nothing from any hub.

Weights are random, in bf16. About 4 GB of disk and 8 GB of memory; prints what it took (`-s`).
"""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

from cdvideo.base.loading import fingerprint, load_components
from cdvideo.base.single_file import SD15_FOLDER
from cdvideo.base.weights import read_json
from cdvideo.motion import attach, load_motion
from tests.base import original_layout

CPU = torch.device("cpu")
Took = dict[str, tuple[float, float]]


def filled(module: nn.Module, seed: int) -> nn.Module:
    """A meta module on the CPU in bf16, its parameters cut from one buffer of noise: random enough, and quick."""
    module = module.to_empty(device=CPU).to(torch.bfloat16)
    noise = torch.randn(2**22 + 4099 * 64, generator=torch.Generator().manual_seed(seed))
    for number, (name, parameter) in enumerate(module.named_parameters()):
        start = 4099 * (number % 64)
        scale = 0.02 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        flat = parameter.data.view(-1)
        for offset in range(0, len(flat), 2**22):
            part = flat[offset : offset + 2**22]
            part.copy_(noise[start : start + len(part)] * scale + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return module


@contextmanager
def timed(took: Took, what: str) -> Iterator[None]:
    wall, processor = time.perf_counter(), time.process_time()
    yield
    took[what] = time.perf_counter() - wall, time.process_time() - processor


@dataclass(frozen=True)
class Files:
    """A checkpoint and a motion module in their original layouts, and what was written into them."""

    checkpoint: Path
    motion: Path
    written: dict[str, nn.Module]
    moving: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    from diffusers import AutoencoderKL, MotionAdapter, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = tmp_path_factory.mktemp("sd15")
    configs = {name: read_json(SD15_FOLDER / name / "config.json") for name in ("unet", "vae", "text_encoder")}
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(configs["unet"])
        vae = AutoencoderKL.from_config(configs["vae"])
        text_encoder = CLIPTextModel(CLIPTextConfig.from_dict(configs["text_encoder"]))
        adapter = MotionAdapter()
    written = {"unet": filled(unet, 1), "vae": filled(vae, 2), "text_encoder": filled(text_encoder, 3)}
    moving = {name: value.data for name, value in filled(adapter, 4).named_parameters()}
    checkpoint, module_file = folder / "v1-5.safetensors", folder / "mm_sd_v15_v2.ckpt"
    save_file({name: value.contiguous() for name, value in original_layout.checkpoint(unet, vae, text_encoder).items()}, checkpoint)
    tables = {f"{name}.transformer_blocks.0.pos_embed.pe": table(m.in_channels) for name, m in transformers(adapter)}
    torch.save({"state_dict": original_layout.motion_checkpoint({**moving, **tables})}, module_file)
    return Files(checkpoint, module_file, written, moving)


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))


@pytest.mark.full_size
@torch.no_grad()
def test_single_files_load_join_and_denoise_offline(files: Files) -> None:
    took: Took = {}
    with timed(took, "load SD1.5"):
        components = load_components(str(files.checkpoint), dtype=torch.bfloat16, device=CPU)
    for name, original in files.written.items():
        loaded = getattr(components, name).state_dict()
        assert loaded.keys() == original.state_dict().keys()
        assert all(torch.equal(value, original.state_dict()[key]) for key, value in loaded.items())
    assert components.tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    with timed(took, "fingerprint"):
        assert len(fingerprint(components.unet, components.text_encoder)) == 16
    with timed(took, "load motion module"):
        motion = load_motion(str(files.motion), base_unet=components.unet, dtype=torch.bfloat16, device=CPU)
    assert (motion.version, motion.max_frames) == ("v2", 32)
    assert all(torch.equal(motion.state[name], value) for name, value in files.moving.items())
    with timed(took, "attach"):
        model = attach(components.unet, motion)
    with timed(took, "attach again"):
        model = attach(components.unet, motion)

    ids = components.tokenizer(["a cat"], padding="max_length", return_tensors="pt").input_ids
    with timed(took, "encode a prompt"):
        states = components.text_encoder(ids).last_hidden_state
    latents = torch.randn(1, 4, 16, 8, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    with timed(took, "UNet, 16 frames of 64x64 px"):
        noise_pred = model(latents, torch.tensor(500), encoder_hidden_states=states.repeat_interleave(16, dim=0)).sample
    assert noise_pred.shape == latents.shape and torch.isfinite(noise_pred).all()
    assert noise_pred.float().std() > 1e-3 and not torch.equal(noise_pred[:, :, 0], noise_pred[:, :, 1])
    for what, (wall, processor) in took.items():
        print(f"{what:30} {wall:7.2f} s   {processor:7.2f} CPU-seconds")
    print(f"{'peak memory':30} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:7.2f} GB")
    assert took["attach again"][1] < 1.0


@pytest.mark.full_size
def test_the_whole_path_runs_at_full_size(files: Files, tmp_path: Path) -> None:
    """Load, one training step, save, reload, two denoising steps of 16 frames: what a user of SD1.5 does, at a small picture size."""
    from cdvideo import base, train
    from cdvideo.animate import Studio
    from cdvideo.concept import Concept
    from cdvideo.resources import resource as shipped
    from cdvideo.video import read, write

    took: Took = {}
    loaded = base.load(str(files.checkpoint), device="cpu", dtype="bf16")
    assert (loaded.preset.native_size, loaded.preset.train_steps, loaded.preset.batch_size) == (512, 500, 2)
    loaded.preset = replace(loaded.preset, native_size=128)
    subject = train.Subject(token="V*", class_word="bear", initializer=str(loaded.preset.initializer(0)))
    photos = {"V*": [train.load_photo(path) for path in train.find_photos(shipped("samples", "bear"))]}
    out = tmp_path / "bear.safetensors"
    with timed(took, "one training step"):
        train.train(loaded, photos, [subject], out=out, steps=1, batch_size=2, learning_rate=1e-5)

    concept = Concept.load(out)
    assert len(concept.tuned) == 32 and concept.embeddings["V*"].shape == (768,)
    fresh = base.load(str(files.checkpoint), device="cpu", dtype="bf16")
    motion = load_motion(str(files.motion), base_unet=fresh.unet, dtype=fresh.dtype, device=fresh.device)
    with Studio(fresh, [concept], motion) as studio, timed(took, "two steps of 16 frames"):
        clip = studio.clip("a V* bear reading a book", num_inference_steps=2, size=(64, 64))
    assert clip.frames.shape == (16, 64, 64, 3)
    write(clip, tmp_path / "bear.mp4")
    assert read(tmp_path / "bear.mp4").record["prompt"] == "a V* bear reading a book"
    for what, (wall, processor) in took.items():
        print(f"{what:30} {wall:7.2f} s   {processor:7.2f} CPU-seconds")
    print(f"{'peak memory':30} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:7.2f} GB")


def transformers(adapter: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in adapter.named_modules() if type(module).__name__ == "AnimateDiffTransformer3D"]


def table(width: int) -> torch.Tensor:
    from tests.motion.original_animatediff import positions

    return positions(32, width)[None]
