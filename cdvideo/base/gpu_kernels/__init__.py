"""Triton kernels for what surrounds a UNet's matrix products and convolutions on a GPU.

PyTorch normalises pictures of channels-last order by way of a copy in the other order, and reads and writes all of a picture anew for every
small step: the norm, the activation, a bias, a sum. Here each is one pass. Sums are in fp32, and what lies between is not rounded.

These modules need Triton; `gpu_layers` asks first. Arrays are contiguous, whatever the models call their shapes.
"""

from cdvideo.base.gpu_kernels.frames import attend_frames
from cdvideo.base.gpu_kernels.gated import gelu_gate, gelu_gated_product, multiplies_gated
from cdvideo.base.gpu_kernels.picture_norm import group_norm
from cdvideo.base.gpu_kernels.pictures import side_by_side, sum_with_bias, upsampled
from cdvideo.base.gpu_kernels.row_norm import sum_and_norm

__all__ = [
    "attend_frames",
    "gelu_gate",
    "gelu_gated_product",
    "group_norm",
    "multiplies_gated",
    "side_by_side",
    "sum_and_norm",
    "sum_with_bias",
    "upsampled",
]
