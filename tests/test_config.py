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
        ("images: !!map x\nclass: bear\n", "no valid YAML"),
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


def test_a_token_that_is_not_named_is_one_that_no_other_subject_has(tmp_path):
    path = tmp_path / "mine.yaml"
    subjects = ["{images: a, class: bear, token: V2*}", "{images: b, class: dog}", "{images: c, class: cat}"]
    path.write_text("concepts:\n" + "".join(f"- {subject}\n" for subject in subjects))
    assert [subject.token for subject in load_yaml(path, TrainConfig).subjects] == ["V2*", "V3*", "V4*"]
    path.write_text("concepts:\n" + "".join(f"- {subject}\n" for subject in subjects[1:]))
    assert [subject.token for subject in load_yaml(path, TrainConfig).subjects] == ["V1*", "V2*"]
