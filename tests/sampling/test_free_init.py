"""FreeInit against diffusers' own, and by hand."""

import torch
from diffusers.pipelines.free_init_utils import FreeInitMixin

from cdvideo.sampling import make_scheduler, reinitialized_noise, seeded_noise
from cdvideo.sampling.free_init import low_pass, mixed_frequencies


def test_the_filter_is_diffusers_butterworth():
    theirs = FreeInitMixin()._get_free_init_freq_filter((1, 4, 6, 8, 10), "cpu", "butterworth", 4, 0.25, 0.5)
    assert torch.allclose(low_pass((6, 8, 10), temporal_stop=0.5), theirs[0, 0], atol=1e-6)


def test_the_middle_passes_half_at_the_stop_and_nothing_far_out():
    passes = low_pass((8, 8, 8))
    assert passes[4, 4, 4] == 1 and passes[4, 4, 5] == 0.5 and passes[0, 0, 0] < 1e-6


def test_low_and_high_of_the_same_are_the_same():
    noise = seeded_noise(0, (1, 4, 6, 8, 8))
    assert torch.allclose(mixed_frequencies(noise, noise, low_pass((6, 8, 8))), noise, atol=1e-5)


def test_noise_is_reinitialized_as_diffusers_does():
    denoised, initial = seeded_noise(1, (1, 4, 6, 8, 8)), seeded_noise(2, (1, 4, 6, 8, 8))
    mixin = FreeInitMixin()
    mixin.enable_free_init()
    mixin.scheduler = make_scheduler("animatediff", 5)
    mixin._free_init_initial_noise = initial
    theirs, _ = mixin._apply_free_init(denoised, 1, 5, torch.device("cpu"), torch.float32, torch.Generator().manual_seed(3))
    ours = reinitialized_noise(mixin.scheduler, denoised, initial, seeded_noise(3, denoised.shape))
    assert torch.allclose(ours, theirs, atol=1e-5)
