"""What a training leaves to look at: the log, the sheet of samples, and the scores."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from cdvideo.animate.render import Studio
from cdvideo.errors import UserError
from cdvideo.train import Milestone, Progress
from cdvideo.train import journal as journal_module
from cdvideo.train.journal import Journal, journal_folder, sample_prompts
from cdvideo.train.previews import class_pictures, draw
from tests.train.trainings import BEAR, BEAR_AND_DOG, run


@pytest.fixture
def quick(small):
    small.preset = dataclasses.replace(small.preset, num_inference_steps=2)
    return small


def progress(step, steps=25):
    return Progress(step=step, steps=steps, noise_loss=float(step), prior_loss=0.5, spl=step / 100)


def milestone(base, step, steps=30):
    return Milestone(step=step, steps=steps, base=base, concept=None, drift={"V*": 0.125})


def lines(journal):
    return [json.loads(line) for line in journal.log_path.read_text().splitlines()]


def test_every_ten_steps_and_the_end_are_a_line_of_means(tmp_path):
    journal = Journal(tmp_path / "log", [BEAR], settings={})
    for step in range(1, 26):
        journal.step(progress(step))
    assert lines(journal) == [
        {"step": 10, "noise_loss": 5.5, "prior_loss": 0.5, "spl": 0.055},
        {"step": 20, "noise_loss": 15.5, "prior_loss": 0.5, "spl": 0.155},
        {"step": 25, "noise_loss": 23.0, "prior_loss": 0.5, "spl": 0.23},
    ]


def test_a_new_training_forgets_the_old_log_and_a_resumed_one_only_what_was_lost(tmp_path):
    for step in range(1, 26):
        if step == 1:
            journal = Journal(tmp_path, [BEAR], settings={})
        journal.step(progress(step, steps=40))
    resumed = Journal(tmp_path, [BEAR], settings={}, resume=True)
    for step in range(16, 41):
        resumed.step(progress(step, steps=40))
    assert [line["step"] for line in lines(resumed)] == [10, 20, 30, 40]
    anew = Journal(tmp_path, [BEAR], settings={})
    anew.step(progress(10))
    assert [line["step"] for line in lines(anew)] == [10]


def test_a_log_whose_last_line_was_cut_can_be_resumed(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 10, "noise_loss": 1.0}\n{"step": 20, "noi')
    journal = Journal(tmp_path, [BEAR], settings={}, resume=True)
    for step in range(16, 21):
        journal.step(progress(step, steps=20))
    assert [line["step"] for line in lines(journal)] == [10, 20]


def test_the_sheet_grows_by_a_row_at_every_milestone_that_is_due(quick, tmp_path):
    journal = Journal(tmp_path, [BEAR], settings={}, prompts=["a bear", "a dog in the snow"], samples_every=10)
    heights = []
    quick.components.tokenizer.add_tokens(["V*"])
    for step in (5, 10, 15, 20, 30):
        assert journal.milestone(milestone(quick, step)) is None
        if journal.sheet_path.exists():
            with Image.open(journal.sheet_path) as sheet:
                heights.append(sheet.height)
                width = sheet.width
    first, same, second, third = heights
    assert first == same and first < second < third and third - second == pytest.approx(second - first, abs=2)
    assert sorted(path.name for path in tmp_path.glob("samples-*")) == [f"samples-0000{step}.png" for step in (10, 20, 30)]
    assert width > 2 * 128
    assert [line["step"] for line in lines(journal)] == [5, 10, 15, 20, 30]
    assert all(line["drift/V*"] == 0.125 for line in lines(journal))


def test_what_else_lies_beside_the_samples_is_left_alone(quick, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "samples-mine.png")
    journal = Journal(tmp_path, [BEAR], settings={}, prompts=["a bear"], samples_every=10)
    for step in (10, 20):
        journal.milestone(milestone(quick, step))
    assert (tmp_path / "samples-mine.png").exists() and journal.sheet_path.exists()


def test_rows_keep_the_prompts_that_they_were_drawn_of(quick, tmp_path, monkeypatch):
    drawn = []
    sheet = journal_module.contact_sheet
    monkeypatch.setattr(journal_module, "contact_sheet", lambda rows, columns, labels: drawn.append(labels) or sheet(rows, columns, labels))
    for prompts, resume, step in ((["a bear", "a dog"], False, 10), (["a fox"], True, 20), (["a fox"], True, 30)):
        Journal(tmp_path, [BEAR], settings={}, prompts=prompts, samples_every=10, resume=resume).milestone(milestone(quick, step))
    assert drawn[-1] == ["a bear | a dog: step 10", "a fox: step 20", "step 30"]
    Image.new("RGB", (64, 32)).save(tmp_path / "samples-000005.png")
    Journal(tmp_path, [BEAR], settings={}, prompts=["a fox"], samples_every=10, resume=True).milestone(milestone(quick, 40))
    assert drawn[-1][:2] == ["step 5", "a bear | a dog: step 10"], "a row of an earlier version does not say"


def test_the_end_is_drawn_even_where_it_is_no_multiple(quick, tmp_path):
    journal = Journal(tmp_path, [BEAR], settings={}, prompts=["a bear"], samples_every=20)
    journal.milestone(milestone(quick, 30))
    assert (tmp_path / "samples-000030.png").exists()


def test_a_sheet_resumed_with_other_prompts_still_shows_its_rows(quick, tmp_path):
    Journal(tmp_path, [BEAR], settings={}, prompts=["a bear", "a dog"], samples_every=10).milestone(milestone(quick, 10))
    resumed = Journal(tmp_path, [BEAR], settings={}, prompts=["a bear", "a dog", "a cat"], samples_every=10, resume=True)
    resumed.milestone(milestone(quick, 20))
    assert resumed.sheet_path.exists()


def test_a_milestones_score_is_the_scorers(quick, tmp_path):
    asked = []

    def scorer(pictures, prompts):
        asked.append((pictures.shape, pictures.dtype, list(prompts)))
        return {"score": 0.75, "clip_t": 0.25}

    prompts = ["a V* bear", "a V* bear on the beach", "an owl like V*", "V*"]
    journal = Journal(tmp_path, [BEAR], settings={}, prompts=prompts, samples_every=10, scorer=scorer)
    assert journal.milestone(milestone(quick, 5)) is None
    assert journal.milestone(milestone(quick, 10)) == 0.75
    ((shape, dtype, said),) = asked
    assert shape == (4, 64, 64, 3) and dtype == np.uint8
    assert said[:2] == ["a bear", "a bear on the beach"]
    assert not any("V*" in prompt for prompt in said), said
    assert lines(journal)[-1] == {"step": 10, "drift/V*": 0.125, "score": 0.75, "clip_t": 0.25}


def test_sample_prompts_name_every_subject():
    prompts = sample_prompts(BEAR_AND_DOG)
    assert prompts[0] == "a V1* bear" and "a V2* dog" in prompts and len(prompts) == len(set(prompts)) == 8
    assert all("V1* bear" in prompt or "V2* dog" in prompt for prompt in prompts)


def test_a_training_keeps_its_journal(quick, pictures, tmp_path):
    out = tmp_path / "bear.safetensors"
    journal = Journal(journal_folder(out), [BEAR], settings={}, prompts=["a V* bear"], samples_every=4)
    trained = run(quick, pictures, out, steps=8, checkpoint_every=4, on_step=journal.step, on_milestone=journal.milestone)
    assert [sorted(line) for line in lines(journal)] == [
        ["drift/V*", "step"],
        ["noise_loss", "prior_loss", "spl", "step"],
        ["drift/V*", "step"],
    ]
    assert lines(journal)[1]["noise_loss"] == pytest.approx(trained.losses()[:, 0].mean().item(), abs=1e-5)
    with quick.inject(trained.concept), torch.no_grad():
        phrase, word = quick.text_states(["a photo of a V* bear", "a photo of a bear"])
        ends = [
            quick.tokenizer(text).input_ids.index(quick.tokenizer.eos_token_id) for text in ("a photo of a V* bear", "a photo of a bear")
        ]
        own, its_class = phrase[ends[0]], word[ends[1]]
        drift = 1 - float((own @ its_class) / (own.norm() * its_class.norm()))
        picture = draw(quick, ["a V* bear"])
    assert lines(journal)[2]["drift/V*"] == pytest.approx(drift, abs=2e-6)
    with Image.open(tmp_path / "bear.training" / "samples-000008.png") as sample:
        assert np.array_equal(np.asarray(sample), picture[0]), "the last sample is what the concept draws"


def test_samples_are_what_the_still_of_the_prompt_is(quick):
    prompts = ["a bear", "a dog in the snow", "a cat", "a teddy", "a bear on the beach"]
    drawn = draw(quick, prompts, seed=3)
    with Studio(quick) as studio:
        for index in (0, 4):
            still = studio.still(prompts[index], negative="", seed=3 + index).frames[0]
            assert np.abs(drawn[index].astype(int) - still.astype(int)).max() <= 1


@pytest.mark.parametrize(("log", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_log_whose_package_is_missing_is_refused_and_nothing_is_lost(tmp_path, monkeypatch, log, package):
    Journal(tmp_path, [BEAR], settings={}).step(progress(10))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=package) as refused:
        Journal(tmp_path, [BEAR], settings={}, logs=[log])
    assert "pip install" in refused.value.remedy and "--log" in refused.value.remedy
    assert (tmp_path / "log.jsonl").exists(), "the log of the training before was removed"


def test_tensorboard_is_written_where_asked_to(quick, tmp_path):
    pytest.importorskip("tensorboardX")
    journal = Journal(tmp_path, [BEAR], settings={}, prompts=["a bear"], samples_every=10, logs=["tensorboard"])
    for step in range(1, 11):
        journal.step(progress(step))
    journal.milestone(milestone(quick, 10))
    journal.close()
    (events,) = tmp_path.glob("events.out.tfevents.*")
    content = events.read_bytes()
    assert all(name in content for name in (b"noise_loss", b"spl", b"drift/V", b"samples"))


def test_class_pictures_are_drawn_once(quick, tmp_path):
    drawn = []
    first = class_pictures(quick, "bear", tmp_path / "class-bear", 3, on_picture=drawn.append)
    assert drawn == [1, 2, 3] and [picture.size for picture in first] == [(64, 64)] * 3
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "class-bear").iterdir()}
    again = class_pictures(quick, "bear", tmp_path / "class-bear", 3, on_picture=drawn.append)
    assert drawn == [1, 2, 3] and [one.tobytes() for one in again] == [one.tobytes() for one in first]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "class-bear").iterdir()} == times
    assert len(set(one.tobytes() for one in first)) == 3, "every picture has a noise of its own"
    more = class_pictures(quick, "bear", tmp_path / "class-bear", 4, on_picture=drawn.append)
    assert drawn == [1, 2, 3, 4] and [one.tobytes() for one in more[:3]] == [one.tobytes() for one in first]
    assert len(class_pictures(quick, "bear", tmp_path / "class-bear", 2)) == 2


def test_pictures_in_the_class_folder_are_used_as_they_are_but_for_their_size(quick, tmp_path):
    Image.new("RGBA", (100, 80), (255, 0, 0, 255)).save(tmp_path / "own.png")
    (found,) = class_pictures(quick, "bear", tmp_path, 1)
    assert found.size == (64, 64) and found.mode == "RGB" and found.getpixel((5, 5)) == (255, 0, 0)


def test_class_pictures_that_were_interrupted_are_completed(quick, tmp_path):
    """Whatever is missing is drawn from its own noise, also where a picture in the middle was removed."""
    first = class_pictures(quick, "bear", tmp_path, 3)
    (tmp_path / "bear-0001.png").unlink()
    again = class_pictures(quick, "bear", tmp_path, 3)
    assert {one.tobytes() for one in again} == {one.tobytes() for one in first}


def test_a_damaged_class_picture_is_named(quick, tmp_path):
    (tmp_path / "bear-0000.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="bear-0000"):
        class_pictures(quick, "bear", tmp_path, 1)
