"""The command line as a user meets it: what works, and what every mistake says."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cdvideo.resources import resource
from cdvideo.video import Clip
from tests.command_line import call

BEAR = str(resource("samples", "bear"))


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def concept(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("concept") / "bear.safetensors"
    result = call("train", BEAR, "--class", "bear", "--steps", "2", "--batch-size", "1", "--out", str(path))
    assert result.exit_code == 0, result.output
    return str(path)


def test_from_photos_to_a_film(concept):
    os.makedirs("concepts")
    os.link(concept, "concepts/bear.safetensors")
    result = call(
        "animate", "--prompt", "a V* bear jumping", "--frames", "3", "--steps", "2", "--out", "a.mp4", "--out", "a.gif", "--out", "a"
    )
    assert result.exit_code == 0, result.output
    assert "concept: concepts/bear.safetensors (V*)" in result.output
    assert all(f"wrote {name}" in result.output for name in ("a.mp4", "a.gif", "a"))
    assert len(list(Path("a").glob("*.png"))) == 3

    described = json.loads(call("info", "a.mp4", "--json").output)
    assert described["record"]["prompt"] == "a V* bear jumping" and described["record"]["steps"] == 2
    assert "V*" in call("info", "concepts/bear.safetensors").output

    board = {"title": "Two shots", "steps": 2, "frames": 2, "shots": [{"prompt": "a V* bear"}, {"prompt": "a V* bear at night"}]}
    Path("board.yaml").write_text(json.dumps({**board, "concept": "concepts/bear.safetensors"}))
    assert call("storyboard", "render", "board.yaml", "--out", "film").exit_code == 0
    first = (Path("film") / "two-shots.mp4").stat().st_size
    again = call("storyboard", "render", "board.yaml", "--out", "film")
    assert again.output.count("rendered already") == 2 and first > 0


def test_camera_moves_are_in_the_clip_and_its_record():
    import torch
    from safetensors.torch import load_file, save_file

    state = {}
    for name, value in load_file(resource("motion_modules", "pocket") / "diffusion_pytorch_model.safetensors").items():
        if ".to_" in name and value.ndim == 2:
            generator = torch.Generator().manual_seed(0)
            layer = name.removesuffix(".weight")
            state[f"unet.{layer}.lora_A.weight"] = torch.randn(2, value.shape[1], generator=generator)
            state[f"unet.{layer}.lora_B.weight"] = 0.2 * torch.randn(value.shape[0], 2, generator=generator)
    save_file(state, "own.safetensors")
    common = ["--prompt", "a bear", "--frames", "4", "--steps", "3", "--size", "64x64", "--dtype", "fp32"]
    cameras = ["--camera", "own.safetensors:0.5", "--camera", "own.safetensors"]
    for name, options in {"plain": [], "none": ["--camera", "own.safetensors:0"], "moved": cameras}.items():
        result = call("animate", *common, *options, "--out", name)
        assert result.exit_code == 0, result.output
    record = json.loads(call("info", "moved", "--json").output)["record"]
    assert [(camera["name"], camera["strength"]) for camera in record["cameras"]] == [("own.safetensors", 0.5), ("own.safetensors", 1.0)]
    plain, none, moved = (
        np.stack([np.asarray(Image.open(path)) for path in sorted(Path(name).glob("*.png"))]) for name in ("plain", "none", "moved")
    )
    assert np.array_equal(plain, none) and not np.array_equal(plain, moved)
    # Earlier versions took any strength, and what they rendered can still be rendered again.
    record["cameras"][0]["strength"] = 12.0
    Clip(frames=moved, fps=8, record=record).save("earlier")
    result = call("animate", "--replay", "earlier", "--out", "again")
    assert result.exit_code == 0, result.output
    assert json.loads(call("info", "again", "--json").output)["record"]["cameras"][0]["strength"] == 12

    shots = [{"prompt": "a bear"}, {"prompt": "a bear", "camera": "own.safetensors"}]
    Path("board.yaml").write_text(json.dumps({"title": "Moves", "steps": 2, "frames": 2, "size": "64x64", "shots": shots}))
    for count in (0, 2):
        result = call("storyboard", "render", "board.yaml", "--out", "film")
        assert result.exit_code == 0 and result.output.count("rendered already") == count
    assert len(list(Path("film/shots").glob("*.mp4"))) == 2


def test_stills_repeat_by_seed(concept):
    for name in ("a.png", "b.png"):
        assert call("image", "--prompt", "a V* bear", "--concept", concept, "--steps", "2", "--seed", "5", "--out", name).exit_code == 0
    assert np.array_equal(np.asarray(Image.open("a.png")), np.asarray(Image.open("b.png")))


@pytest.mark.parametrize(
    "arguments",
    [
        ["animate", "--frames", "0"],
        ["animate", "--fps", "500"],
        ["animate", "--steps", "0"],
        ["image", "--seed", "-5"],
        ["image", "--guidance", "1000"],
        ["image", "--init", "none.png"],
        ["animate", "--init", BEAR, "--strength", "nan"],
        ["animate", "--freeinit", "11"],
        ["animate", "--camera", "zoom-in:12"],
        ["animate", "--concept-strength", "0:1"],
        ["animate", "--prompt-at", "3", "a (fox"],
        ["image", "--init", "pyproject.toml"],
    ],
    ids=" ".join,
)
def test_what_needs_no_base_to_be_seen_is_said_before_one_is_loaded(monkeypatch, arguments):
    monkeypatch.setattr("cdvideo.base.load", lambda *_, **__: pytest.fail("a base was loaded"))
    Path("pyproject.toml").write_text("[project]")
    result = call(*arguments, "--prompt", "a bear")
    said = {"0:1": "no concept whose strength", "zoom-in:12": "12 is no strength"}.get(arguments[-1], arguments[-1].lstrip("-"))
    assert result.exit_code == 2 and said in result.output, result.output


def test_a_destination_that_cannot_hold_a_replay_is_said_before_the_work(monkeypatch):
    monkeypatch.setattr("cdvideo.cli.rendering.replay", lambda *_, **__: pytest.fail("it was rendered"))
    Clip(frames=np.zeros((4, 16, 16, 3), np.uint8), fps=8, record={"frames": 4, "fps": 8}).save("a.gif")
    for arguments, said in (
        (["image", "--replay", "a.gif"], "a.gif is a clip, not a picture"),
        (["animate", "--replay", "a.gif", "--out", "b.png"], "b.png cannot hold a clip"),
    ):
        result = call(*arguments)
        assert result.exit_code == 2 and said in result.output, result.output


def test_a_prompt_without_the_token_is_said(concept):
    result = call("image", "--prompt", "a bear", "--concept", concept, "--steps", "1", "--out", "a.png")
    assert result.exit_code == 0 and 'write "V* bear"' in result.output


def test_models_lists_aliases_and_licences():
    output = call("models").output
    assert all(word in output for word in ("pocket", "sd15", "v2", "Apache-2.0", "OpenRAIL"))


def bad_photos() -> None:
    for name in ("empty", "text", "dot", "cut", "phone"):
        Path(name).mkdir()
    Path("text/a.jpg").write_text("hello")
    Path("phone/a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    Image.new("RGB", (1, 1)).save("dot/a.png")
    Image.effect_noise((300, 300), 50).convert("RGB").save("cut/a.jpg")
    Path("cut/a.jpg").write_bytes(Path("cut/a.jpg").read_bytes()[:4000])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "nowhere", "--class", "bear"], "nowhere"),
        (["train", "empty", "--class", "bear"], "no photo in empty"),
        (["train", "text", "--class", "bear"], "text/a.jpg is not a picture"),
        (["train", "dot", "--class", "bear"], "too small: 1x1"),
        (["train", "cut", "--class", "bear"], "cut/a.jpg cannot be read"),
        (["train", BEAR], "which class"),
        (["train", BEAR, "--class", "rhinoceros"], "does not know 'rhinoceros' as one word"),
        (["train", BEAR, "--class", "bear", "--base", "no-such-base"], "no-such-base"),
        (["train", BEAR, "--class", "bear", "--out", "bear.ckpt"], ".safetensors"),
        (["train", "none.yaml"], "no such file: none.yaml"),
        (["train", BEAR, "--class", "bear", "--steps", "0"], "0"),
        (["animate", "--prompt", "a bear", "--frames", "0", "--out", "a.mp4"], "0 frames"),
        (["animate", "--prompt", "a bear", "--size", "100x100", "--out", "a.mp4"], "no multiple of 8"),
        (["animate", "--prompt", "a bear", "--size", "big", "--out", "a.mp4"], "no size"),
        (["animate", "--prompt", "a bear", "--out", "a.avi"], "a.avi"),
        (["animate", "--prompt", "a bear", "--concept", "none.safetensors", "--out", "a.mp4"], "no such concept"),
        (["animate", "--prompt", "a bear", "--motion", "no-such-module", "--out", "a.mp4"], "no-such-module"),
        (["animate", "--prompt", "a bear", "--camera", "zoom-inn", "--out", "a.mp4"], "did you mean 'zoom-in'"),
        (["animate", "--prompt", "a bear", "--camera", "zoom-in:inf", "--out", "a.mp4"], "no strength"),
        (["animate", "--prompt", "a bear", "--camera", "text/a.jpg", "--out", "a.mp4"], "text/a.jpg"),
        (["animate", "--prompt", "a bear", "--concept", "text/a.jpg:abc", "--out", "a.mp4"], "abc is no strength"),
        (["animate", "--prompt", "a bear", "--guidance", "nan", "--out", "a.mp4"], "nan is no guidance"),
        (["animate", "--prompt", "a bear", "--guidance", "-1", "--out", "a.mp4"], "-1 is no guidance"),
        (["animate", "--prompt", "a bear", "--fps", "nan", "--out", "a.mp4"], "nan frames a second"),
        (["animate", "--prompt", "a bear", "--init", "phone/a.heic", "--out", "a.mp4"], "is a HEIC picture"),
        (["image", "--prompt", "a bear", "--guidance", "inf", "--out", "a.png"], "inf is no guidance"),
        (["image", "--prompt", "a bear", "--out", "a.jpg"], "a.jpg does not end in .png"),
        (["image", "--prompt", "a bear", "--camera", "zoom-in", "--out", "a.png"], "No such option"),
        (["animate", "--prompt", "a bear", "--device", "abacus", "--out", "a.mp4"], "abacus"),
        (["animate", "--prompt", "a bear", "--out", "text/a.jpg/b.mp4"], "text/a.jpg"),
        (["image", "--prompt", "a bear", "--base", "text/a.jpg", "--out", "a.png"], "text/a.jpg"),
        (["storyboard", "render", "none.yaml"], "none.yaml"),
        (["info", "none.mp4"], "none.mp4"),
        (["info", "text/a.jpg"], "text/a.jpg"),
    ],
    ids=lambda value: " ".join(value).replace(BEAR, "BEAR") if isinstance(value, list) else None,
)
def test_mistakes_have_one_clear_message(arguments, said):
    bad_photos()
    before = sorted(str(path) for path in Path().rglob("*"))
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert said in result.output and "Traceback" not in result.output
    assert sorted(str(path) for path in Path().rglob("*")) == before, "something was left behind"


def test_a_folder_that_cannot_be_written_is_said_before_the_work(concept):
    Path("file").write_text("")
    result = call("train", BEAR, "--class", "bear", "--out", "file/bear.safetensors", "--steps", "1")
    assert result.exit_code == 2 and "file" in result.output


def test_a_demo_replaces_nothing_but_a_demo(tmp_path):
    (tmp_path / "concepts").mkdir()
    (tmp_path / "concepts" / "bear.safetensors").write_bytes(b"mine")
    result = call("demo", "--out", str(tmp_path))
    assert result.exit_code == 2 and f"{tmp_path} holds other files than a demo's" in result.output
    assert (tmp_path / "concepts" / "bear.safetensors").read_bytes() == b"mine"


def test_a_concept_for_another_base_is_refused(concept, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(Path(__file__).parents[2] / "cdvideo" / "pocket" / "weights", "other")
    weights = Path("other/unet/diffusion_pytorch_model.safetensors")
    tensors = load_file(weights)
    tensors["conv_in.bias"] += 1
    save_file(tensors, weights, metadata={"format": "pt"})
    result = call("image", "--prompt", "a V* bear", "--concept", concept, "--base", "other", "--out", "a.png")
    assert result.exit_code == 2 and "other weights" in result.output
