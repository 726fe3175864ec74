"""Our loop against the libraries' own pipelines, on the same weights and noise."""

from functools import partial

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from cdvideo.animate import Studio
from cdvideo.animate.passes import noise_of
from cdvideo.errors import UserError, UserNote
from cdvideo.resources import resource
from cdvideo.sampling import SAMPLERS, denoise, make_scheduler, seeded_noise
from tests.animate.test_over_time import latents_of
from tests.motion.test_lora import hub_lora
from tests.pipelines import animatediff_pipeline

PROMPT, NEGATIVE = "a bear reading a book in the snow", "bad quality, worse quality"


def ours(base, unet, noise, schedule, steps, sampler="ddim", generator=None):
    with torch.no_grad():
        negative, text = base.text_states([NEGATIVE, PROMPT])[:, None]

    scheduler = make_scheduler(schedule, steps, sampler=sampler)
    return denoise(partial(noise_of, unet), scheduler, noise, text=text, negative=negative, guidance_scale=7.5, generator=generator)


@pytest.mark.parametrize(("schedule", "sampler"), [("animatediff-original", "ddim"), *(("animatediff", sampler) for sampler in SAMPLERS)])
def test_clip_latents_agree_with_animatediff_pipeline(pocket, pocket_motion, schedule, sampler):
    noise = seeded_noise(3, (1, 4, 6, 16, 16))
    with Studio(pocket, [], pocket_motion, motion_norm="diffusers") as studio:
        latents = ours(pocket, studio._motion_unet, noise.clone(), schedule, 4, sampler, torch.Generator().manual_seed(9))
    pipeline = animatediff_pipeline(pocket, 4, schedule=schedule, sampler=sampler)
    theirs = pipeline(
        PROMPT, negative_prompt=NEGATIVE, num_frames=6, height=128, width=128, num_inference_steps=4, guidance_scale=7.5,
        latents=noise.clone(), output_type="latent", generator=torch.Generator().manual_seed(9),
    ).frames  # fmt: skip
    assert (latents - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize("moves", [{}, {"zoom-in": 1.0, "pan-left": 0.6}], ids=["still", "camera"])
def test_a_studios_clip_is_the_pipelines(pocket, pocket_motion, monkeypatch, guidance, moves):
    """With and without guidance and negative prompt, and with MotionLoRAs that diffusers' own loader put into its UNet through peft.

    Seed and steps are some at which the rounding of one step is not multiplied by the next ones: with others, clips that are computed in
    one thread and in two are further apart than is allowed here.
    """
    pytest.importorskip("peft")
    negative = NEGATIVE if moves else ""
    settings = {"num_frames": 4, "num_inference_steps": 12, "guidance_scale": guidance}
    with Studio(pocket, [], pocket_motion, motion_norm="diffusers") as studio:
        cameras = studio.camera_moves([f"{move}:{strength}" for move, strength in moves.items()])
        latents = latents_of(studio, monkeypatch, prompt=PROMPT, negative=negative, seed=5, cameras=cameras, size=(64, 64), **settings)
    pipeline = animatediff_pipeline(pocket, 12)
    for move in moves:
        state = hub_lora(load_file(resource("motion_modules", "pocket", "loras", f"{move}.safetensors")))
        state, alphas, metadata = pipeline.lora_state_dict(
            {name: value.float() for name, value in state.items()}, return_lora_metadata=True
        )
        pipeline.load_lora_into_unet(state, alphas, pipeline.unet, adapter_name=move, metadata=metadata)
    if moves:
        pipeline.unet.set_adapters(list(moves), list(moves.values()))
    theirs = pipeline(
        PROMPT, negative_prompt=negative, height=64, width=64, latents=seeded_noise(5, (1, 4, 4, 8, 8)), output_type="latent", **settings
    ).frames
    assert (latents - theirs[0].transpose(0, 1)).abs().max() < 1e-4


def test_still_latents_agree_with_stable_diffusion_pipeline(pocket):
    noise = seeded_noise(3, (1, 4, 16, 16))
    latents = ours(pocket, pocket.unet, noise.clone(), "stable-diffusion", 6)
    pipeline = StableDiffusionPipeline(
        vae=pocket.vae, text_encoder=pocket.text_encoder, tokenizer=pocket.tokenizer, unet=pocket.unet,
        scheduler=make_scheduler("stable-diffusion", 6), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        PROMPT, negative_prompt=NEGATIVE, height=128, width=128, num_inference_steps=6, guidance_scale=7.5, latents=noise.clone(),
        output_type="latent",
    ).images  # fmt: skip
    assert (latents - theirs).abs().max() < 1e-4


def test_clips_repeat_move_and_have_colours(pocket, pocket_motion):
    with Studio(pocket, [], pocket_motion) as studio:
        usual = studio.clip("a panda walking to the right on the grass", num_frames=8, num_inference_steps=12, seed=1)
        first, again, other = (studio.clip("a panda", num_frames=2, num_inference_steps=3, seed=seed) for seed in (1, 1, 2))
    assert usual.frames.shape == (8, 128, 128, 3) and usual.frames.dtype == np.uint8
    assert np.array_equal(first.frames, again.frames) and not np.array_equal(first.frames, other.frames)
    frames = usual.frames.astype(float)
    assert frames.std() > 20, "nearly uniform"
    assert (frames.max(-1) - frames.min(-1)).mean() > 20, "grey"
    assert np.abs(np.diff(frames, axis=0)).mean() > 0.5, "still"
    for name in ("prompt", "negative", "seed", "steps", "guidance", "schedule", "size", "frames", "fps", "base", "motion", "versions"):
        assert name in usual.record


def test_rendering_leaves_the_base_as_it_was(pocket, pocket_motion):
    before = {name: value.clone() for name, value in pocket.unet.state_dict().items()}
    with Studio(pocket, [], pocket_motion) as studio:
        studio.clip("a fox", num_frames=2, num_inference_steps=1)
    after = pocket.unet.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_frames": 0}, "0 frames"),
        ({"num_frames": 5000}, "5000 frames"),
        ({"num_frames": 4, "loop": True}, "loop 4 frames"),
        ({"size": (100, 128)}, "100x128"),
        ({"size": (8, 8)}, "8x8"),
        ({"fps": 0}, "0 frames a second"),
        ({"num_inference_steps": 0}, "0 steps"),
        ({"seed": -1}, "-1"),
    ],
)
def test_impossible_settings_are_refused(pocket, pocket_motion, settings, said):
    with Studio(pocket, [], pocket_motion) as studio, pytest.raises(UserError, match=said) as refused:
        studio.clip("a bear", **settings)
    assert refused.value.remedy


def test_other_sizes_than_the_bases_own(pocket, pocket_motion):
    with Studio(pocket, [], pocket_motion) as studio:
        clip = studio.clip("a bear", num_frames=2, num_inference_steps=2, size=(136, 72))
    assert clip.frames.shape == (2, 72, 136, 3)


def test_black_clips_are_refused_and_black_frames_said(pocket, pocket_motion, monkeypatch):
    settings = {"prompt": "a bear", "num_frames": 2, "num_inference_steps": 1, "size": (64, 64)}
    frames = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    monkeypatch.setattr(pocket, "decoded", lambda latents, recorded: [frames])
    with Studio(pocket, [], pocket_motion) as studio:
        with pytest.raises(UserError, match="all frames are black"):
            studio.clip(**settings)
        frames[1] = 200
        with pytest.warns(UserNote, match="1 of 2 frames are black: 0"):
            assert studio.clip(**settings).record["seen"]["motion"] == 200
