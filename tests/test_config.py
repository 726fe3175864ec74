from pathlib import Path

import pytest

from cdvideo.config import Storyboard, TrainConfig, load_yaml
from cdvideo.errors import UserError
from cdvideo.storyboard.film import find_concept, shot_settings

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize("path", sorted((CONFIGS / "train").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_trainings_are_valid(path):
    assert {subject.images.parts[0] for subject in load_yaml(path, TrainConfig).subjects} == {"samples"}


@pytest.mark.parametrize("path", sorted((CONFIGS / "storyboards").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_storyboards_are_valid(path):
    assert len(load_yaml(path, Storyboard).shots) >= 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("images: x\nclass: bear\nstep: 3\n", "step"),
        ("images: x\n", "class"),
        ("images: x\nclass: bear\nsteps: many\n", "steps"),
        ("images: [x\n", "no valid YAML"),
        ("- x\n", "no settings"),
    ],
)
def test_mistakes_are_named_with_file_and_key(tmp_path, text, said):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        load_yaml(path, TrainConfig)
    assert "mine.yaml" in refused.value.message and said in str(refused.value) and refused.value.remedy


def test_a_shot_overrides_its_storyboard():
    board = Storyboard.model_validate(
        {"title": "t", "frames": 8, "guidance": 5, "shots": [{"prompt": "a"}, {"prompt": "b", "frames": 4, "guidance": 0, "negative": ""}]}
    )
    first, second = (shot_settings(board, shot) for shot in board.shots)
    assert (first["num_frames"], first["guidance_scale"], first["negative"]) == (8, 5, None)
    assert (second["num_frames"], second["guidance_scale"], second["negative"]) == (4, 0, "")


def test_a_missing_concept_says_where_it_was_looked_for(tmp_path):
    board = Storyboard.model_validate({"title": "t", "concept": "none.safetensors", "shots": [{"prompt": "a"}]})
    with pytest.raises(UserError, match=r"none\.safetensors") as refused:
        find_concept(board.concept[0], tmp_path / "board.yaml")
    assert str(tmp_path) in refused.value.cause


def test_a_shots_camera_is_one_move_or_several():
    shots = [{"prompt": "a"}, {"prompt": "b", "camera": "zoom-in"}, {"prompt": "c", "camera": ["zoom-in", "pan-left:0.6"]}]
    board = Storyboard.model_validate({"title": "t", "shots": shots})
    assert [shot.camera for shot in board.shots] == [(), ("zoom-in",), ("zoom-in", "pan-left:0.6")]
