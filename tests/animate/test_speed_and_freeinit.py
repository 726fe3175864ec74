"""What is given up for speed, and rounds of FreeInit, against diffusers and against the exact way."""

import dataclasses

import numpy as np
import pytest
import torch

from cdvideo import base, motion
from cdvideo.animate import Studio
from cdvideo.animate.reuse import SPEEDS, NoiseReuse, Speed, recorded_speed
from cdvideo.errors import UserError, UserNote
from cdvideo.sampling import make_scheduler
from cdvideo.video import Clip
from tests.animate.test_over_time import latents_of
from tests.pipelines import animatediff_pipeline

SIZE = (64, 64)


def test_rounds_agree_with_the_pipelines_free_init(pocket, pocket_motion, monkeypatch):
    seen = []
    with Studio(pocket, [], pocket_motion, motion_norm="diffusers") as studio:
        ours = latents_of(
            studio, monkeypatch, prompt="a bear", negative="bad quality", guidance_scale=7.5, num_frames=4, size=SIZE, seed=3,
            num_inference_steps=3, freeinit=2, on_step=lambda done, total: seen.append((done, total)),
        )  # fmt: skip
    assert seen == [(done, 6) for done in range(1, 7)]
    pipeline = animatediff_pipeline(pocket, 3)
    pipeline.enable_free_init(num_iters=2)
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn((1, 4, 4, 8, 8), generator=generator)
    theirs = pipeline(
        "a bear", negative_prompt="bad quality", num_frames=4, height=64, width=64, num_inference_steps=3, guidance_scale=7.5,
        latents=noise, generator=generator, output_type="latent",
    ).frames  # fmt: skip
    assert (ours - theirs[0].transpose(0, 1)).abs().max() < 2e-4


def test_at_some_steps_the_unet_computes_for_each_window(pocket, pocket_motion, monkeypatch):
    calls, speed = [], Speed(name="own", most_apart=3, guided_share=0.6)
    with Studio(pocket, [], pocket_motion) as studio:
        forward = studio._motion_unet.forward
        monkeypatch.setattr(
            studio._motion_unet, "forward", lambda sample, *args, **kwargs: calls.append(len(sample)) or forward(sample, *args, **kwargs)
        )
        clip = studio.clip("a bear", num_frames=18, size=SIZE, num_inference_steps=8, speed=speed, guidance_scale=5)
    assert calls == [2] * 8 + [1] * 2, "two windows at steps 0, 1, 2, 4 and 6, guided in the first five of eight"
    assert clip.record["speed"] == {"name": "own", "most_apart": 3, "guided_share": 0.6, "num_inference_steps": None}


@pytest.mark.parametrize(
    ("num_steps", "wanted"),
    [
        (25, [0, 1, 2, 4, 6, 8, 11, 14, 17, 20, 23]),
        (12, [0, 1, 2, 4, 6, 8, 10]),
        (4, [0, 1, 2]),
        (1, [0]),
        (50, [0, 1, 2, 4, 6, 8, 10, 12, 14, *range(16, 47, 3), 48]),
    ],
)
def test_the_steps_at_which_the_unet_computes(num_steps, wanted):
    assert [step for step in range(num_steps) if SPEEDS["fast"].is_whole(step, num_steps)] == wanted
    assert all(SPEEDS["exact"].is_whole(step, num_steps) for step in range(num_steps))


def test_speeds_that_give_up_nothing_are_exact(pocket, pocket_motion):
    settings = {"prompt": "a bear", "num_frames": 3, "size": SIZE, "num_inference_steps": 3}
    with Studio(pocket, [], pocket_motion) as studio:
        exact = studio.clip(**settings)
        same = studio.clip(**settings, speed=Speed(name="own"))
        draft = studio.clip("a bear", num_frames=3, size=SIZE, speed="draft")
    assert np.array_equal(exact.frames, same.frames) and exact.record["steps"] == 3 and draft.record["steps"] == 12


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"speed": "warp"}, "no speed 'warp'"),
        ({"freeinit": 0}, "0 times over"),
        ({"freeinit": 2, "init": Clip(frames=np.full((1, 64, 64, 3), 9, np.uint8), fps=1, record={})}, "--freeinit steadies"),
    ],
)
def test_what_makes_no_sense_is_refused(pocket, pocket_motion, settings, said):
    with Studio(pocket, [], pocket_motion) as studio, pytest.raises(UserError, match=said):
        studio.clip("a bear", size=SIZE, **settings)


