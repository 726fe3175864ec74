"""What is done when a device's memory does not suffice: slower ways to the same picture, in turn, and said aloud."""

from __future__ import annotations

import gc
import warnings
from types import TracebackType

import torch
from torch import Tensor

from cdvideo.animate.passes import UNetPasses
from cdvideo.base import Base
from cdvideo.base.shared_halves import for_each_half
from cdvideo.errors import UserError, UserNote


class SparingPredictor:
    """A noise predictor of a UNet's passes, that goes on with less memory where that runs out of it.

    First the rows of a batch, which are guidance's halves, are predicted in turn; then the autoencoder and the text encoder wait on the
    CPU, until the end of the `with` block. Raises UserError where that is still too much.
    """

    def __init__(self, base: Base, passes: UNetPasses) -> None:
        self.base, self.passes = base, passes
        self._in_turn, self._set_aside = False, False

    def __call__(self, latents: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        while True:
            try:
                return self._predicted(latents, timestep, states)
            except torch.OutOfMemoryError as error:
                if not self._made_do(len(states)):
                    width, height = (side * self.base.latent_factor for side in (latents.shape[-1], latents.shape[-2]))
                    raise UserError(
                        f"there is not enough memory on {self.base.device} for {width}x{height} pixels"
                        + (f" and {latents.shape[2]} frames at once" if latents.ndim == 5 else ""),
                        cause=str(error).split(". ")[0],
                        remedy="give a smaller --size, fewer --frames or --dtype fp16, or close what else uses the device",
                    ) from None
            gc.collect()
            self.passes.recordings.forget()

    def _predicted(self, latents: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        if not self._in_turn or len(states) == 1:
            return self.passes.noise(latents, timestep, states)
        rows = zip(for_each_half(latents, len(states)).split(1), states.split(1), strict=True)
        return torch.cat([self.passes.noise(row, timestep, of_row) for row, of_row in rows])

    def _made_do(self, num_rows: int) -> bool:
        """Whether there was something left to spare."""
        if num_rows > 1 and not self._in_turn:
            self._in_turn = True
            warnings.warn("memory ran out: guidance's halves are computed in turn, which takes longer", UserNote, stacklevel=4)
            return True
        if not self._set_aside and self.base.device.type != "cpu" and not self._is_in_training():
            self._set_aside = True
            self._move(torch.device("cpu"))
            warnings.warn("memory ran out: autoencoder and text encoder wait on the CPU while the clip is denoised", UserNote, stacklevel=4)
            return True
        return False

    def _is_in_training(self) -> bool:
        """Whether recordings of a training may read what would be set aside, where it is."""
        models = (self.base.unet, self.base.text_encoder)
        return any(value.requires_grad for model in models for value in model.parameters())

    def _move(self, device: torch.device) -> None:
        self.base.vae.to(device)
        self.base.text_encoder.to(device)

    def __enter__(self) -> SparingPredictor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.passes.forget_where_memory_is_short()
        if self._set_aside:
            self._move(self.base.device)
