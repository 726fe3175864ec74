"""What is given up for speed, and rounds of FreeInit, against diffusers and against the exact way."""

import numpy as np
import pytest
import torch

from cdvideo import base, motion
from cdvideo.animate import Studio
from cdvideo.animate.denoising import noise_predictor
from cdvideo.animate.reuse import SPEEDS, FeatureReuse, Speed, shallow_noise
from cdvideo.animate.sparing import SparingPredictor
from cdvideo.errors import UserError
from cdvideo.sampling import make_scheduler, seeded_noise
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


def test_features_of_now_are_the_whole_unet(pocket, pocket_motion):
    """The shallow part on features of the same latents and step gives what the whole UNet gives, guided and for the text half alone."""
    latents, timestep = seeded_noise(0, (1, 4, 3, 8, 8)).repeat(2, 1, 1, 1, 1), torch.tensor(500)
    states = pocket.text_states(["a bear", "a fox"]).detach()
    with torch.no_grad(), Studio(pocket, [], pocket_motion) as studio:
        unet = studio._motion_unet
        whole, features = FeatureReuse(unet, SparingPredictor(pocket, noise_predictor(unet)), SPEEDS["fast"], 5)._whole(
            latents, timestep, states
        )
        both = shallow_noise(unet, latents, timestep, states, features)
        half = shallow_noise(unet, latents[1:], timestep, states[1:], features[len(features) // 2 :])
    assert torch.allclose(both, whole, atol=1e-5) and torch.allclose(half, whole[1:], atol=1e-5)


def test_the_unet_runs_at_every_nth_step_for_each_window(pocket, pocket_motion, monkeypatch):
    calls, speed = [], Speed(name="own", reuse_every=2, guided_share=0.6)
    with Studio(pocket, [], pocket_motion) as studio:
        forward = studio._motion_unet.forward
        monkeypatch.setattr(
            studio._motion_unet, "forward", lambda sample, *args, **kwargs: calls.append(len(sample)) or forward(sample, *args, **kwargs)
        )
        clip = studio.clip("a bear", num_frames=18, size=SIZE, num_inference_steps=5, speed=speed, guidance_scale=5)
    assert calls == [2, 2, 2, 2, 1, 1], "two windows at steps 1, 3 and 5, guided in the first three of five"
    assert clip.record["speed"] == {
        "name": "own",
        "reuse_every": 2,
        "guided_share": 0.6,
        "num_inference_steps": None,
        "num_whole_first": 0,
        "num_whole_last": 0,
    }


def test_the_first_and_the_last_steps_are_whole(pocket, pocket_motion, monkeypatch):
    seen, speed = [], Speed(name="own", reuse_every=3, num_whole_first=2, num_whole_last=2)
    with Studio(pocket, [], pocket_motion) as studio:
        forward = studio._motion_unet.forward
        monkeypatch.setattr(
            studio._motion_unet,
            "forward",
            lambda sample, timestep, **others: seen.append(int(timestep)) or forward(sample, timestep, **others),
        )
        studio.clip("a bear", num_frames=2, size=SIZE, num_inference_steps=8, speed=speed, guidance_scale=1)
    timesteps = make_scheduler("animatediff", 8).timesteps.tolist()
    assert seen == [timesteps[step] for step in (0, 1, 3, 6, 7)]


def test_speeds_that_give_up_nothing_are_exact(pocket, pocket_motion):
    settings = {"prompt": "a bear", "num_frames": 3, "size": SIZE, "num_inference_steps": 3}
    with Studio(pocket, [], pocket_motion) as studio:
        exact = studio.clip(**settings)
        same = studio.clip(**settings, speed=Speed(name="own"))
        draft = studio.clip("a bear", num_frames=3, size=SIZE, speed="draft")
    assert np.array_equal(exact.frames, same.frames) and exact.record["steps"] == 3 and draft.record["steps"] == 10


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


def remembered(speed, computed):
    """What draws on features that were computed so, by step."""
    reuse = FeatureReuse(None, None, speed, 9)
    for step, value in computed.items():
        reuse._step = step
        reuse._remember(0, torch.tensor(value))
    return reuse


@pytest.mark.parametrize(
    ("computed", "expected"),
    [
        ({0: [[1.0]]}, {1: 1.0, 2: 1.0}),
        ({0: [[1.0]], 3: [[7.0]]}, {4: 9.0, 5: 11.0}),
        ({0: [[1.0]], 3: [[7.0]], 4: [[8.0]]}, {5: 9.0}),
    ],
    ids=["once", "evenly", "in neighbouring steps"],
)
def test_features_are_drawn_on_in_a_straight_line(computed, expected):
    reuse = remembered(Speed(name="own", reuse_every=3), computed)
    for step, value in expected.items():
        reuse._step = step
        assert float(reuse._drawn_on(0)) == pytest.approx(value)


def test_the_second_half_goes_on_when_guidance_ends():
    reuse = remembered(Speed(name="own", reuse_every=2), {0: [[1.0], [2.0]], 2: [[4.0]]})
    reuse._step = 3
    assert reuse._drawn_on(0) == 5


def test_whoever_wants_speed_gets_the_faster_precision_unless_another_is_asked_for():
    assert [speed.precision("auto") for speed in SPEEDS.values()] == ["auto", "fast", "fast"]
    assert {speed.precision("fp32") for speed in SPEEDS.values()} == {"fp32"}
