"""DreamBooth: the whole UNet."""

from __future__ import annotations

from torch import nn

from cdvideo.train.methods.tuning import Tuning


class WholeUnetTuning(Tuning):
    """Every parameter of the UNet trains; the token keeps the embedding it starts from. Ruiz et al. 2023, section 3."""

    TRAINS_ROWS = False

    def put_in(self) -> None:
        self._originals = dict(self.base.unet.named_parameters())
        for name, original in self._originals.items():
            self.trained[name] = nn.Parameter(original.detach().float().clone())
            self._put(name, self.trained[name])

    def restore(self) -> None:
        for name, original in self._originals.items():
            self._put(name, original)
        super().restore()

    def _put(self, name: str, value: nn.Parameter) -> None:
        module, _, last = name.rpartition(".")
        setattr(self.base.unet.get_submodule(module), last, value)
