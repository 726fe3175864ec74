"""Which files a diffusers folder must hold, here or on the hub. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Requirement = Sequence[tuple[str, ...]]
"""Alternatives in order of preference; each is a group of files that belong together."""


def weight_files(component: str, *, half: bool) -> Requirement:
    """The files that may hold a component's weights; `component` is "" for a folder that is one model. `half` prefers the fp16 variant."""
    folder = f"{component}/" if component else ""
    stem = "model" if component == "text_encoder" else "diffusion_pytorch_model"
    pickle = "pytorch_model" if component == "text_encoder" else "diffusion_pytorch_model"
    full, fp16 = (f"{folder}{stem}.safetensors",), (f"{folder}{stem}.fp16.safetensors",)
    ordered = [fp16, full] if half else [full, fp16]
    return (*ordered, (f"{folder}{pickle}.bin",), (f"{folder}{pickle}.fp16.bin",))


def base_requirements(*, half: bool) -> list[Requirement]:
    """What a base's folder must hold."""
    configs = ("model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json", "unet/config.json", "vae/config.json")
    old, new, settings = (
        ("tokenizer/vocab.json", "tokenizer/merges.txt"),
        ("tokenizer/tokenizer.json",),
        ("tokenizer/tokenizer_config.json",),
    )
    tokenizer = (old + settings, new + settings, old, new)
    weights = [weight_files(component, half=half) for component in ("text_encoder", "unet", "vae")]
    return [*([(name,)] for name in configs), tokenizer, *weights]


def motion_requirements(*, half: bool) -> list[Requirement]:
    """What a motion module's folder must hold."""
    return [[("config.json",)], weight_files("", half=half)]


def lora_requirements() -> list[Requirement]:
    """What a MotionLoRA's folder must hold: AnimateDiff's repositories on the hub name the file as a model, peft's tools as what it is."""
    return [(*weight_files("", half=False), *image_lora_requirements()[0])]


def image_lora_requirements() -> list[Requirement]:
    """What the folder of a LoRA for the image model must hold."""
    return [(("pytorch_lora_weights.safetensors",), ("pytorch_lora_weights.bin",))]


def clip_requirements() -> list[Requirement]:
    """What the folder of a CLIP, text and image towers, must hold."""
    tokenizer = (("vocab.json", "merges.txt"), ("tokenizer.json",))
    weights = (("model.safetensors",), ("pytorch_model.bin",))
    return [[("config.json",)], [("preprocessor_config.json",)], tokenizer, weights]


def choose(requirements: Sequence[Requirement], exists: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """(files that meet the requirements, the preferred file of each requirement that nothing meets)."""
    chosen: list[str] = []
    missing: list[str] = []
    for alternatives in requirements:
        group = next((group for group in alternatives if all(map(exists, group))), None)
        if group is None:
            missing.append(alternatives[0][0])
        else:
            chosen.extend(group)
    return chosen, missing
