import math

import torch

from cdvideo.train.losses import masked_noise_loss, semantic_preservation_loss


def test_spl_is_the_cosine_distance_worked_out_by_hand():
    # Angles of 60 and 90 degrees: cosines 0.5 and 0, distances 0.5 and 1, summed over the two concepts.
    concept = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    classes = torch.tensor([[0.5, math.sqrt(3) / 2], [3.0, 0.0]])
    assert torch.isclose(semantic_preservation_loss(concept, classes), torch.tensor(1.5))


def test_spl_reaches_the_concept_and_not_the_class():
    concept = torch.tensor([[1.0, 0.0]], requires_grad=True)
    classes = torch.tensor([[1.0, 1.0]], requires_grad=True)
    semantic_preservation_loss(concept, classes).backward()
    assert classes.grad is None
    # d/dc of 1 - cos at c = (1, 0) toward (1, 1)/sqrt 2: the radial part vanishes, the tangential part is -1/sqrt 2.
    assert torch.allclose(concept.grad, torch.tensor([[0.0, -1 / math.sqrt(2)]]))


def test_masked_loss_divides_by_the_masks_area_and_not_by_channels():
    predicted, noise = torch.zeros(2, 4, 2, 2), torch.zeros(2, 4, 2, 2)
    predicted[0] = 1.0  # every channel is off by 1 in all four cells
    predicted[1, :, 0, 0] = 3.0  # every channel is off by 3 in one cell
    mask = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 1.0]]])
    # first picture: 4 channels x 2 cells x 1 / 2 cells = 4; second: its wrong cell is outside the mask, so 0; mean 2.
    assert masked_noise_loss(predicted, noise, mask) == 2.0


def test_masked_loss_over_a_full_mask_is_four_times_the_mean():
    predicted, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    full = torch.ones(3, 8, 8)
    assert torch.isclose(masked_noise_loss(predicted, noise, full), 4 * torch.nn.functional.mse_loss(predicted, noise))
