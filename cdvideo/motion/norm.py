"""What a motion UNet normalises over: diffusers' way, or the original AnimateDiff's, on the same weights.

Shapes: `B` clips, `F` frames, `C` channels, `H W` latent height and width.

diffusers normalises each group of channels of the motion transformers over all frames at once. The original normalises every frame by
itself there, in all versions. In the original v1, moreover, the norms of the residual blocks and of the output run over all frames. The
published modules were trained with the original.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cdvideo.errors import UserError

MOTION_NORMS = ("frame", "diffusers")
_Norm = TypeVar("_Norm", bound=nn.GroupNorm)


class NormPerFrame(nn.GroupNorm):
    """GroupNorm of (B, C, F, H, W) that treats every frame as a picture of its own."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        frames = hidden_states.transpose(1, 2)
        return super().forward(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)


class FrameCount:
    """How many frames the clips that the UNet is just denoising have: read off each call of the UNet."""

    def __init__(self, unet: nn.Module) -> None:
        self.num_frames = 1
        self.handle = unet.register_forward_pre_hook(self._read, with_kwargs=True)

    def _read(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sample = args[0] if args else kwargs["sample"]
        self.num_frames = sample.shape[2]


class NormOverFrames(nn.GroupNorm):
    """GroupNorm of (B F, C, H, W) that treats the frames of a clip as one."""

    frame_count: FrameCount

    def forward(self, hidden_states: Tensor) -> Tensor:
        clips = hidden_states.unflatten(0, (-1, self.frame_count.num_frames)).transpose(1, 2)
        return super().forward(clips).transpose(1, 2).flatten(0, 1)


def check_motion_norm(motion_norm: str) -> None:
    """Raises UserError for anything that is no name of MOTION_NORMS."""
    if motion_norm not in MOTION_NORMS:
        raise UserError(f"there is no motion norm {motion_norm!r}", remedy=f"choose --motion-norm {' or '.join(MOTION_NORMS)}")


def set_motion_norm(unet: nn.Module, motion_norm: str, *, version: str = "v2") -> None:
    """Makes a `UNetMotionModel` normalise as the original AnimateDiff of that version ("frame") or as diffusers does ("diffusers").

    Weights, their names and their memory stay as they are, so either can be set at any time, and setting the other undoes it.
    """
    from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D

    check_motion_norm(motion_norm)
    original = motion_norm == "frame"
    for module in unet.modules():
        if isinstance(module, AnimateDiffTransformer3D):
            module.norm = _retyped(module.norm, NormPerFrame if original else nn.GroupNorm)
    _set_norms_over_frames(unet, over_frames=original and version == "v1")


def _set_norms_over_frames(unet: nn.Module, *, over_frames: bool) -> None:
    from diffusers.models.resnet import ResnetBlock2D

    places = [(unet, "conv_norm_out")]
    places += [(module, name) for module in unet.modules() if isinstance(module, ResnetBlock2D) for name in ("norm1", "norm2")]
    for old in {norm.frame_count for owner, name in places if isinstance(norm := getattr(owner, name), NormOverFrames)}:
        old.handle.remove()
    count = FrameCount(unet) if over_frames else None
    for owner, name in places:
        norm = _retyped(getattr(owner, name), nn.GroupNorm if count is None else NormOverFrames)
        if isinstance(norm, NormOverFrames) and count is not None:
            norm.frame_count = count
        setattr(owner, name, norm)


def _retyped(norm: nn.GroupNorm, kind: type[_Norm]) -> _Norm:
    """The same norm, with the very same parameters, computing as `kind`."""
    with torch.device("meta"):
        result = kind(norm.num_groups, norm.num_channels, eps=norm.eps)
    result.weight, result.bias = norm.weight, norm.bias
    return result.train(norm.training)
