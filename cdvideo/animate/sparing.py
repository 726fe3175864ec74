"""What is done when a device's memory does not suffice: slower ways to the same picture, in turn, and said aloud."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from types import TracebackType

import torch
from torch import Tensor

from cdvideo.base import Base
from cdvideo.errors import UserError, UserNote
from cdvideo.sampling import NoisePredictor


class SparingPredictor:
    """A noise predictor over another one, that goes on with less memory where that runs out of it.

    First the rows of a batch, which are guidance's halves, are predicted in turn; then the autoencoder and the text encoder wait on the
    CPU, until the end of the `with` block. Raises UserError where that is still too much.
    """

    def __init__(self, base: Base, predict_noise: NoisePredictor) -> None:
        self.base, self.predict_noise = base, predict_noise
        self._in_turn, self._set_aside = False, False

    def __call__(self, latents: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        return self.within_memory(self.predict_noise, latents, timestep, states)

    def within_memory(self, predict: Callable[..., Tensor], latents: Tensor, timestep: Tensor, *others: Tensor) -> Tensor:
        """`predict(latents, timestep, *others)`, in turn where it must be; `others` have as many rows as `latents`, or a multiple."""
        while True:
            try:
                return self._predicted(predict, latents, timestep, *others)
            except torch.OutOfMemoryError as error:
                if not self._made_do(len(latents)):
                    width, height = (side * self.base.latent_factor for side in (latents.shape[-1], latents.shape[-2]))
                    raise UserError(
                        f"there is not enough memory on {self.base.device} for {width}x{height} pixels"
                        + (f" and {latents.shape[2]} frames at once" if latents.ndim == 5 else ""),
                        cause=str(error).split(". ")[0],
                        remedy="give a smaller --size, fewer --frames or --dtype fp16, or close what else uses the device",
                    ) from None
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _predicted(self, predict: Callable[..., Tensor], latents: Tensor, timestep: Tensor, *others: Tensor) -> Tensor:
        if not self._in_turn or len(latents) == 1:
            return predict(latents, timestep, *others)
        rows = zip(latents.split(1), *(other.chunk(len(latents)) for other in others), strict=True)
        return torch.cat([predict(row, timestep, *of_row) for row, *of_row in rows])

    def _made_do(self, num_rows: int) -> bool:
        """Whether there was something left to spare."""
        if num_rows > 1 and not self._in_turn:
            self._in_turn = True
            warnings.warn("memory ran out: guidance's halves are computed in turn, which takes longer", UserNote, stacklevel=4)
            return True
        if not self._set_aside and self.base.device.type != "cpu":
            self._set_aside = True
            self._move(torch.device("cpu"))
            warnings.warn("memory ran out: autoencoder and text encoder wait on the CPU while the clip is denoised", UserNote, stacklevel=4)
            return True
        return False

    def _move(self, device: torch.device) -> None:
        self.base.vae.to(device)
        self.base.text_encoder.to(device)

    def __enter__(self) -> SparingPredictor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._set_aside:
            self._move(self.base.device)
