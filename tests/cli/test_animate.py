"""`cdvideo animate`'s own options, as a user meets them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdvideo.video import read
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
    assert "tokens long and is read in 2 parts" in result.output and "names V*, which no concept has" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--prompt", "a (bear"), "( without its partner"),
        (("--prompt", "a bear", "--prompt-at", "0", "a fox"), "two prompts at frame 0"),
        (("--prompt-at", "0", "a fox", "--prompt-at", "0", "a bear"), "two prompts at frame 0"),
        (("--prompt", "a bear", "--prompt-at", "4", "a fox"), "frame 4"),
        (("--prompt", "a bear", "--concept-strength", "soon"), "'soon' is no course"),
        (("--prompt", "a bear", "--concept-strength", "0:1"), "0 concepts"),
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
    result = call("animate", *QUICK, *arguments, "--out", "a")
    assert result.exit_code == 2, result.output
    assert said in result.output and "Traceback" not in result.output and not Path("a").exists()
