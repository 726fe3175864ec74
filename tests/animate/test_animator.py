"""The Python interface: it renders what the command line renders."""

import numpy as np
import pytest

import cdvideo
from cdvideo.animate import Studio
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


def test_a_missing_concept_is_said(tmp_path):
    with pytest.raises(UserError, match="no such concept"):
        cdvideo.Animator().add(tmp_path / "none.safetensors")


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="animater"):
        cdvideo.animater  # noqa: B018
