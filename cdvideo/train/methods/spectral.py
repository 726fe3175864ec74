"""SVDiff: the singular values of the UNet's matrices and kernels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cdvideo.concept import SpectralShift
from cdvideo.train.methods.tuning import Tuning


class ShiftedSpectrum(nn.Module):
    """U diag(relu(S + shift)) V^T of a weight U diag(S) V^T, where `shift` (R,) trains and starts at zero. Han et al. 2023, equation 2."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.left, self.values, self.right = torch.linalg.svd(weight.detach().float().flatten(1), full_matrices=False)
        self.shift = nn.Parameter(torch.zeros_like(self.values))

    def forward(self, weight: Tensor) -> Tensor:
        # In full precision whatever the pass around it runs in: the weight is a sum of many small terms.
        with torch.autocast(weight.device.type, enabled=False):
            return ((self.left * (self.values + self.shift).clamp(min=0)) @ self.right).view_as(weight)


class SpectralTuning(Tuning):
    """The singular values of every matrix and kernel of the UNet train; the token keeps the embedding it starts from."""

    TRAINS_ROWS = False

    def put_in(self) -> None:
        self._modules: list[tuple[nn.Module, list[str]]] = []
        for name, module in list(self.base.unet.named_modules()):
            weight = getattr(module, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.ndim >= 2:
                spectrum, order = ShiftedSpectrum(weight), list(module._parameters)
                parametrize.register_parametrization(module, "weight", spectrum, unsafe=True)
                self.trained[f"{name}.weight"] = spectrum.shift
                self._modules.append((module, order))

    def tuned_weights(self) -> Mapping[str, SpectralShift]:
        return {name: SpectralShift(value.detach().clone()) for name, value in self.trained.items()}

    def restore(self) -> None:
        for module, order in self._modules:
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
            # The parametrisation leaves the weight behind the bias, and optimisers know parameters by their order.
            for name in order:
                module._parameters[name] = module._parameters.pop(name)
        super().restore()
