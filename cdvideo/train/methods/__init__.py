"""The methods: named choices of what trains and of which losses. A new one is an entry here and, where it needs one, a `Tuning`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cdvideo.errors import UserError
from cdvideo.train.methods.embedding import EmbeddingTuning
from cdvideo.train.methods.key_values import KeyValueTuning
from cdvideo.train.methods.spectral import SpectralTuning
from cdvideo.train.methods.tuning import Tuning
from cdvideo.train.methods.whole_unet import WholeUnetTuning

__all__ = ["METHODS", "Method", "Tuning", "check_spl_weight", "find_method"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """What trains, and the weights of the losses beside the noise loss unless the user gives others.

    `learning_rate_factor` multiplies the base's own rate, which is that of keys and values.
    """

    name: str
    title: str
    tune: type[Tuning]
    spl_weight: float = 0.0
    prior_weight: float = 0.0
    learning_rate_factor: float = 1.0
    source: str


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="classdiffusion",
            title="keys, values and the token, with the semantic preservation loss",
            tune=KeyValueTuning,
            spl_weight=1.0,
            source="Huang et al. 2024, arXiv 2405.17532",
        ),
        Method(
            name="custom-diffusion",
            title="keys, values and the token",
            tune=KeyValueTuning,
            source="Kumari et al. 2023, arXiv 2212.04488",
        ),
        Method(
            name="textual-inversion",
            title="the token alone",
            tune=EmbeddingTuning,
            learning_rate_factor=50.0,
            source="Gal et al. 2023, arXiv 2208.01618",
        ),
        Method(
            name="dreambooth",
            title="the whole UNet, with prior preservation",
            tune=WholeUnetTuning,
            prior_weight=1.0,
            learning_rate_factor=0.5,
            source="Ruiz et al. 2023, arXiv 2208.12242",
        ),
        Method(
            name="svdiff",
            title="the singular values of the UNet's matrices and kernels, with prior preservation",
            tune=SpectralTuning,
            prior_weight=1.0,
            learning_rate_factor=100.0,
            source="Han et al. 2023, arXiv 2303.11305",
        ),
    )
}


def check_spl_weight(method: str, weight: float | None) -> None:
    """Raises UserError where a method leaves alone what the semantic preservation loss reaches."""
    if weight and not find_method(method).tune.TRAINS_ROWS:
        raise UserError(
            f"the semantic preservation loss does nothing with {method}",
            cause="it reaches the tokens' embeddings alone, and this method leaves them as they are",
            remedy="leave --spl-weight out, or choose --method classdiffusion",
        )


def find_method(name: str) -> Method:
    """The method of a name. Raises UserError for an unknown one."""
    if name not in METHODS:
        raise UserError(f"there is no method {name!r}", remedy=f"one of: {', '.join(METHODS)}")
    return METHODS[name]
