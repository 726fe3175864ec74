from pathlib import Path

import pytest

from cdvideo.config import TrainConfig, load_yaml
from cdvideo.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize("path", sorted((CONFIGS / "train").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_trainings_are_valid(path):
    assert {subject.images.parts[0] for subject in load_yaml(path, TrainConfig).subjects} == {"samples"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("images: x\nclass: bear\nstep: 3\n", "step"),
        ("images: x\n", "class"),
        ("images: x\nclass: bear\nsteps: many\n", "steps"),
        ("images: [x\n", "no valid YAML"),
        ("- x\n", "no settings"),
        ("images: x\nclass: bear\nsteps: 3\nseed: 1\nsteps: 7\n", "'steps' is there twice"),
        ("images: x\nclass: bear\nstpes: 3\n", "did you mean steps?"),
        ("images: x\nclass: bear\nsteps: many\nseed: x\n", "these do not fit either: seed"),
        ("concepts:\n- {images: x, class: a, class: b}\n", "'class' is there twice"),
    ],
)
def test_mistakes_are_named_with_file_and_key(tmp_path, text, said):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        load_yaml(path, TrainConfig)
    assert "mine.yaml" in refused.value.message and said in str(refused.value) and refused.value.remedy
