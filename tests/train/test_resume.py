"""A training that was stopped, however it was stopped, ends with the same bits as one that was not."""

import random
import time

import pytest
import torch

from cdvideo import base
from cdvideo.concept import Concept
from cdvideo.errors import Interrupted, UserError
from cdvideo.train import checkpoint_path
from tests.train import children
from tests.train.trainings import BEAR, BEAR_AND_DOG, assert_same, run, tensors_of

WAYS = {
    "plain": {},
    "accumulated": {"batch_size": 1, "accumulate": 2},
    "cached": {"cached_views": 2},
    "several": {"subjects": BEAR_AND_DOG},
    "svdiff": {"method": "svdiff", "prior_weight": 1.0},
    "dreambooth": {"method": "dreambooth", "prior_weight": 1.0},
    "textual-inversion": {"method": "textual-inversion"},
    "scaled": {"dtype": "fp16"},
    "official": {"subjects": BEAR_AND_DOG, "spl_mode": "official", "gradient_checkpointing": True},
}


def stop_at(step):
    def stop(progress):
        if progress.step == step:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_training_is_the_uninterrupted_one(small_folder, pictures, tmp_path, way):
    settings = {"steps": 5, "class_pictures": {"bear": pictures["V2*"]}, "dtype": "fp32", **WAYS[way]}
    small = base.load(str(small_folder), device="cpu", dtype=settings.pop("dtype"))
    out = tmp_path / "parts.safetensors"
    whole = run(small, pictures, tmp_path / "whole.safetensors", **settings)
    with pytest.raises(Interrupted):
        run(small, pictures, out, checkpoint_every=2, on_step=stop_at(3), **settings)
    with pytest.raises(Interrupted):
        run(small, pictures, out, checkpoint_every=3, resume=True, on_step=stop_at(5), **settings)
    assert not out.exists()
    parts = run(small, pictures, out, resume=True, **settings)
    assert [progress.step for progress in parts.progress] == [4, 5]
    assert_same(parts.tensors(), whole.tensors())
    assert parts.progress == whole.progress[3:]
    assert_same(tensors_of(Concept.load(out)), whole.tensors())
    assert not checkpoint_path(out).exists() and list(tmp_path.glob(".*")) == []


def test_the_best_survives_a_resume(small, pictures, tmp_path):
    scores, kept = {2: 0.1, 4: 0.9, 6: 0.3, 8: 0.4}, {}

    def judge(milestone):
        kept[milestone.step] = tensors_of(milestone.concept())
        return scores[milestone.step]

    settings = {"steps": 8, "checkpoint_every": 2, "keep_best": True, "on_milestone": judge}
    whole = run(small, pictures, tmp_path / "whole.safetensors", **settings)
    assert whole.concept.header.steps == 4 and sorted(kept) == [2, 4, 6, 8]
    assert_same(whole.tensors(), kept[4])
    out = tmp_path / "parts.safetensors"
    for step in (5, 7):
        with pytest.raises(Interrupted):
            run(small, pictures, out, resume=step == 7, on_step=stop_at(step), **settings)
    parts = run(small, pictures, out, resume=True, **settings)
    assert parts.concept.header.steps == 4
    assert_same(parts.tensors(), whole.tensors())
    assert_same(tensors_of(Concept.load(out)), kept[4])


def test_milestones_are_what_the_training_is_at_their_step(small, pictures, tmp_path):
    seen, drifts = {}, {}

    def keep(milestone):
        assert milestone.steps == 5
        seen[milestone.step], drifts[milestone.step] = milestone.concept(), milestone.drift["V*"]

    whole = run(small, pictures, tmp_path / "a.safetensors", steps=5, checkpoint_every=2, on_milestone=keep)
    assert list(seen) == [2, 4, 5]
    assert_same(tensors_of(seen[5]), whole.tensors())
    assert not torch.equal(seen[2].embeddings["V*"], seen[4].embeddings["V*"]), "a milestone is a copy"
    for step, concept in seen.items():
        with small.inject(concept), torch.no_grad():
            own, word = small.text_features([BEAR.prompt, BEAR.class_prompt])
        assert drifts[step] == pytest.approx(1 - torch.cosine_similarity(own, word, dim=0).item(), abs=1e-6)


def test_milestones_come_between_checkpoints_too_and_only_those_with_a_score_may_be_the_best(small, pictures, tmp_path):
    seen, out = {}, tmp_path / "a.safetensors"

    def score(milestone):
        seen[milestone.step] = checkpoint_path(out).exists()
        return {3: 0.5, 6: 0.2, 7: 0.1}.get(milestone.step)

    made = run(small, pictures, out, steps=7, checkpoint_every=4, milestone_every=3, keep_best=True, on_milestone=score)
    assert seen == {3: False, 4: False, 6: True, 7: True} and made.concept.header.steps == 3


