"""`cdvideo train --check`: what is wrong with a folder is found, and what is right is not complained of."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageFilter, ImageOps

from cdvideo.base.catalog import SD15_PRESET
from cdvideo.cli import main
from cdvideo.resources import resource
from cdvideo.train import cost
from cdvideo.train.check import NearDuplicate, check_photos, suggest_class_word
from cdvideo.train.cost import Recipe, estimated_cost
from cdvideo.train.photos import find_photos
from tests import tiny


@pytest.fixture(scope="module")
def bears() -> Path:
    return Path(resource("samples", "bear"))


@pytest.fixture
def folder(bears, tmp_path) -> Path:
    return Path(shutil.copytree(bears, tmp_path / "my-bears"))


def look(folder, **settings):
    return check_photos(folder, **{"probe": False, "device": "cpu", **settings})


def test_good_photos_are_ready_without_a_warning(bears):
    report = look(bears)
    assert report.ready and not report.warnings and not report.near_duplicates and not report.notes
    assert [(entry.size, entry.mode, entry.format) for entry in report.photos] == [((512, 512), "RGB", "PNG")] * 5
    assert report.base.native_size == 128 and report.base.here
    assert report.words.class_word == "bear" and report.words.suggested


def test_near_duplicates_are_named(folder):
    first = Image.open(folder / "bear-1.png").convert("RGB")
    first.resize((300, 300)).save(folder / "copy.jpg", quality=70)
    ImageOps.mirror(Image.open(folder / "bear-2.png")).save(folder / "mirror.png")
    report = look(folder)
    assert set(report.near_duplicates) == {
        NearDuplicate(first="bear-1.png", second="copy.jpg", mirrored=False),
        NearDuplicate(first="bear-2.png", second="mirror.png", mirrored=True),
    }
    assert report.ready and any("bear-1.png and copy.jpg show the same picture" in warning for warning in report.warnings)


def test_no_two_of_the_samples_are_duplicates():
    from cdvideo.train.check import _near_duplicates, perceptual_hash

    for subject in sorted(path for path in Path(resource("samples")).iterdir() if path.is_dir()):
        pictures = {path.name: Image.open(path).convert("RGB") for path in find_photos(subject)}
        hashes = {name: (perceptual_hash(picture), perceptual_hash(ImageOps.mirror(picture))) for name, picture in pictures.items()}
        assert _near_duplicates(hashes) == [], subject.name


def test_small_blurred_and_narrow_photos_are_warned_of(folder):
    Image.open(folder / "bear-1.png").resize((80, 80)).save(folder / "bear-1.png")
    Image.open(folder / "bear-2.png").filter(ImageFilter.GaussianBlur(8)).save(folder / "bear-2.png")
    Image.open(folder / "bear-3.png").crop((0, 0, 512, 256)).save(folder / "bear-3.png")
    report = look(folder)
    assert report.ready
    assert [entry.enlarged for entry in report.photos][:2] == [1.6, 0.25]
    for said in (
        "bear-1.png is smaller than the base's 128 px: it is enlarged 1.6x",
        "bear-2.png looks blurred",
        "bear-3.png is not square: 50%",
    ):
        assert sum(said in warning for warning in report.warnings) == 1, said
    assert len(report.warnings) == 3


def test_what_cannot_be_trained_on_is_to_be_mended(folder):
    (folder / "broken.jpg").write_bytes(b"")
    (folder / "bear-1.txt").write_text("a dog")
    report = look(folder, class_word="bear")
    assert not report.ready and len(report.mend) == 2
    assert "broken.jpg is empty" in report.mend[1] and "bear-1.txt, line 1" in report.mend[0]


def test_the_class_word_is_one_token_or_near_words_are_named(bears):
    tokenizer = tiny.tokenizer()
    report = look(bears, class_word="penguins")
    assert not report.ready and "penguin" in report.words.alternatives and len(report.words.pieces) > 1
    assert "penguin" in report.mend[0]
    assert look(bears, token="bear").mend[0].startswith("the token 'bear' is a word that the base knows already")
    one = lambda word: len(tokenizer(word, add_special_tokens=False).input_ids) == 1  # noqa: E731
    suggestions = {"my-brown-bears": "bear", "TeddyPhotos2024": "teddy", "bear_rex": "bear", "rex": "rex", "2024-06": None, "photos": None}
    assert {name: suggest_class_word(Path("/x") / name, one) for name in suggestions} == suggestions


def test_a_base_that_is_not_here_is_not_fetched(bears, monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    known = look(bears, base="sd15", recipe=Recipe(batch_size=2))
    assert known.ready and not known.base.here and known.base.native_size == 512
    assert known.words.class_id == 4298 and known.words.token_id == 49408 and known.words.initializer == "ktn"
    assert not known.cost.measured and known.cost.steps == 500 and 4e9 < known.cost.memory_bytes < 12e9
    second = look(bears, base="sd15", number=1)
    assert second.words.token_id == 49409 and second.words.initializer == "pll", "the second of several subjects"
    assert look(bears, base="sd15", initializer="dog").words.initializer == "dog"
    unread = look(bears, base="sd15", initializer="quizzicality")
    assert not unread.ready and "'quizzicality', which a token is to start from" in unread.mend[0]
    unknown = look(bears, base="someone/something")
    assert unknown.ready and unknown.base.native_size is None and unknown.cost is None and "not known" in unknown.base.note


def test_the_cost_is_measured_by_a_few_steps(bears, tmp_path, monkeypatch):
    """On a tiny base; the photos are read, the base is put back, and nothing is left behind."""
    base = tiny.pipeline_folder(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    report = check_photos(bears, base=str(base), device="cpu", recipe=Recipe(steps=1000, batch_size=1))
    assert report.cost.measured and report.cost.batch_size == 1 and report.cost.memory_bytes > 1e8
    assert report.cost.total_seconds >= 1000 * report.cost.step_seconds > 0
    assert report.words.token_id == len(tiny.tokenizer())
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_an_estimate_follows_the_settings():
    def memory(**settings) -> int:
        cpu, fp32 = torch.device("cpu"), torch.float32
        return estimated_cost(SD15_PRESET, Recipe(batch_size=2, **settings), device=cpu, dtype=fp32).memory_bytes

    usual = memory()
    whole = memory(method="dreambooth", prior_weight=0.0) - usual
    assert whole == 16 * (859_520_964 - 19_169_280), "all of the UNet with its gradient and moments, instead of keys and values"
    assert memory(method="dreambooth") > memory(method="dreambooth", prior_weight=0.0), "class pictures pass through, too"
    assert memory(gradient_checkpointing=True) < usual and memory(method="textual-inversion") < usual < memory(method="svdiff")
    assert memory(method="dreambooth", optimizer="adamw8bit") < memory(method="dreambooth")


@pytest.mark.parametrize("method", ["dreambooth", "textual-inversion"])
def test_what_is_measured_is_the_training_that_was_asked_for(bears, small_folder, monkeypatch, method):
    asked = {}
    usual = cost.train
    monkeypatch.setattr(cost, "train", lambda *given, **settings: asked.update(settings) or usual(*given, **settings))
    recipe = Recipe(method=method, accumulate=2, cached_views=2, gradient_checkpointing=True, batch_size=1)
    report = check_photos(bears, base=str(small_folder), device="cpu", recipe=recipe)
    assert report.cost.measured and {name: asked[name] for name in ("method", "accumulate", "cached_views", "gradient_checkpointing")} == {
        "method": method,
        "accumulate": 2,
        "cached_views": 2,
        "gradient_checkpointing": True,
    }


def run(*arguments):
    return CliRunner().invoke(main, ["train", "--check", *map(str, arguments)])


def test_the_command_ends_with_ready_or_with_what_to_mend(folder, monkeypatch):
    from cdvideo.train import check

    monkeypatch.setattr(check, "measured_cost", lambda *given, **settings: None)
    monkeypatch.chdir(folder.parent)
    (folder / "größe 日本.png").write_bytes((folder / "bear-1.png").read_bytes())
    good = run("my-bears")
    lines = good.output.splitlines()
    assert good.exit_code == 0, good.output
    assert lines[0] == "my-bears: 6 photos" and lines[-1] == "ready     cdvideo train my-bears --class bear"
    with_options = run("my-bears", "--class", "bear", "--method", "dreambooth", "--gradient-checkpointing", "--log", "tensorboard")
    command = "cdvideo train my-bears --class bear --method dreambooth --gradient-checkpointing --log tensorboard"
    assert with_options.output.splitlines()[-1] == f"ready     {command}"
    assert "\x1b" not in good.output, "no colours where there is no terminal"
    assert any(line.startswith("warning   bear-1.png and größe 日本.png show the same picture") for line in lines)

    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    bad = run("my-bears", "--class", "bear")
    assert bad.exit_code == 2 and bad.output.splitlines()[-1].startswith("mend      my-bears/cut.jpg cannot be read as a picture")

    Path("train.yaml").write_text("images: my-bears\nclass: zeppelin\n")
    (folder / "cut.jpg").unlink()
    config = run("train.yaml")
    assert config.exit_code == 2 and "does not know 'zeppelin' as one word" in config.output.splitlines()[-1]
    assert run("nowhere").exit_code == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--out", "notes.txt"), "--out notes.safetensors"),
        (("--out", "."), "--out NAME.safetensors"),
        (("--keep", "best"), "--samples-every"),
        (("--class-images", "none", "--prior-weight", "1"), "no pictures of the class in none"),
        (("--optimizer", "adamw8bit"), "bitsandbytes"),
        (("--method", "dreambooth", "--spl-weight", "1"), "dreambooth"),
        (("--learning-rate", "5"), "--learning-rate"),
    ],
    ids=" ".join,
)
def test_options_that_a_training_refuses_are_not_ready(folder, options, said):
    for classes in ((), ("--class", "bear")):
        result = run(folder, *classes, *options)
        assert result.exit_code == 2 and said in result.output and "ready" not in result.output, result.output


def test_the_table_stays_aligned_with_wide_names():
    from cdvideo.cli.checking import _padded, _width

    assert _width("größe 日本.png") == 14 and _padded("日", 4) == "日  "
    assert np.unique([_width(_padded(name, 12)) for name in ("abc", "日本", "e\u0301")]).tolist() == [12]
