"""`cdvideo animate`'s own options, as a user meets them."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdvideo.concept import KEY_VALUE_SUFFIXES, Concept, ConceptHeader
from cdvideo.video import Clip, read
from tests.command_line import call

QUICK = ("--frames", "4", "--steps", "4", "--size", "64x64")


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_everything_at_once_and_again_from_the_file():
    travel = ("--prompt-at", "0", "a bear on the beach", "--prompt-at", "3", "a bear in the [snow:0.9]", "--travel", "hold")
    means = ("--freeinit", "2", "--speed", "fast", "--interpolate", "24", "--upscale", "2", "--preview", "steps.png")
    result = call("animate", *QUICK, *travel, *means, "--out", "a")
    assert result.exit_code == 0, result.output
    clip = read("a")
    assert clip.frames.shape == (12, 128, 128, 3) and clip.fps == 24
    assert clip.record["freeinit"] == 2 and clip.record["speed"]["name"] == "fast" and clip.record["seen"]["motion"] > 0
    with Image.open("steps.png") as sheet:
        assert sheet.width > 4 * 128 and sheet.height > 4 * 128
    assert call("animate", "--replay", "a", "--out", "b").exit_code == 0
    again = read("b")
    assert np.array_equal(again.frames, clip.frames) and again.record == clip.record


def test_long_prompts_and_unknown_tokens_are_said():
    long = "a V* bear " + "reading a book in the snow and " * 6
    result = call("animate", "--frames", "1", "--steps", "1", "--size", "64x64", "--prompt", long, "--out", "a")
    assert result.exit_code == 0, result.output
    assert "tokens long and is read in 2 parts" in result.output and "names V*, which no concept in use has" in result.output
    assert all(line.startswith("note: ") for line in result.output.splitlines() if "note: " in line), "no bar before a note"


def test_a_prompt_of_two_subjects_takes_the_newest_concept_of_each(pocket, monkeypatch):
    for name, token, word in (("old", "V*", "bear"), ("bear", "V*", "bear"), ("cat", "V2*", "cat")):
        header = ConceptHeader(base="pocket", fingerprint=pocket.fingerprint, tokens=(token,), class_words=(word,))
        embedding = pocket.text_encoder.get_input_embeddings().weight[10].clone()
        tuned = {key: value.clone() for key, value in pocket.unet.named_parameters() if key.endswith(KEY_VALUE_SUFFIXES)}
        Concept(header=header, tuned=tuned, embeddings={token: embedding}).save(Path(f"concepts/{name}.safetensors"))
        os.utime(f"concepts/{name}.safetensors", (0, 0) if name == "old" else None)
    quick = ("--frames", "1", "--steps", "1", "--size", "64x64", "--concept-strength", "0:1", "--concept-strength", "0:0.5")
    result = call("animate", *quick, "--prompt", "a V* bear and a V2* cat", "--out", "a")
    assert result.exit_code == 0, result.output
    assert [Path(one["file"]).stem for one in read("a").record["concepts"]] == ["bear", "cat"]
    assert "which no concept in use has" not in result.output


def test_a_comma_in_a_weight_is_said():
    result = call("animate", "--frames", "1", "--steps", "1", "--size", "64x64", "--prompt", "a (bear:1,3)", "--out", "a")
    assert result.exit_code == 0 and "write it with a point: 1.3" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--prompt", "a (bear"), "( without its partner"),
        (("--prompt", "a bear", "--prompt-at", "0", "a fox"), "two prompts at frame 0"),
        (("--prompt-at", "0", "a fox", "--prompt-at", "0", "a bear"), "two prompts at frame 0"),
        (("--prompt", "a bear", "--prompt-at", "4", "a fox"), "frame 4"),
        (("--prompt", "a bear", "--concept-strength", "soon"), "'soon' is no course"),
        (("--prompt", "a bear", "--concept-strength", "0:1"), "there is no concept whose strength"),
        (("--prompt", "a bear", "--concept-strength", "0:1, 0:2"), "two values at frame 0"),
        (("--prompt", "a bear", "--concept-strength", "0:11"), "11 is no strength"),
        (("--prompt", "a bear", "--camera", "zoom-in:1e9"), "1e+09 is no strength of a camera move"),
        (("--prompt", " "), "a prompt is empty"),
        (("--prompt", "a bear", "--prompt-at", "2", ""), "a prompt is empty"),
        (("--prompt", "a bear", "--fps", "0.001"), "--fps from 0.01 to 120"),
        (("--prompt", "a bear", "--size", "¹28x128"), "no size"),
        (("--prompt", "a bear", "--steps", "1001"), "--steps from 1 to 1000"),
        (("--prompt", "a bear", "--init", "start.png", "--freeinit", "2"), "leave one of them out"),
        (("--prompt", "a bear", "--init", "start.png", "--out", "start.png"), "--out and --init are both start.png"),
        (("--prompt", "a bear", "--init", "own/frame_0000.png", "--out", "own"), "--init is one of the frames in own"),
        (("--prompt", "a bear", "--preview", "b.png", "--out", "b.png"), "--out and --preview are both b.png"),
        (("--prompt", "a bear", "--out", "a"), "--out and another --out are both a"),
        (("--prompt", "a bear", "--out", ""), "an empty name"),
        (("--prompt", "a bear", "--init", "none.png"), "none.png"),
        (("--prompt", "a bear", "--strength", "0.5"), "--strength is of --init"),
        (("--prompt", "a bear", "--freeinit", "0"), "0 times over"),
        (("--prompt", "a bear", "--interpolate", "8"), "from 8 to 8"),
        (("--prompt", "a bear", "--upscale", "9"), "9 times"),
        (("--prompt", "a bear", "--preview", "steps.jpg"), "steps.jpg"),
        (("--prompt", "a bear", "--preview", "none/../text/steps.png"), "text/steps.png"),
        (("--prompt", "a bear", "--speed", "warp"), "warp"),
    ],
)
def test_mistakes_have_one_clear_message(arguments, said):
    Path("text").write_text("")
    Image.new("RGB", (64, 64), "red").save("start.png")
    Clip(frames=np.zeros((1, 64, 64, 3), np.uint8), fps=8, record={}).save("own")
    result = call("animate", *QUICK, *arguments, "--out", "a")
    assert result.exit_code == 2, result.output
    assert said in result.output and "Traceback" not in result.output and not Path("a").exists()
