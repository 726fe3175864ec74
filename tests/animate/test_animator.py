"""The Python interface: it renders what the command line renders."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import cdvideo
from cdvideo.animate import Studio
from cdvideo.animate.settings import strengths_by_frame
from cdvideo.base import device as base
from cdvideo.errors import UserError
from cdvideo.resources import resource
from tests.animate.test_text_states import concept_of


def test_one_line_from_a_concept_to_a_file(pocket, pocket_motion, tmp_path):
    concept = concept_of(pocket, "V*", "bear", 3)
    concept.save(tmp_path / "bear.safetensors")
    settings = {"seed": 3, "num_frames": 2, "num_inference_steps": 2}
    with cdvideo.Animator() as animator:
        clip = animator.add(tmp_path / "bear.safetensors").animate("a V* bear jumping", **settings).save(tmp_path / "bear.mp4")
        still = animator.draw("a V* bear", seed=1, num_inference_steps=1)
    assert (tmp_path / "bear.mp4").stat().st_size > 0 and still.num_frames == 1
    with Studio(pocket, [concept], pocket_motion) as studio:
        assert np.array_equal(studio.clip("a V* bear jumping", **settings).frames, clip.frames)


def test_speed_chooses_the_precision_unless_one_is_asked_for():
    few = {"num_frames": 2, "num_inference_steps": 1, "size": "64x64"}
    fast = base.resolve_dtype("fast", torch.device("cpu"))
    with cdvideo.Animator() as animator:
        assert animator.animate("a bear", speed="fast", **few).record["dtype"] == str(fast).removeprefix("torch.")
        assert animator.animate("a bear", **few).record["dtype"] == "float32"
    with cdvideo.Animator(dtype="fp32") as animator:
        assert animator.animate("a bear", speed="fast", **few).record["dtype"] == "float32"


def test_concepts_are_joined_as_is_asked_for(pocket):
    bear, cat = (concept_of(pocket, "V*", word, seed) for word, seed in (("bear", 1), ("cat", 2)))
    with cdvideo.Animator(joining="merge") as animator:
        clip = animator.add(bear).add(cat).draw("a V1* bear next to a V2* cat", num_inference_steps=1)
    assert clip.record["joining"] == "merge" and [entry["digest"] for entry in clip.record["concepts"]] == [bear.digest, cat.digest]
    for joining, said in (("glue", "no joining 'glue'"), ("whole", "cannot all be whole")):
        with pytest.raises(UserError, match=said):
            Studio(pocket, [bear, cat], joining=joining)


def test_a_missing_concept_is_said(tmp_path):
    with pytest.raises(UserError, match="no such concept"):
        cdvideo.Animator().add(tmp_path / "none.safetensors")


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="animater"):
        cdvideo.animater  # noqa: B018


def test_threads_that_share_one_wait_for_each_other():
    few = {"num_frames": 2, "num_inference_steps": 2, "size": "64x64"}
    prompts = ["a bear", "a cat", "a fox in the snow"]
    with cdvideo.Animator(dtype="fp32") as animator:
        alone = [animator.animate(prompt, **few).frames for prompt in prompts]
        animator.close()
        with ThreadPoolExecutor(3) as pool:
            together = list(pool.map(lambda prompt: animator.animate(prompt, **few).frames, prompts))
    assert all(np.array_equal(own, other) for own, other in zip(together, alone, strict=True))


def test_numbers_of_numpy_and_paths_are_kept_as_json_knows_them(pocket):
    concept = concept_of(pocket, "V*", "bear", 3)
    with cdvideo.Animator("pocket", motion=Path(resource("motion_modules", "pocket"))) as animator:
        clip = animator.add(concept, np.float32(0.5)).animate(
            "a V* bear",
            prompts={np.int64(1): "a bear in the snow"},
            num_frames=np.int64(2),
            num_inference_steps=np.int32(1),
            fps=np.float32(7.5),
            guidance_scale=np.float32(3),
            seed=np.int64(3),
            size=(np.int64(64), 64),
            camera="zoom-in",
            loop=np.bool_(False),
            freeinit=np.int64(1),
            concept_strengths=None,
        )
        started = animator.draw("a V* bear", size=(64, 64), init=clip, strength=np.float32(1))
    record = json.loads(json.dumps(clip.record))
    assert record["concepts"][0]["strength"] == 0.5 and started.record["init"]["strength"] == 1
    assert (record["frames"], record["steps"], record["fps"], record["guidance"], record["seed"]) == (2, 1, 7.5, 3, 3)
    assert record["prompts"] == {"0": "a V* bear", "1": "a bear in the snow"} and record["cameras"][0]["name"] == "zoom-in"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seed": 1.5}, "1.5 is no seed"),
        ({"seed": True}, "True is no seed"),
        ({"seed": None}, "None is no seed"),
        ({"num_frames": 8.0}, "cannot render 8.0 frames"),
        ({"num_inference_steps": "2"}, "cannot sample in '2' steps"),
        ({"fps": "8"}, "cannot play '8' frames a second"),
        ({"guidance_scale": float("nan")}, "nan is no guidance"),
        ({"size": 64}, "64 is no size"),
        ({"size": ()}, r"\(\) is no size"),
        ({"freeinit": 1.5}, "cannot render a clip 1.5 times over"),
        ({"init": "a.png", "strength": "0.5"}, "--strength '0.5' is not between 0 and 1"),
        ({"size": (64.0, 64)}, r"\(64.0, 64\) is no size"),
        ({"prompt": 3}, "3 is no prompt"),
        ({"prompt": None}, "there is no prompt"),
        ({"prompts": {"1": "a bear"}}, "set at '1', which is no frame"),
    ],
)
def test_what_is_no_setting_is_said(pocket, pocket_motion, settings, words):
    with Studio(pocket, [], pocket_motion) as studio, pytest.raises(UserError, match=words):
        studio.clip(**{"prompt": "a bear", "size": "64x64", **settings})


def test_courses_of_strength_may_stand_alone_and_are_numbers(pocket):
    concepts = [concept_of(pocket, "V*", "bear", 3)]
    assert strengths_by_frame({0: 1, 4: np.float32(0.5)}, len(concepts), 8) == [{0: 1, 4: 0.5}]
    assert strengths_by_frame(None, 1, 8) == strengths_by_frame({}, 1, 8) == strengths_by_frame((), 1, 8) == []
    for wrong in ("0:1.0", ["0:1.0"], {0: "1"}, {0: float("nan")}, 0.5):
        with pytest.raises(UserError, match="is no course of strengths"):
            strengths_by_frame(wrong, 1, 8)


def test_mistakes_are_said_before_models_are_loaded(monkeypatch, pocket):
    monkeypatch.setattr("cdvideo.base.load", lambda *_, **__: pytest.fail("the base was loaded"))
    concept = concept_of(pocket, "V*", "bear", 3)
    animator = cdvideo.Animator()
    for strength in (float("nan"), 100, "1"):
        with pytest.raises(cdvideo.UserError, match="is no strength of a concept"):
            animator.add(concept, strength)
    for name, meant in (("frames", "num_frames"), ("guidance", "guidance_scale"), ("negative_prompt", "negative")):
        with pytest.raises(TypeError, match=f"no setting '{name}'; did you mean {meant}"):
            animator.animate("a bear", **{name: 1})
    with pytest.raises(TypeError, match="there are: "):
        animator.draw("a bear", colour=1)


def test_a_closed_studio_says_so(pocket, pocket_motion):
    studio = Studio(pocket, [], pocket_motion)
    studio.close()
    for render in (studio.clip, studio.still):
        with pytest.raises(ValueError, match="is closed"):
            render("a bear")


def test_the_package_shows_what_it_has():
    assert {"Animator", "Clip", "Concept", "UserError"} <= set(dir(cdvideo))
