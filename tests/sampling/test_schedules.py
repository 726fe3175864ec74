import pytest
import torch

from cdvideo.errors import UserError
from cdvideo.sampling import SAMPLERS, SCHEDULES, denoise, guided_noise, make_scheduler, seeded_noise


def test_animatediff_betas_are_linear_and_stable_diffusions_are_not():
    betas = make_scheduler("animatediff", 25).betas
    # Linear from 0.00085 to 0.012 in 1000: the middle is their mean. (scaled_linear's would be 0.0048.)
    assert torch.isclose(betas[499:501].mean(), torch.tensor((0.00085 + 0.012) / 2))
    scaled = make_scheduler("stable-diffusion", 25).betas
    assert torch.isclose(scaled[499:501].mean(), torch.tensor(((0.00085**0.5 + 0.012**0.5) / 2) ** 2), rtol=1e-4)


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_schedule_clips_its_samples(name):
    assert make_scheduler(name, 5).config.clip_sample is False


def test_unknown_schedules_and_step_counts_are_refused():
    with pytest.raises(UserError, match="no schedule"):
        make_scheduler("ddim", 25)
    with pytest.raises(UserError, match="no sampler"):
        make_scheduler("animatediff", 25, sampler="heun")
    with pytest.raises(UserError, match="0 steps"):
        make_scheduler("animatediff", 0)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("schedule", ["animatediff", "stable-diffusion"])
def test_every_sampler_follows_the_named_schedule(sampler, schedule):
    scheduler = make_scheduler(schedule, 10, sampler=sampler)
    assert torch.equal(scheduler.betas, make_scheduler(schedule, 10).betas)
    assert len(scheduler.timesteps) == 10


def test_guidance_by_hand():
    assert guided_noise(torch.tensor(1.0), torch.tensor(3.0), 7.5) == 1 + 7.5 * 2


def test_noise_depends_on_the_seed_alone():
    torch.manual_seed(1)
    first = seeded_noise(5, (1, 4, 16, 8, 8))
    torch.rand(10)
    assert torch.equal(first, seeded_noise(5, (1, 4, 16, 8, 8)))
    assert not torch.equal(first, seeded_noise(6, (1, 4, 16, 8, 8)))
    assert torch.equal(seeded_noise(5, (1, 4, 1, 8, 8)).flatten(), seeded_noise(5, (1, 4, 8, 8)).flatten())


def test_a_perfect_predictor_ends_where_ddims_equation_says():
    """Given the true noise at every step, DDIM (Song et al. 2020, equation 12) walks along one noise and ends at the first alpha."""
    clean = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    start = seeded_noise(0, clean.shape)
    scheduler = make_scheduler("stable-diffusion", 25)

    def predict(latents, timestep, states):
        alpha = scheduler.alphas_cumprod[timestep]
        return (latents - alpha.sqrt() * clean) / (1 - alpha).sqrt()

    text = torch.zeros(1, 2, 3)
    ended = denoise(predict, scheduler, start, text=text, negative=text, guidance_scale=1.0)
    first, last = scheduler.alphas_cumprod[scheduler.timesteps[0]], 1 - 0.00085
    noise = (start - first.sqrt() * clean) / (1 - first).sqrt()
    assert torch.allclose(ended, last**0.5 * clean + (1 - last) ** 0.5 * noise, atol=1e-4)


def test_timesteps_of_the_presets_by_hand():
    """`leading` counts down from the last whole stride and adds one; `linspace` ends at 999 and 0; LCM skips through its 50."""
    assert make_scheduler("animatediff-original", 4).timesteps.tolist() == [751, 501, 251, 1]
    assert make_scheduler("stable-diffusion", 4).timesteps.tolist() == [751, 501, 251, 1]
    assert make_scheduler("animatediff", 4).timesteps.tolist() == [999, 666, 333, 0]
    assert make_scheduler("animatediff", 4, sampler="euler").timesteps.tolist() == [999, 666, 333, 0]
    assert make_scheduler("animatediff", 4, sampler="lcm").timesteps.tolist() == [999, 759, 499, 259]
