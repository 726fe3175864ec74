"""Clips and stills that start from a picture or a clip."""

import numpy as np
import pytest
import torch
from diffusers import AnimateDiffVideoToVideoPipeline
from PIL import Image

from cdvideo.animate import Studio, starting
from cdvideo.animate.starting import Start, start_from
from cdvideo.errors import UserError, UserNote
from cdvideo.resources import resource
from cdvideo.sampling import SAMPLERS, make_scheduler, seeded_noise
from cdvideo.train.photos import find_photos
from cdvideo.video import Clip, read
from tests.animate.test_over_time import latents_of
from tests.pipelines import pocket_pipeline

SIZE = (64, 64)


def gradient(num_frames: int, width: int = 64, height: int = 64) -> np.ndarray:
    ramp = np.linspace(0, 255, width)[None, None, :, None] * np.ones((num_frames, height, 1, 3))
    return (ramp * np.linspace(0.5, 1, num_frames)[:, None, None, None]).astype(np.uint8)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "lcm"])
def test_latents_agree_with_the_video_to_video_pipeline(pocket, pocket_motion, monkeypatch, sampler):
    """Theirs takes noised latents; the noise of the first step left is put on by hand: sqrt(a) z + sqrt(1 - a) e, or z + s e."""
    settings = {"num_frames": 4, "size": SIZE, "num_inference_steps": 5, "seed": 3, "negative": "bad quality", "guidance_scale": 7.5}
    clip = Clip(frames=gradient(4), fps=8, record={})
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn((1, 4, 4, 8, 8), generator=generator)
    with Studio(pocket, [], pocket_motion, motion_norm="diffusers") as studio:
        ours = latents_of(studio, monkeypatch, prompt="a bear", sampler=sampler, init=clip, strength=0.6, **settings)
    scheduler = make_scheduler("animatediff", 5, sampler=sampler)
    clean, first = Start(clip.frames, 0.6).latents(pocket), 2
    if sampler.startswith("euler"):
        noised = clean + scheduler.sigmas[first] * noise
    elif sampler.startswith("dpm"):
        noised = (clean + scheduler.sigmas[first] * noise) / (scheduler.sigmas[first] ** 2 + 1).sqrt()
    else:
        alpha = scheduler.alphas_cumprod[scheduler.timesteps[first]]
        noised = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    pipeline = pocket_pipeline(AnimateDiffVideoToVideoPipeline, pocket, scheduler)
    theirs = pipeline(
        None, "a bear", negative_prompt="bad quality", height=64, width=64,
        num_inference_steps=5, guidance_scale=7.5, strength=0.6, latents=noised, output_type="latent", generator=generator,
    ).frames  # fmt: skip
    assert (ours - theirs[0].transpose(0, 1)).abs().max() < 2e-4


def test_a_weak_start_stays_what_it_was_and_a_strong_one_goes(pocket, pocket_motion):
    photo = Image.open(find_photos(resource("samples", "bear"))[0]).resize((128, 128))
    clip = Clip(frames=np.asarray(photo.convert("RGB"))[None], fps=1, record={})
    settings = {"prompt": "a bear", "num_frames": 2, "num_inference_steps": 10}
    with Studio(pocket, [], pocket_motion) as studio:
        far = [
            np.abs(studio.clip(**settings, init=clip, strength=strength).frames.astype(float) - clip.frames).mean()
            for strength in (0.1, 0.5, 1.0)
        ]
    assert far[0] < 20 and far[0] < far[1] < far[2]


def test_pictures_cover_the_size_and_are_cut_around_their_middle(tmp_path):
    Image.fromarray(gradient(1, width=300, height=100)[0]).save(tmp_path / "wide.jpg", quality=95)
    start = start_from(tmp_path / "wide.jpg", None, size=(64, 64), num_frames=3)
    assert start.frames.shape == (3, 64, 64, 3) and (start.frames[0] == start.frames[2]).all()
    middle = gradient(1, width=300)[0, 0, 100:200, 0]
    assert abs(int(start.frames[0, 30, 0, 0]) - int(middle[0])) < 5 and abs(int(start.frames[0, 30, -1, 0]) - int(middle[-1])) < 5


