"""What `cdvideo train` says of settings that do not go together, before it loads anything."""

import json
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner

from cdvideo.cli import main, train
from cdvideo.config import Method as ConfiguredMethod
from cdvideo.config import TrainConfig, checked
from cdvideo.resources import resource
from cdvideo.train.methods import METHODS

BEAR = str(resource("samples", "bear"))
DOG = str(resource("samples", "dog"))
TWO = [{"images": BEAR, "class": "bear"}, {"images": DOG, "class": "dog"}]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def reached(monkeypatch) -> list[TrainConfig]:
    """The settings with which a training would have begun."""
    found: list[TrainConfig] = []
    monkeypatch.setattr("cdvideo.cli.training.train_concept", lambda settings, out, **options: found.append(settings))
    return found


def call(*arguments: str):
    result = CliRunner().invoke(main, ["train", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"images": BEAR, "class": "bear", "concepts": TWO}, ["images", "concepts"]),
        ({}, ["images", "concepts"]),
        ({"images": BEAR}, ["class"]),
        ({"concepts": TWO, "class": "bear"}, ["concepts", "class"]),
        ({"concepts": TWO, "token": "V*"}, ["concepts", "token"]),
        ({"concepts": [{**TWO[0], "token": "V*"}, {**TWO[1], "token": "V*"}]}, ["share a token", "V*"]),
        ({"concepts": [TWO[0], {"images": DOG}]}, ["concepts.1.class"]),
        ({"concepts": [TWO[0], {**TWO[1], "tokn": "V*"}]}, ["concepts.1.tokn", "initializer"]),
        ({"images": BEAR, "class": "bear", "keep": "best"}, ["keep", "samples_every"]),
        ({"images": BEAR, "class": "bear", "keep": "worst"}, ["keep", "best"]),
        ({"images": BEAR, "class": "bear", "method": "lora"}, ["method", "classdiffusion", "svdiff"]),
        ({"images": BEAR, "class": "bear", "optimizer": "sgd"}, ["optimizer", "adamw"]),
        ({"images": BEAR, "class": "bear", "log": "excel"}, ["log", "tensorboard"]),
        ({"images": BEAR, "class": "bear", "accumulate": 0}, ["accumulate"]),
        ({"images": BEAR, "class": "bear", "cache_latents": -1}, ["cache_latents"]),
        ({"images": BEAR, "class": "bear", "learning_rate": 0}, ["learning_rate"]),
        ({"images": BEAR, "class": "bear", "spl_weight": float("inf")}, ["spl_weight"]),
        ({"images": BEAR, "class": "bear", "prior_weight": float("inf")}, ["prior_weight"]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else "",
)
def test_settings_in_a_file_that_do_not_fit_are_named(reached, settings, said):
    Path("mine.yaml").write_text(json.dumps(settings).replace("Infinity", ".inf"))
    result = call("mine.yaml")
    assert result.exit_code == 2 and not reached, result.output
    assert all(word in result.output for word in ["mine.yaml", *said]), result.output


def test_methods_are_the_same_everywhere():
    """The names that are read before torch is, and the methods themselves."""
    (option,) = [one for one in train.command.params if one.name == "method"]
    assert tuple(option.type.choices) == get_args(ConfiguredMethod) == tuple(METHODS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--keep", "best"], ["keep", "--samples-every"]),
        (["--method", "lora"], ["--method", "svdiff"]),
        (["--learning-rate", "inf"], ["mend --learning-rate"]),
        (["--learning-rate", "nan"], ["mend --learning-rate"]),
        (["--learning-rate", "0"], ["mend --learning-rate"]),
        (["--class", ""], ["mend --class"]),
        (["--spl-weight", "nan"], ["spl"]),
        (["--spl-weight", "inf"], ["spl"]),
        (["--prior-weight", "nan"], ["prior"]),
        (["--log", "excel"], ["--log", "tensorboard"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_options_that_do_not_fit_are_named(reached, options, said):
    result = call(BEAR, "--class", "bear", *options)
    assert result.exit_code == 2 and not reached, result.output
    assert all(word in result.output for word in said), result.output


def test_options_come_before_the_file_and_leave_the_rest():
    Path("mine.yaml").write_text(json.dumps({"concepts": TWO, "keep": "best", "samples_every": 50}))
    result = call("mine.yaml", "--samples-every", "0")
    assert result.exit_code == 2 and "samples_every" in result.output and "mine.yaml with the options given" in result.output


def test_subjects_have_tokens_and_a_file_of_their_own():
    config = checked(TrainConfig, {"concepts": TWO}, "here")
    assert [(one.token, one.class_word) for one in config.subjects] == [("V1*", "bear"), ("V2*", "dog")]
    assert config.concept_path.suffix == ".safetensors" and all(word in config.concept_path.name for word in ("bear", "dog"))
    alone = checked(TrainConfig, {"images": BEAR, "class": "bear"}, "here")
    assert [one.token for one in alone.subjects] == ["V*"] and alone.concept_path == Path("concepts/bear.safetensors")
    several = checked(TrainConfig, {"concepts": TWO, "log": "wandb"}, "here")
    assert several.log == ("wandb",)


def test_a_folder_of_class_pictures_may_be_named_for_one_subject(reached):
    result = call(BEAR, "--class", "bear", "--class-images", "bears")
    assert result.exit_code == 0, result.output
    Path("mine.yaml").write_text(json.dumps({"images": BEAR, "class": "bear", "class_images": "bears"}))
    result = call("mine.yaml")
    assert result.exit_code == 0, result.output
    assert [settings.subjects[0].class_images for settings in reached] == [Path("bears"), Path("bears")]


def test_options_reach_the_training(reached):
    options = ["--log", "tensorboard", "--log", "wandb", "--accumulate", "3", "--cache-latents", "5", "--gradient-checkpointing"]
    assert call(BEAR, "--class", "bear", "--method", "svdiff", "--out", "a.safetensors", *options).exit_code == 0
    assert call(BEAR, "--class", "bear").exit_code == 0
    first, second = reached
    assert (first.method, first.log, first.accumulate, first.cache_latents) == ("svdiff", ("tensorboard", "wandb"), 3, 5)
    assert first.gradient_checkpointing and not second.gradient_checkpointing and second.log == ()
