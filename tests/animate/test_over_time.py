"""Prompts and strengths that change over a clip."""

import numpy as np
import pytest
import torch

from cdvideo.animate import Studio
from cdvideo.animate.text_states import TextKeyValues
from cdvideo.animate.tokens import tokenize
from cdvideo.errors import UserError
from cdvideo.motion import motion_for
from cdvideo.sampling import seeded_noise
from tests.animate.test_text_states import concept_of
from tests.pipelines import animatediff_pipeline

QUICK = {"num_inference_steps": 2, "size": (64, 64), "seed": 3}
PROMPTS = {0: "a bear on the beach", 4: "a fox in the snow", 5: "a cat"}


def latents_of(studio, monkeypatch, **settings):
    found = []
    decoded = studio.base.decoded
    monkeypatch.setattr(studio.base, "decoded", lambda latents, recorded: found.append(latents) or decoded(latents, recorded))
    studio.clip(**settings)
    return found[0]


def test_prompt_travel_is_diffusers_free_noise_travel(pocket, monkeypatch):
    """With models in double precision: two guided steps multiply fp32 rounding until it is as large as what is allowed here."""
    for model in (pocket.unet, pocket.text_encoder, pocket.vae):
        model.double()
    pocket.dtype = torch.float64
    with Studio(pocket, [], motion_for(pocket), motion_norm="diffusers") as studio:
        ours = latents_of(studio, monkeypatch, prompts=PROMPTS, num_frames=8, negative="bad quality", guidance_scale=7.5, **QUICK)
    pipeline = animatediff_pipeline(pocket, 2)
    pipeline.enable_free_noise(context_length=8)
    pipeline.unet.double()
    theirs = pipeline(
        dict(PROMPTS), negative_prompt="bad quality", num_frames=8, height=64, width=64, num_inference_steps=2, guidance_scale=7.5,
        latents=seeded_noise(3, (1, 4, 8, 8, 8)).double(), output_type="latent",
    ).frames  # fmt: skip
    assert (ours - theirs[0].transpose(0, 1)).abs().max() < 1e-4


def test_keys_and_values_of_a_frame_between_two_prompts_by_hand(pocket):
    prompts = ["a bear on the beach", "a fox in the snow"]
    text = TextKeyValues(pocket, tokenize(pocket.tokenizer, prompts))
    mixed = text.mixed(torch.tensor([[0.25, 0.75]]), torch.zeros(1, 0))
    first, second = pocket.text_states(prompts).detach()
    weights = dict(pocket.unet.named_parameters())
    with text.within(pocket.unet):
        for name in text.sources:
            found = pocket.unet.get_submodule(name.removesuffix(".weight"))(mixed)
            assert torch.allclose(found[0], (0.25 * first + 0.75 * second) @ weights[name].detach().T, atol=1e-4)


def test_each_window_gets_its_own_frames_prompts(pocket, pocket_motion, monkeypatch):
    """With `hold`, the first window of a long clip whose prompt changes behind it is that of the first prompt alone."""
    seen = []
    with Studio(pocket, [], pocket_motion) as studio:
        unet = studio._motion_unet
        forward = unet.forward
        monkeypatch.setattr(
            unet, "forward", lambda *args, **kwargs: seen.append(kwargs["encoder_hidden_states"]) or forward(*args, **kwargs)
        )
        studio.clip("a bear", prompts={18: "a fox"}, travel="hold", num_frames=20, num_inference_steps=1, guidance_scale=5, size=(64, 64))
    negative, first, second = torch.eye(3)
    assert len(seen) == 2 and all(rows.shape == (24, 1, 3) for rows in seen)
    assert (seen[0][:12, 0] == negative).all() and (seen[0][12:, 0] == first).all()
    # The second window sees frames 8 to 19, the last two of which are the fox's: what changes over time is not seen backwards.
    assert (seen[1][12:22, 0] == first).all() and (seen[1][22:, 0] == second).all()


@pytest.mark.parametrize("joining", ["whole", "local"])
def test_a_strength_that_stays_is_the_constant_one(pocket, pocket_motion, joining):
    concept = concept_of(pocket, "<one>", "bear", 1)
    settings = {"prompt": "a <one> bear", "num_frames": 2, **QUICK}
    before = {name: value.clone() for name, value in pocket.unet.state_dict().items()}
    for strength in (1.0, 0.5):
        with Studio(pocket, [(concept, strength)], pocket_motion, joining=joining) as studio:
            constant = studio.clip(**settings).frames.astype(int)
            course = studio.clip(**settings, concept_strengths=[{0: 1.0}])
            assert np.array_equal(studio.clip(**settings).frames, constant), "the concept is back in the base"
        assert abs(course.frames - constant).max() <= 1 and course.record["concept_strengths"] == [{"0": 1.0}]
    assert all(torch.equal(before[name], value) for name, value in pocket.unet.state_dict().items())


def test_strengths_change_by_frame_and_by_concept(pocket, pocket_motion):
    concepts = [concept_of(pocket, "<one>", "bear", 1), concept_of(pocket, "<two>", "cat", 2)]
    settings = {"prompt": "a <one> bear and a <two> cat", "num_frames": 2, **QUICK}
    with Studio(pocket, concepts, pocket_motion) as studio:
        both = studio.clip(**settings, concept_strengths=[{0: 1, 1: 0}]).record["concept_strengths"]
        fading = studio.clip(**settings, concept_strengths=[{0: 0.0}, {0: 1.0}]).frames
        with pytest.raises(UserError, match="3 courses of strength for 2 concepts"):
            studio.clip(**settings, concept_strengths=[{0: 1.0}] * 3)
    assert both == [{"0": 1, "1": 0}] * 2
    with Studio(pocket, [(concepts[0], 0.0), (concepts[1], 1.0)], pocket_motion) as studio:
        assert abs(studio.clip(**settings).frames.astype(int) - fading).max() <= 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "there is no prompt"),
        ({"prompt": "a bear", "prompts": {0: "a fox"}}, "two prompts at frame 0"),
        ({"prompts": {0: "a bear", 16: "a fox"}}, "the prompt is set at frame 16"),
        ({"prompt": "a bear", "travel": "warp"}, "no travel 'warp'"),
        ({"prompt": "a bear", "concept_strengths": [{0: 1.0}]}, "there is no concept whose strength could change"),
    ],
)
def test_impossible_courses_are_refused(pocket, pocket_motion, settings, said):
    with Studio(pocket, [], pocket_motion) as studio, pytest.raises(UserError, match=said):
        studio.clip(**settings)
