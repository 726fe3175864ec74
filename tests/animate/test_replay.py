"""A clip rendered again from its own file."""

from pathlib import Path

import numpy as np
import pytest
import torch

import cdvideo
from cdvideo.animate import replay
from cdvideo.animate.denoising import denoised
from cdvideo.base.device import threads_of
from cdvideo.resources import resource
from cdvideo.video import read
from tests.command_line import call


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def trained(seed: str) -> None:
    images = str(resource("samples", "bear"))
    call("train", images, "--class", "bear", "--steps", "1", "--batch-size", "1", "--seed", seed, "--out", "concepts/bear.safetensors")


def test_a_clip_is_rendered_again_with_its_concept():
    trained("0")
    prompt = ("--prompt", "a V* bear jumping", "--frames", "3", "--steps", "2", "--seed", "7", "--size", "72x64")
    assert call("animate", *prompt, "--out", "a", "--out", "a.mp4").exit_code == 0
    again = call("animate", "--replay", "a.mp4", "--out", "b")
    assert again.exit_code == 0, again.output
    first, second = read("a"), read("b")
    assert np.array_equal(first.frames, second.frames) and first.record == second.record

    Path("concepts/bear.safetensors").rename("concepts/renamed.safetensors")
    assert call("animate", "--replay", "a.mp4", "--out", "c").exit_code == 0, "found by its content under another name"
    trained("1")
    Path("concepts/renamed.safetensors").unlink()
    refused = call("animate", "--replay", "a.mp4", "--out", "d")
    assert refused.exit_code == 2 and "concepts/bear.safetensors" in refused.output and not Path("d").exists()


def test_merged_concepts_are_merged_again_and_other_files_do_not_matter():
    trained("0")
    Path("cat.safetensors").write_bytes(Path("concepts/bear.safetensors").read_bytes())
    Path("concepts/broken.safetensors").write_bytes(b"no concept")
    two = ("--concept", "concepts/bear.safetensors", "--concept", "cat.safetensors", "--joining", "merge")
    quick = ("--prompt", "a V1* bear and a V2* bear", "--frames", "2", "--steps", "1", "--size", "64x64")
    made = call("animate", *two, *quick, "--out", "a")
    assert made.exit_code == 0, made.output
    again = call("animate", "--replay", "a", "--out", "b")
    assert again.exit_code == 0, again.output
    assert np.array_equal(read("a").frames, read("b").frames) and read("b").record["joining"] == "merge"


def test_a_still_is_rendered_again():
    assert call("image", "--prompt", "a fox", "--steps", "2", "--out", "a.png").exit_code == 0
    assert call("image", "--replay", "a.png").exit_code == 0
    assert np.array_equal(read("a.png").frames, read("a-again.png").frames)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--prompt"),
        (("--replay", "none.mp4"), "none.mp4"),
        (("--replay", "a.mp4", "--seed", "3"), "--seed would change it"),
        (("--replay", "a.mp4", "--prompt", "a bear"), "--prompt would change it"),
    ],
)
def test_what_cannot_be_replayed_is_refused(arguments, said):
    result = call("animate", *arguments)
    assert result.exit_code == 2 and said in result.output and "Traceback" not in result.output


def test_a_clip_is_rendered_again_with_as_many_threads(monkeypatch):
    seen = []
    few = {"num_frames": 2, "num_inference_steps": 1, "size": "64x64"}
    with cdvideo.Animator(device="cpu") as animator, threads_of(1):
        animator.animate("a fox", **few, on_step=lambda *_: seen.append(torch.get_num_threads())).save("a")
    monkeypatch.setattr("cdvideo.animate.render.denoised", _counting(seen))
    with threads_of(2):
        again = replay(read("a").record, Path("a"), device="cpu")
        assert torch.get_num_threads() == 2
    assert seen == [1, 1] and again.record["threads"] == 1 and np.array_equal(again.frames, read("a").frames)
    with threads_of(2):
        replay({**read("a").record, "threads": 10**6}, Path("a"), device="cpu")
    assert seen == [1, 1, 2]


def _counting(seen):
    def counted(*arguments, **named):
        seen.append(torch.get_num_threads())
        return denoised(*arguments, **named)

    return counted


def test_what_started_from_a_clip_in_memory_is_not_rendered_again():
    few = {"num_frames": 2, "num_inference_steps": 2, "size": "64x64"}
    with cdvideo.Animator() as animator:
        first = animator.animate("a fox", **few)
        animator.animate("a fox jumping", **few, init=first).save("a.mp4")
    refused = call("animate", "--replay", "a.mp4", "--out", "b")
    assert refused.exit_code == 2 and "is in no file" in refused.output and "storyboard render" in refused.output


def test_a_long_loop_is_rendered_again():
    prompt = ("--prompt", "a fox jumping", "--frames", "18", "--steps", "2", "--size", "64x64", "--loop")
    assert call("animate", *prompt, "--out", "a").exit_code == 0
    assert call("animate", "--replay", "a", "--out", "b").exit_code == 0
    first, second = read("a"), read("b")
    assert first.num_frames == 18 and np.array_equal(first.frames, second.frames)


def test_what_changes_over_a_clip_and_what_it_started_from_is_rendered_again():
    trained("0")
    call("image", "--prompt", "a bear", "--steps", "1", "--size", "64x64", "--out", "start.png")
    settings = ("--frames", "4", "--steps", "4", "--size", "64x64", "--init", "start.png", "--strength", "0.8")
    travel = (
        "--prompt",
        "a V* bear",
        "--prompt-at",
        "2",
        "a V* bear in (snow:1.3)",
        "--travel",
        "smooth",
        "--concept-strength",
        "0:1, 3:0.2",
    )
    assert call("animate", *settings, *travel, "--out", "a").exit_code == 0
    assert call("animate", "--replay", "a", "--out", "b").exit_code == 0
    first, second = read("a"), read("b")
    assert np.array_equal(first.frames, second.frames) and first.record == second.record
    assert first.record["prompts"] == {"0": "a V* bear", "2": "a V* bear in (snow:1.3)"} and first.record["init"]["file"] == "start.png"
    call("image", "--prompt", "a fox", "--steps", "1", "--size", "64x64", "--out", "start.png")
    refused = call("animate", "--replay", "a", "--out", "c")
    assert refused.exit_code == 2 and "start.png shows other frames now" in refused.output
