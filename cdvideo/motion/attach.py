"""A base's UNet and a motion module, joined into a UNet that denoises clips."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cdvideo.base.weights import check_same, listed, settled
from cdvideo.errors import UserError
from cdvideo.motion.module import POSITIONS, MotionModule, placed, position_table
from cdvideo.motion.norm import check_motion_norm, set_motion_norm

_BLOCKS = {
    "CrossAttnDownBlock2D": "CrossAttnDownBlockMotion",
    "DownBlock2D": "DownBlockMotion",
    "CrossAttnUpBlock2D": "CrossAttnUpBlockMotion",
    "UpBlock2D": "UpBlockMotion",
}
_WITHOUT_EFFECT = {"attention_head_dim", "addition_embed_type_num_heads", "dropout"}


def attach(unet: Any, motion: MotionModule, *, motion_norm: str = "frame") -> Any:
    """A diffusers `UNetMotionModel` of the base's UNet with the module in it, frozen and in eval mode, on the UNet's device and dtype.

    It shares the UNet's memory, so a concept injected in place shows in both; the UNet itself is not changed, and dropping the result
    undoes everything. `motion_norm` "frame" normalises as the original AnimateDiff does, "diffusers" as diffusers does.
    Raises UserError naming the first tensor that does not fit.
    """
    from diffusers import UNetMotionModel

    check_motion_norm(motion_norm)
    check_widths(unet, motion)
    settings = _settings(unet, motion)
    with torch.device("meta"):
        model = UNetMotionModel(**settings)
    own = model.state_dict()
    of_motion = {name: value for name, value in own.items() if ".motion_modules." in name}
    moving = _with_positions(of_motion, motion)
    _check_fits(of_motion, moving, motion)
    still = unet.state_dict()
    check_same({name: value for name, value in own.items() if name not in of_motion}, still, what="UNet", where="the base")
    dtype, device = next(iter(still.values())).dtype, next(iter(still.values())).device
    state = {**still, **placed(moving, dtype, device)}
    model.load_state_dict(state, strict=True, assign=True)
    settled(model, device)
    _set_num_groups(model, motion.num_norm_groups)
    set_motion_norm(model, motion_norm, version=motion.version)
    return model


def check_widths(unet: Any, motion: MotionModule) -> None:
    """Raises UserError naming the first tensor of the module that is made for a UNet of other widths."""
    for level, width in enumerate(unet.config["block_out_channels"]):
        name = f"down_blocks.{level}.motion_modules.0.norm.weight"
        if name not in motion.state:
            raise _misfit(motion, f"it lacks {name}: it has {len(motion.widths)} levels, the base has {level + 1} or more")
        if motion.state[name].shape != (width,):
            raise _misfit(motion, f"{name} is {tuple(motion.state[name].shape)} in the module, the base needs ({width},)")


def _misfit(motion: MotionModule, cause: str) -> UserError:
    return UserError(
        f"the motion module {motion.source} does not fit the base",
        cause=cause,
        remedy="leave --motion out, or give a module made for this base",
    )


def _settings(unet: Any, motion: MotionModule) -> dict[str, Any]:
    """`UNetMotionModel`'s arguments. Raises UserError for an option of the base's UNet that the motion UNet does not know."""
    from diffusers import UNet2DConditionModel, UNetMotionModel

    config = unet.config
    known = inspect.signature(UNetMotionModel.__init__).parameters
    for name, parameter in inspect.signature(UNet2DConditionModel.__init__).parameters.items():
        neutral = name == "self" or name in known or name in _WITHOUT_EFFECT or config.get(name, parameter.default) == parameter.default
        if not neutral:
            raise UserError(
                "the base cannot take a motion module", cause=f"its UNet has {name}={config[name]!r}, which motion UNets have not"
            )
    settings = {name: config[name] for name in known if name in config}
    for name in ("down_block_types", "up_block_types"):
        unknown = [block for block in config[name] if block not in _BLOCKS]
        if unknown:
            raise UserError("the base cannot take a motion module", cause=f"its UNet has a {unknown[0]}, which motion UNets have not")
        settings[name] = tuple(_BLOCKS[block] for block in config[name])
    settings["num_attention_heads"] = config.get("num_attention_heads") or config["attention_head_dim"]
    settings["motion_num_attention_heads"] = motion.num_heads
    settings["motion_max_seq_length"] = motion.max_frames
    settings["use_motion_mid_block"] = motion.has_mid_block
    settings["temporal_transformer_layers_per_block"] = motion.num_transformer_layers
    settings["temporal_transformer_layers_per_mid_block"] = motion.num_transformer_layers
    return settings


def _with_positions(own: Mapping[str, Tensor], motion: MotionModule) -> dict[str, Tensor]:
    """The module's tensors, with the position tables that its file left out."""
    state = dict(motion.state)
    tables: dict[int, Tensor] = {}
    for name, value in own.items():
        if name.endswith(POSITIONS) and name not in state:
            width = value.shape[-1]
            state[name] = tables.setdefault(width, position_table(width, motion.max_frames))
    return state


def _check_fits(own: Mapping[str, Tensor], state: Mapping[str, Tensor], motion: MotionModule) -> None:
    missing, extra = [name for name in own if name not in state], [name for name in state if name not in own]
    if missing or extra:
        raise _misfit(motion, f"it lacks {listed(missing)}" if missing else f"it has {listed(extra)}, for which the base has no place")
    for name, value in own.items():
        if state[name].shape != value.shape:
            raise _misfit(motion, f"{name} is {tuple(state[name].shape)} in the module, the base needs {tuple(value.shape)}")


def _set_num_groups(model: nn.Module, num_groups: int) -> None:
    """`UNetMotionModel` gives the motion norms the base's number of groups; the module's own is what it was trained with."""
    from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D

    for module in model.modules():
        if isinstance(module, AnimateDiffTransformer3D):
            module.norm.num_groups = num_groups