def test_predictions_are_finished_latents(pocket, pocket_motion, monkeypatch):
    """DDIM's last step leaves the noise of its first alpha, 0.029 of unit noise: by that alone prediction and result differ."""
    seen = []
    with Studio(pocket, [], pocket_motion) as studio:
        latents = latents_of(
            studio, monkeypatch, prompt="a bear", num_frames=3, size=SIZE, num_inference_steps=4,
            on_prediction=lambda done, total, prediction: seen.append((done, total, prediction)),
        )  # fmt: skip
    assert [(done, total) for done, total, _ in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (seen[-1][2][0].transpose(0, 1) - latents).pow(2).mean().sqrt() < 2 * 0.00085**0.5


def test_samplers_whose_timesteps_repeat_are_reused_too(pocket, pocket_motion):
    """Karras' noise levels, rounded to timesteps, repeat towards the end; a step is not told by its timestep."""
    settings = {"sampler": "dpm++2m-karras", "num_inference_steps": 50, "num_frames": 2, "size": SIZE, "seed": 1}
    timesteps = make_scheduler("animatediff", 50, sampler="dpm++2m-karras").timesteps.tolist()
    assert len(set(timesteps)) < len(timesteps)
    with Studio(pocket, [], pocket_motion) as studio:
        exact, fast = studio.clip("a bear", **settings), studio.clip("a bear", speed="fast", **settings)
    assert np.abs(exact.frames.astype(int) - fast.frames).mean() < 8


def test_between_the_steps_latents_are_fp32(monkeypatch):
    """In bf16 the UNet alone computes in bf16: the latents keep what a bf16 number has no room for."""
    small = base.load("pocket", device="cpu", dtype="bf16")
    with Studio(small, [], motion.motion_for(small)) as studio:
        latents = latents_of(studio, monkeypatch, prompt="a bear", num_frames=2, size=SIZE, num_inference_steps=3, speed="fast")
    assert latents.dtype == torch.float32 and not torch.equal(latents, latents.bfloat16().float())


def test_between_them_noise_is_drawn_on_by_a_third_of_its_slope():
    """At 0, 1, 2, 4, 6 and 8 of ten steps the predictor is asked; its noise is the number of the step, squared."""
    asked = []

    def predict(latents, timestep, states):
        asked.append(int(timestep))
        return torch.full_like(latents, float(timestep**2))

    reuse, latents = NoiseReuse(predict, SPEEDS["fast"], 10), torch.zeros(2, 1)
    found = [float(reuse(latents, torch.tensor(step), torch.zeros(2, 1))[0]) for step in range(10)]
    assert asked == [0, 1, 2, 4, 6, 8]
    # Slopes are 4 - 1 = 3 from step 2, (16 - 4) / 2 = 6 from step 4 and 10 from step 6; the last step holds what was seen at step 8.
    assert found == pytest.approx([0, 1, 4, 4 + 0.35 * 3, 16, 16 + 0.35 * 6, 36, 36 + 0.35 * 10, 64, 64])


def test_the_second_half_goes_on_when_guidance_ends():
    reuse, both, text = NoiseReuse(lambda latents, timestep, states: latents, SPEEDS["fast"], 10), torch.zeros(2, 1), torch.zeros(1, 1)
    for step in range(3):
        reuse(torch.tensor([[10.0 * step], [2.0 * step]]), torch.tensor(step), both)
    assert reuse(torch.tensor([[99.0]]), torch.tensor(3), text).item() == pytest.approx(4 + 0.35 * 2)
    reuse(torch.tensor([[10.0]]), torch.tensor(4), text)
    assert reuse(torch.tensor([[99.0]]), torch.tensor(5), text).item() == pytest.approx(10 + 0.35 * 3), "from 4 at step 2 to 10 at step 4"


def test_where_a_sampler_adds_noise_nothing_can_be_drawn_on(pocket, pocket_motion):
    settings = {"sampler": "euler-a", "num_inference_steps": 6, "num_frames": 2, "size": SIZE, "seed": 1}
    with Studio(pocket, [], pocket_motion) as studio:
        exact = studio.clip("a bear", **settings)
        with pytest.warns(UserNote, match="euler-a adds new noise"):
            fast = studio.clip("a bear", speed="fast", **settings)
    assert np.array_equal(exact.frames, fast.frames)


def test_speeds_of_earlier_versions_are_not_repeated_silently():
    assert all(recorded_speed(dataclasses.asdict(speed)) == speed for speed in SPEEDS.values())
    before = {"reuse_every": 2, "guided_share": 1.0, "num_inference_steps": None, "num_whole_first": 2, "num_whole_last": 2}
    assert recorded_speed({"name": "exact", **before}) == SPEEDS["exact"]
    for earlier in (before, {"draws_on": True, "guided_share": 1.0, "num_inference_steps": None}):
        with pytest.raises(UserError, match="'fast' of an earlier version"):
            recorded_speed({"name": "fast", **earlier})


def test_whoever_wants_speed_gets_the_faster_precision_unless_another_is_asked_for():
    assert [speed.precision("auto") for speed in SPEEDS.values()] == ["auto", "fast", "fast"]
    assert {speed.precision("fp32") for speed in SPEEDS.values()} == {"fp32"}
