"""The Python interface: it renders what the command line renders."""

import numpy as np
import pytest
import torch

import cdvideo
from cdvideo.animate import Studio
from cdvideo.base import device as base
from cdvideo.errors import UserError
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
