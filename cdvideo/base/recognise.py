"""What a checkpoint is, from the names and shapes of its tensors. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from cdvideo.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]

SD15 = "Stable Diffusion 1.x in the original layout"
MOTION = "AnimateDiff motion module"
MOTION_LORA = "AnimateDiff MotionLoRA"

_INPUT = "model.diffusion_model.input_blocks.0.0.weight"
_CONTEXT = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


def describe(shapes: Shapes, *, text_width: int = 768) -> str:
    """What the tensors are, in words; SD15, MOTION or MOTION_LORA for those. `text_width` is the width that counts as SD1.x."""
    names = list(shapes)
    lora = any("lora" in name for name in names)
    if any("motion_modules" in name for name in names):
        return _motion(names, lora)
    if lora:
        return "a LoRA"
    if _INPUT in shapes:
        return _original(shapes, text_width)
    return _by_marker(names)


def with_article(kind: str) -> str:
    """The kind with "a" or "an" in front, where it has none and needs one."""
    if kind.startswith(("a ", "an ", "something ")) or kind in (SD15, "Stable Diffusion 2", "Stable Diffusion 3", "Stable Diffusion XL"):
        return kind
    return f"{'an' if kind[0] in 'AEIO' else 'a'} {kind}"


def _motion(names: list[str], lora: bool) -> str:
    if lora:
        return MOTION_LORA
    return "a motion UNet (base and motion module in one)" if any(".resnets." in name for name in names) else MOTION


def _original(shapes: Shapes, text_width: int) -> str:
    if any(name.startswith("conditioner.embedders.") for name in shapes):
        return "Stable Diffusion XL"
    if any(name.startswith("control_model.") for name in shapes):
        return "a ControlNet"
    context = shapes.get(_CONTEXT)
    width = context[1] if context and len(context) > 1 else None
    if width == 1024 or any(name.startswith("cond_stage_model.model.") for name in shapes):
        return "Stable Diffusion 2"
    if width is None or width > 1024:
        return "Stable Diffusion XL"
    channels = shapes[_INPUT][1]
    if channels != 4:
        kinds = {9: "an inpainting model", 8: "an InstructPix2Pix model"}
        return f"{kinds.get(channels, 'a Stable Diffusion variant')} (its UNet takes {channels} channels)"
    return SD15 if width == text_width else f"a Stable Diffusion variant of text width {width}"


def _by_marker(names: list[str]) -> str:
    markers = (
        ("joint_blocks.", "Stable Diffusion 3"),
        ("double_blocks.", "a Flux model"),
        ("emb_params", "a textual inversion embedding"),
        ("string_to_param", "a textual inversion embedding"),
        ("embedding.", "a cdvideo concept"),
        ("control_model.", "a ControlNet"),
        ("controlnet_cond_embedding.", "a ControlNet"),
        ("time_embedding.linear_1.", "a UNet in diffusers' layout, without the rest of the model"),
        ("encoder.down.", "an autoencoder, without the rest of the model"),
        ("encoder.down_blocks.", "an autoencoder, without the rest of the model"),
        ("first_stage_model.", "an autoencoder, without the rest of the model"),
        ("text_model.", "a text encoder, without the rest of the model"),
    )
    for marker, kind in markers:
        if any(name.startswith(marker) or f".{marker}" in name for name in names):
            return kind
    shown = ", ".join(names[:3])
    return f"something unknown ({len(names)} tensors, such as {shown})" if names else "an empty file"


def refuse_others(wanted: str, shapes: Shapes, source: str, *, called: str, remedies: Mapping[str, str], otherwise: str) -> None:
    """Raises UserError for tensors of another kind than `wanted`, which is `called` so to the user; `remedies` by the kind that it is."""
    kind = describe(shapes)
    if kind != wanted:
        raise UserError(f"{source} is no {called}", cause=f"it is {with_article(kind)}", remedy=remedies.get(kind, otherwise))
