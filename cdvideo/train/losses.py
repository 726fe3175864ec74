"""The losses, as pure functions.

Shapes: `B` batch, `C` latent channels, `H W` latent height and width, `N` concepts, `D` text width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def masked_noise_loss(noise_pred: Tensor, noise: Tensor, mask: Tensor) -> Tensor:
    """The squared error of the noise (B, C, H, W) inside the mask (B, H, W), a scalar.

    Each picture's error is divided by its mask's area and not by the channels, as in Custom Diffusion: with four channels it is four times
    an ordinary mean. The weight of the semantic preservation loss is relative to that.
    """
    mask = mask[:, None]
    error = ((noise_pred - noise) ** 2 * mask).sum(dim=(1, 2, 3))
    return (error / mask.sum(dim=(1, 2, 3))).mean()


def semantic_preservation_loss(concept_features: Tensor, class_features: Tensor) -> Tensor:
    """Sum over concepts of the cosine distance to their class, a scalar in [0, 2N].

    Both arguments are EOS features after the text encoder's final LayerNorm, shape (N, D), one row per concept. `class_features` carries no
    gradient. ClassDiffusion, section 3.4, equation 10.
    """
    return (1 - F.cosine_similarity(concept_features, class_features.detach(), dim=-1)).sum()