def test_of_a_long_clip_no_more_is_decoded_than_is_used(tmp_path, monkeypatch):
    path = tmp_path / "long.mp4"
    Clip(frames=gradient(40), fps=8, record={}).save(path)
    asked = []
    monkeypatch.setattr(starting, "read", lambda file, most: asked.append(most) or read(file, most=most))
    with pytest.warns(UserNote, match="the first 4 frames are used"):
        start = start_from(path, 0.5, size=SIZE, num_frames=4)
    assert asked == [5] and len(start.frames) == 4
    assert np.abs(start.frames.astype(int) - gradient(40)[:4]).mean() < 4


def test_what_is_transparent_is_white(tmp_path):
    picture = Image.new("RGBA", (64, 64), (200, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (0, 0, 32, 64))
    picture.save(tmp_path / "cut.png")
    frame = start_from(tmp_path / "cut.png", 0.5, size=SIZE).frames[0]
    assert tuple(frame[0, 0]) == (0, 0, 255) and tuple(frame[0, 63]) == (255, 255, 255)


def test_what_is_noised_is_the_strengths_share_of_the_steps():
    start = Start(gradient(1), 0.6)
    assert [start.first_step(steps) for steps in (25, 5, 2)] == [10, 2, 1]
    with pytest.raises(UserError, match="no step at all"):
        Start(gradient(1), 0.1).first_step(5)
    for steps in (1, 3, 5, 7, 9, 12, 25, 30, 200):
        with pytest.raises(UserError) as refused:
            Start(gradient(1), 0.0001).first_step(steps)
        named = float(refused.value.remedy.removeprefix("choose --strength of at least ").partition(",")[0])
        assert Start(gradient(1), named).first_step(steps) < steps, "what is suggested is taken"


@pytest.mark.parametrize("suffix", ["tif", "webp"])
def test_pages_and_frames_that_no_clip_has_count_as_their_first(tmp_path, suffix):
    one, other = (Image.new("RGB", (64, 64), colour) for colour in ((200, 0, 0), (0, 0, 200)))
    one.save(tmp_path / f"two.{suffix}", save_all=True, append_images=[other])
    start = start_from(tmp_path / f"two.{suffix}", 0.5, size=SIZE)
    assert len(start.frames) == 1 and start.frames[0, 0, 0, 0] > 180


def test_a_phones_jpeg_with_a_second_picture_is_a_picture(tmp_path):
    one, other = (Image.new("RGB", (64, 64), colour) for colour in ((200, 0, 0), (0, 0, 200)))
    one.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[other])
    start = start_from(tmp_path / "phone.jpg", 0.5, size=SIZE, num_frames=4)
    assert start.frames.shape == (4, 64, 64, 3) and start.frames[:, 0, 0, 0].min() > 180 and not start.moves


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"strength": 0.5}, "--strength is of --init"),
        ({"init": "none.png"}, "no none.png"),
        ({"init": "text.png"}, "text.png"),
        ({"init": "cut.jpg"}, "cut.jpg"),
        ({"init": "short"}, "short has 2 frames"),
        ({"init": "whole.png", "strength": 1.5}, "--strength 1.5"),
        ({"init": "whole.png", "strength": 0.01}, "no step at all"),
    ],
)
def test_impossible_starts_are_refused(pocket, pocket_motion, tmp_path, monkeypatch, settings, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("hello")
    Image.effect_noise((300, 300), 50).convert("RGB").save("cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:4000])
    Image.new("RGB", (70, 70)).save("whole.png")
    Clip(frames=gradient(2), fps=8, record={}).save("short")
    with Studio(pocket, [], pocket_motion) as studio, pytest.raises(UserError, match=said):
        studio.clip("a bear", num_frames=4, size=SIZE, **settings)


def test_stills_start_from_pictures_too(pocket):
    clip = Clip(frames=gradient(1), fps=1, record={})
    with Studio(pocket) as studio:
        still = studio.still("a bear", size=SIZE, num_inference_steps=4, init=clip, strength=0.5)
    assert still.num_frames == 1 and still.record["init"]["strength"] == 0.5


def test_noise_is_the_seeds():
    assert torch.equal(torch.randn((1, 4, 4, 8, 8), generator=torch.Generator().manual_seed(3)), seeded_noise(3, (1, 4, 4, 8, 8)))