def test_other_class_pictures_are_another_training(small, pictures, tmp_path):
    out, settings = tmp_path / "a.safetensors", {"steps": 5, "prior_weight": 1.0, "checkpoint_every": 2}
    with pytest.raises(Interrupted):
        run(small, pictures, out, class_pictures={"bear": pictures["V2*"]}, on_step=stop_at(3), **settings)
    with pytest.raises(UserError, match="content of the class pictures"):
        run(small, pictures, out, class_pictures={"bear": pictures["V2*"][:1]}, resume=True, **settings)


def test_a_score_that_is_not_a_number_is_never_the_best(small, pictures, tmp_path):
    scores = {2: float("nan"), 4: 0.1, 6: float("nan")}
    settings = {"steps": 6, "checkpoint_every": 2, "keep_best": True, "on_milestone": lambda milestone: scores[milestone.step]}
    assert run(small, pictures, tmp_path / "a.safetensors", **settings).concept.header.steps == 4
    scores[4] = float("nan")
    try:
        last = run(small, pictures, tmp_path / "b.safetensors", **settings).concept
    except (UserError, ValueError):
        return
    assert last.header.steps == 6, "the last weights under another step's name"


def test_the_best_needs_a_score(small, pictures, tmp_path):
    with pytest.raises(ValueError, match="score"):
        run(small, pictures, tmp_path / "a.safetensors", steps=1, keep_best=True)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"method": "custom-diffusion"}, "--method was"),
        ({"batch_size": 3}, "batch size was"),
        ({"learning_rate": 2e-3}, "--learning-rate was"),
        ({"spl_mode": "official"}, "--spl-mode was"),
        ({"cached_views": 3}, "--cache-latents was"),
        ({"steps": 9}, "--steps was"),
        ({"prior_weight": 0.5}, "--prior-weight was"),
        ({"initializer": "teddy"}, "initializers was"),
        ({"photos": slice(2)}, "photos was"),
        ({"photos": slice(None, None, -1)}, "the content of the photos is another"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_resume_with_another_setting_is_refused(small, pictures, tmp_path, changed, named):
    out = tmp_path / "bear.safetensors"
    with pytest.raises(Interrupted):
        run(small, pictures, out, checkpoint_every=1, on_step=stop_at(2))
    changed = dict(changed)
    subject = type(BEAR)(token="V*", class_word="bear", initializer=changed.pop("initializer", BEAR.initializer))
    photos = {"V*": pictures["V*"][changed.pop("photos", slice(3))]}
    with pytest.raises(UserError, match="of another training") as refused:
        run(small, photos, out, (subject,), resume=True, class_pictures={"bear": pictures["V2*"]}, **changed)
    assert named in refused.value.cause and "--overwrite" in refused.value.remedy


@pytest.mark.parametrize("content", ["text", "other tensors"])
def test_what_is_no_checkpoint_is_said(small, pictures, tmp_path, content):
    out = tmp_path / "bear.safetensors"
    if content == "text":
        out.with_suffix(".checkpoint").write_text("hello")
    else:
        torch.save([torch.zeros(2)], out.with_suffix(".checkpoint"))
    with pytest.raises(UserError, match="is damaged") as refused:
        run(small, pictures, out, resume=True)
    assert refused.value.cause == "it is no checkpoint of a training" and "--overwrite" in refused.value.remedy


def test_killed_at_any_moment_and_resumed_it_ends_with_the_same_bits(small_folder, photo_folder, tmp_path):
    arguments = ["train", str(photo_folder), "--class", "bear", "--base", str(small_folder), "--device", "cpu", "--dtype", "fp32"]
    arguments += ["--steps", "30", "--batch-size", "1", "--checkpoint-every", "2", "--samples-every", "0"]
    whole, parts, log = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors", tmp_path / "log"
    process = children.command_line([*arguments, "--out", str(whole)], log)
    process.join(120)
    assert process.exitcode == 0, log.read_text()

    moments, kills = random.Random(0), 0
    for _ in range(3):
        before = checkpoint_path(parts).stat().st_mtime_ns if checkpoint_path(parts).exists() else None
        resume = ["--resume"] if before else []
        process = children.command_line([*arguments, "--out", str(parts), *resume], log)
        while process.is_alive():
            found = checkpoint_path(parts)
            if found.exists() and found.stat().st_mtime_ns != before:
                break
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        process.join(60)
        kills += process.exitcode == -9
        assert process.exitcode in (0, -9), log.read_text()
    if not parts.exists():
        process = children.command_line([*arguments, "--out", str(parts), "--resume"], log)
        process.join(120)
        assert process.exitcode == 0, log.read_text()
    assert kills, "the training ended before it could be killed"
    assert_same(tensors_of(Concept.load(parts)), tensors_of(Concept.load(whole)))
    logs = [path.with_suffix(".training").joinpath("log.jsonl").read_text().splitlines() for path in (whole, parts)]
    steps = [[line.split(",")[0] for line in lines] for lines in logs]
    assert steps[0] == steps[1], "the log is that of one training"
