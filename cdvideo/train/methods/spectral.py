"""SVDiff: the singular values of the UNet's matrices and kernels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cdvideo.concept import SpectralShift, shifted_spectrum
from cdvideo.train.methods.tuning import Tuning


class ShiftedSpectrum(nn.Module):
    """U diag(relu(S + shift)) V^T of a weight U diag(S) V^T, where `shift` (R,) trains and starts at zero. Han et al. 2023, equation 2."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.left, self.values, self.right = torch.linalg.svd(weight.detach().float().flatten(1), full_matrices=False)
        self.shift = nn.Parameter(torch.zeros_like(self.values))

    def forward(self, weight: Tensor) -> Tensor:
        # In fp32 whatever the weight's precision: it is a sum of many small terms.
        return shifted_spectrum(self.left, self.values, self.right, self.shift).view_as(weight).to(weight.dtype)


class SpectralTuning(Tuning):
    """The singular values of every matrix and kernel of the UNet train; the token keeps the embedding it starts from."""

    TRAINS_ROWS = False

    def put_in(self) -> None:
        for name, module in list(self.base.unet.named_modules()):
            weight = getattr(module, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.ndim >= 2:
                spectrum = ShiftedSpectrum(weight)
                self.keep_parameters(module)
                parametrize.register_parametrization(module, "weight", spectrum, unsafe=True)
                self.trained[f"{name}.weight"] = spectrum.shift

    def tuned_weights(self) -> Mapping[str, SpectralShift]:
        return {name: SpectralShift(value.detach().clone()) for name, value in self.trained.items()}
