"""`cdvideo train` on the tiny base, from its options to the files that it leaves."""

import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageDraw

from cdvideo import base, train
from cdvideo.cli import main
from cdvideo.concept import Concept
from cdvideo.train import loop, passes, previews
from tests.train.trainings import assert_same, tensors_of


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def command(small_folder, photo_folder):
    def call(*options: str, photos=photo_folder):
        common = ["--class", "bear", "--base", str(small_folder), "--device", "cpu", "--dtype", "fp32"]
        usual = ["--steps", "3", "--batch-size", "1", "--out", "bear.safetensors"]
        result = CliRunner().invoke(main, ["train", str(photos), *common, *usual, *options])
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
        assert "Traceback" not in result.output
        return result

    return call


@pytest.fixture
def drawings(monkeypatch) -> list[str]:
    """The prompts of the pictures that are drawn, of which no denoising is done."""
    found: list[str] = []

    def draw(base, prompts, **options):
        found.extend(prompts)
        size = base.preset.native_size
        return torch.full((len(prompts), size, size, 3), len(found) % 256, dtype=torch.uint8).numpy()

    monkeypatch.setattr(previews, "draw", draw)
    monkeypatch.setattr("cdvideo.train.journal.draw", draw)
    return found


def files(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_training_leaves_a_concept_and_its_journal(command, tmp_path, drawings):
    result = command("--samples-every", "2", "--checkpoint-every", "1", "--steps", "4")
    assert result.exit_code == 0, result.output
    samples = [f"bear.training/samples{name}.png" for name in ("-000002", "-000004", "")]
    assert files(tmp_path) == sorted(["bear.safetensors", "bear.training/log.jsonl", *samples])
    assert 'animate --concept bear.safetensors --prompt "a V* bear in' in result.output, "only concepts/ is looked into"
    assert "concept: bear.safetensors" in result.output and "samples: bear.training/samples.png" in result.output
    steps = [json.loads(line)["step"] for line in (tmp_path / "bear.training/log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 4]
    assert len(drawings) == 2 * 4 and drawings[0] == "a V* bear"


def test_class_pictures_are_drawn_once_and_used_again(command, tmp_path, drawings):
    assert command("--method", "dreambooth", "--num-class-images", "2").exit_code == 0
    assert drawings == ["a photo of a bear"] * 2
    assert len(list((tmp_path / "bear.training").glob("class-bear-*/*.png"))) == 2
    assert command("--method", "svdiff", "--num-class-images", "2", "--overwrite").exit_code == 0
    assert command("--method", "classdiffusion", "--overwrite").exit_code == 0
    assert len(drawings) == 2 and len(list((tmp_path / "bear.training").glob("class-bear-*/*.png"))) == 2


def test_a_finished_concept_is_replaced_only_where_that_is_asked_for(command, tmp_path):
    assert command().exit_code == 0
    before = (tmp_path / "bear.safetensors").read_bytes()
    refused = command("--seed", "1")
    assert refused.exit_code == 2 and "bear.safetensors exists already" in refused.output and "--overwrite" in refused.output
    assert (tmp_path / "bear.safetensors").read_bytes() == before
    assert command("--seed", "1", "--overwrite").exit_code == 0
    assert (tmp_path / "bear.safetensors").read_bytes() != before


def test_class_pictures_that_no_loss_uses_are_said_to_be_unused(command, tmp_path):
    (tmp_path / "mine").mkdir()
    Image.new("RGB", (64, 64), (0, 200, 0)).save(tmp_path / "mine" / "a.png")
    result = command("--class-images", "mine")
    assert result.exit_code == 0 and "the pictures in mine are not used; --prior-weight 1 uses them" in result.output


def test_an_optimizer_whose_package_is_missing_is_said_before_anything_is_made(command, tmp_path, drawings):
    result = command("--optimizer", "adamw8bit", "--method", "dreambooth", "--num-class-images", "1")
    assert result.exit_code == 2 and "bitsandbytes" in result.output and "--optimizer adamw" in result.output
    assert drawings == [] and files(tmp_path) == []


def test_a_folder_of_class_pictures_is_used_instead(command, tmp_path, drawings, monkeypatch):
    seen = {}
    monkeypatch.setattr(train, "train", lambda *arguments, **settings: seen.update(settings))
    (tmp_path / "mine").mkdir()
    for name in ("a.png", "b.jpg"):
        picture = Image.new("RGB", (96, 64), (0, 200, 0))
        picture.paste((200, 0, 0), (0, 0, 16, 64))
        picture.save(tmp_path / "mine" / name, quality=100, subsampling=0)
    result = command("--method", "dreambooth", "--class-images", "mine")
    assert result.exit_code == 0, result.output
    assert drawings == [] and len(seen["class_pictures"]["bear"]) == 2
    for picture in seen["class_pictures"]["bear"]:
        red, green, _ = picture.getpixel((2, 8))
        assert picture.width == picture.height and red < 20 and green > 180, "cut to its central square, not squeezed"


def test_class_pictures_of_one_of_several_subjects_may_be_given(small_folder, photo_folder, tmp_path, drawings, monkeypatch):
    seen = {}
    monkeypatch.setattr(train, "train", lambda *arguments, **settings: seen.update(settings))
    (tmp_path / "mine").mkdir()
    Image.new("RGB", (64, 64), (0, 200, 0)).save(tmp_path / "mine" / "a.png")
    concepts = [{"images": str(photo_folder), "class": "bear"}, {"images": str(photo_folder), "class": "dog", "class_images": "mine"}]
    settings = {"concepts": concepts, "base": str(small_folder), "prior_weight": 1.0, "num_class_images": 2, "out": "two.safetensors"}
    (tmp_path / "two.yaml").write_text(json.dumps(settings))
    result = CliRunner().invoke(main, ["train", "two.yaml"])
    assert result.exit_code == 0, result.output
    assert drawings == ["a photo of a bear"] * 2 and {word: len(some) for word, some in seen["class_pictures"].items()} == {
        "bear": 2,
        "dog": 1,
    }
    for concept in concepts:
        concept |= {"class": "bear", "class_images": "mine"}
    concepts[0]["class_images"] = "others"
    (tmp_path / "two.yaml").write_text(json.dumps(settings))
    result = CliRunner().invoke(main, ["train", "two.yaml"])
    assert result.exit_code == 2 and "two folders of pictures of the class bear" in result.output


def test_a_folder_without_class_pictures_is_an_error(command, tmp_path, drawings):
    (tmp_path / "empty").mkdir()
    for folder in ("nowhere", "empty"):
        result = command("--method", "dreambooth", "--class-images", folder)
        assert result.exit_code == 2 and f"class in {folder}" in result.output, result.output
    assert drawings == [] and not (tmp_path / "nowhere").exists()


def test_a_log_whose_package_is_missing_is_said_before_anything_is_made(command, tmp_path, drawings, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setattr(train, "train", lambda *arguments, **settings: pytest.fail("trained"))
    result = command("--log", "tensorboard", "--method", "dreambooth", "--num-class-images", "1")
    assert result.exit_code == 2 and "tensorboardX" in result.output and "cdvideo[log]" in result.output
    assert drawings == [], "pictures of the class were drawn first"


def test_a_loss_that_is_not_a_number_is_one_message(command, tmp_path, monkeypatch):
    usual, calls = loop.pass_inputs, []

    def spoilt(*given):
        calls.append(0)
        noisy, *others = usual(*given)
        return noisy * (float("nan") if len(calls) == 4 else 1), *others

    monkeypatch.setattr(loop, "pass_inputs", spoilt)
    result = command("--steps", "6", "--checkpoint-every", "2")
    assert result.exit_code == 2 and "not a number at step 4" in result.output and "V* bear" in result.output
    assert files(tmp_path) == ["bear.checkpoint", "bear.training/log.jsonl"]
    assert torch.load(tmp_path / "bear.checkpoint", weights_only=True)["step"] == 2
    resumed = command("--steps", "6", "--checkpoint-every", "2", "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert command("--steps", "6", "--out", "whole.safetensors").exit_code == 0
    assert_same(tensors_of(Concept.load(tmp_path / "bear.safetensors")), tensors_of(Concept.load(tmp_path / "whole.safetensors")))


def test_nothing_to_resume_loses_nothing(command, tmp_path):
    assert command().exit_code == 0
    before = (tmp_path / "bear.training/log.jsonl").read_text()
    result = command("--resume")
    assert result.exit_code == 2 and "nothing to resume" in result.output
    assert (tmp_path / "bear.training/log.jsonl").read_text() == before


def test_the_best_needs_a_clip_and_that_is_said_first(command, tmp_path, monkeypatch):
    monkeypatch.setattr("cdvideo.evaluate.clip.clip_of", lambda kind: None)
    result = command("--keep", "best", "--samples-every", "1", "--checkpoint-every", "1")
    assert result.exit_code == 2 and "CLIP" in result.output and files(tmp_path) == []


def test_the_best_is_kept_by_the_clip_that_comes_with_the_base(command, tmp_path, monkeypatch, drawings):
    scores = iter([0.2, 0.9, 0.5])

    class FakeClip:
        name = "0123456789abcdef"

        def images(self, pictures):
            assert pictures.shape == (3, 64, 64, 3) and pictures.dtype == "uint8"
            return torch.eye(3)

        def alignment(self, pictures, prompts):
            assert len(pictures) == len(prompts) == 4 and not any("V*" in prompt for prompt in prompts)
            return next(scores)

        def likeness(self, pictures, photos):
            assert torch.equal(photos, torch.eye(3))
            return 0.01

    monkeypatch.setattr("cdvideo.evaluate.clip.clip_of", lambda kind: FakeClip())
    result = command("--keep", "best", "--samples-every", "2", "--checkpoint-every", "2", "--steps", "6")
    assert result.exit_code == 0 and "the best by its samples: after step 4" in result.output, result.output
    made = Concept.load(tmp_path / "bear.safetensors")
    assert made.header.steps == 4 and made.looks["V*"].clip == FakeClip.name and torch.equal(made.looks["V*"].features, torch.eye(3))
    logged = [json.loads(line) for line in (tmp_path / "bear.training/log.jsonl").read_text().splitlines()]
    assert [line["score"] for line in logged if "score" in line] == pytest.approx([0.21, 0.91, 0.51])


def test_an_unfinished_training_is_not_begun_anew_by_mistake(command, tmp_path, monkeypatch):
    def stop(progress):
        raise KeyboardInterrupt

    usual = loop.Progress
    monkeypatch.setattr(loop, "Progress", lambda **values: stop(values) if values["step"] == 2 else usual(**values))
    assert command("--checkpoint-every", "1").exit_code == 130
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    before = Path("bear.checkpoint").read_bytes()
    refused = command()
    assert refused.exit_code == 2 and "--resume" in refused.output and "--overwrite" in refused.output
    assert Path("bear.checkpoint").read_bytes() == before
    assert command("--overwrite").exit_code == 0 and not Path("bear.checkpoint").exists()


def test_without_a_checkpoint_nothing_is_loaded_to_resume(command, tmp_path, monkeypatch):
    monkeypatch.setattr(base, "load", lambda *_, **__: pytest.fail("the base was loaded"))
    result = command("--resume")
    assert result.exit_code == 2 and "nothing to resume" in result.output


def test_a_training_that_is_refused_leaves_no_folder(command, tmp_path):
    result = command("--token", "bear")
    assert result.exit_code == 2 and files(tmp_path) == [] and not list(tmp_path.iterdir())


def test_pictures_of_the_class_that_nothing_needs_are_said_not_to_be_drawn(command):
    result = command("--num-class-images", "3", "--steps", "1")
    assert result.exit_code == 0 and "no pictures of the class are drawn" in result.output


def test_masks_and_captions_beside_the_photos_are_learnt_from(command, pictures, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    pictures["V*"][0].save(tmp_path / "photos" / "one.png")
    mask = Image.new("L", pictures["V*"][0].size)
    ImageDraw.Draw(mask).rectangle((0, 0, mask.width // 4, mask.height), fill=255)
    mask.save(tmp_path / "photos" / "one.mask.png")
    (tmp_path / "photos" / "one.txt").write_text("a bear reading a book")
    masks, captions = [], []
    usual_loss, usual_inputs = passes.masked_noise_loss, loop.pass_inputs

    def noise_loss(noise_pred, noise, mask):
        spoilt = torch.where(mask[:, None] == 0, 1e6, noise_pred)
        found = usual_loss(noise_pred, noise, mask)
        assert torch.allclose(usual_loss(spoilt, noise, mask), found), "what lies outside the mask counts"
        return found

    def inputs(base, batch, scheduler, encode):
        captions.extend(batch.captions)
        masks.append(batch.mask)
        assert all(base.tokenizer.convert_tokens_to_ids("V*") in ids for ids in batch.ids)
        return usual_inputs(base, batch, scheduler, encode)

    monkeypatch.setattr(passes, "masked_noise_loss", noise_loss)
    monkeypatch.setattr(loop, "pass_inputs", inputs)
    result = command("--batch-size", "4", photos=tmp_path / "photos")
    assert result.exit_code == 0, result.output
    assert len(captions) == 12 and all(caption.endswith("a V* bear reading a book") for caption in captions)
    shares = [(one > 0).float().mean().item() for one in torch.cat(masks)]
    assert max(shares) < 0.6 and min(shares) > 0, "the loss counts where the subject is, a quarter of the photo"


def test_several_subjects_of_a_file_are_learnt_together(small_folder, photo_folder, tmp_path):
    config = tmp_path / "both.yaml"
    config.write_text(
        f"concepts:\n  - {{images: {photo_folder}, class: bear}}\n  - {{images: {photo_folder}, class: dog}}\n"
        f"base: {small_folder}\nsteps: 2\nout: both.safetensors\n"
    )
    result = CliRunner().invoke(main, ["train", str(config), "--device", "cpu", "--dtype", "fp32"])
    assert result.exit_code == 0, result.output
    concept = Concept.load(tmp_path / "both.safetensors")
    assert concept.header.tokens == ("V1*", "V2*") and concept.header.class_words == ("bear", "dog")
    assert not torch.equal(concept.embeddings["V1*"], concept.embeddings["V2*"])
