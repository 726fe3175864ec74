"""DreamBooth: the whole UNet."""

from __future__ import annotations

from cdvideo.train.methods.tuning import Tuning


class WholeUnetTuning(Tuning):
    """Every parameter of the UNet trains; the token keeps the embedding it starts from. Ruiz et al. 2023, section 3."""

    TRAINS_ROWS = False

    def put_in(self) -> None:
        for name in [name for name, _ in self.base.unet.named_parameters()]:
            self.let_train(name)
