"""LoRAs in clips and stills, in their records and replays; and AnimateLCM, which brings one of its own."""

from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.torch import save_file

import cdvideo
from cdvideo import base
from cdvideo.animate import Studio
from cdvideo.base.catalog import MOTIONS
from cdvideo.base.lora import ImageLora, load_lora
from cdvideo.errors import UserError
from cdvideo.motion import motion_for
from cdvideo.video import read
from tests import tiny
from tests.base import original_layout
from tests.base.test_loading import cache
from tests.base.test_lora import everything, kohya
from tests.command_line import call
from tests.interop.conftest import concept_of

SHORT = {"num_frames": 2, "num_inference_steps": 2, "size": (64, 64), "seed": 3}
PROMPT = "a photo of a bear"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny.motion_adapter().save_pretrained(tmp_path / "motion")
    return tiny.pipeline_folder(tmp_path / "tiny")


@pytest.fixture
def loaded(folder) -> base.Base:
    return base.load(str(folder), device="cpu", dtype="fp32")


@pytest.fixture
def lora(loaded, tmp_path) -> ImageLora:
    save_file({name: value.contiguous() for name, value in kohya(loaded).items()}, tmp_path / "style.safetensors")
    return load_lora("style.safetensors", base=loaded)


def frames(loaded: base.Base, **studio) -> np.ndarray:
    with Studio(loaded, motion=motion_for(loaded, "motion"), **studio) as opened:
        return opened.clip(PROMPT, **SHORT).frames


def test_in_a_clip_and_out_again(loaded, lora):
    before = {name: value.clone() for name, value in everything(loaded).items()}
    plain = frames(loaded)
    assert not np.array_equal(frames(loaded, loras=[(lora, 1.0)]), plain)
    assert np.array_equal(frames(loaded, loras=[(lora, 0.0)]), plain) and np.array_equal(frames(loaded), plain)
    assert all(value.equal(before[name]) for name, value in everything(loaded).items())


@pytest.mark.parametrize("joining", ["whole", "local"])
def test_a_concept_lies_on_top_of_it_and_both_come_out(loaded, lora, joining):
    """What the LoRA does to keys and values stays where a concept replaces them: at strength 0 the concept's matrices do nothing."""
    concept = concept_of(loaded)
    before = {name: value.clone() for name, value in everything(loaded).items()}
    settings = {"loras": [(lora, 1.0)], "joining": joining}
    with Studio(loaded, [(concept, 0.0)], motion_for(loaded, "motion"), **settings) as studio:
        silent = studio.clip(PROMPT, **SHORT).frames
    with Studio(loaded, [concept], motion_for(loaded, "motion"), **settings) as studio:
        fading = studio.clip(f"{PROMPT} V* bear", concept_strengths=[{0: 1.0, 1: 0.0}], **SHORT).frames
        spoken = studio.clip(f"{PROMPT} V* bear", **SHORT).frames
    alone = frames(loaded, loras=[(lora, 1.0)])
    assert np.abs(silent.astype(int) - alone).max() <= 1
    assert not np.array_equal(fading, spoken)
    assert all(value.equal(before[name]) for name, value in everything(loaded).items())


def test_a_concept_that_does_not_fit_leaves_the_base_as_it_was(loaded, lora):
    before = {name: value.clone() for name, value in everything(loaded).items()}
    concept = concept_of(loaded)
    name = next(iter(concept.tuned))
    with pytest.raises(UserError, match="does not fit the base"):
        Studio(
            loaded,
            [concept.__class__(header=concept.header, embeddings=concept.embeddings, tuned={name: lora.layers["unet.conv_in"].down})],
        )
    with pytest.raises(UserError, match="does not fit the base"):
        wrong = {**concept.tuned, name: concept.tuned[name][:, :4]}
        Studio(loaded, [concept.__class__(header=concept.header, embeddings=concept.embeddings, tuned=wrong)], loras=[(lora, 1.0)])
    assert all(value.equal(before[name]) for name, value in everything(loaded).items())


def test_the_command_line_python_and_a_replay_render_the_same(folder, lora, tmp_path):
    prompt = ("--prompt", PROMPT, "--base", str(folder), "--size", "64x64", "--steps", "2", "--seed", "3")
    moving = ("--motion", "motion", "--frames", "2", "--lora", "style.safetensors:0.7")
    made = call("animate", *prompt, *moving, "--out", "a")
    assert made.exit_code == 0, made.output
    first = read("a")
    assert first.record["loras"] == [{"file": "style.safetensors", "digest": lora.digest, "strength": 0.7}]
    with cdvideo.Animator(str(folder), motion="motion").add_lora("style.safetensors", 0.7) as animator:
        assert np.array_equal(animator.animate(PROMPT, **SHORT).frames, first.frames)
    assert call("animate", "--replay", "a", "--out", "b").exit_code == 0
    assert np.array_equal(read("b").frames, first.frames) and read("b").record == first.record

    still = call("image", *prompt, "--lora", "style.safetensors", "--out", "a.png")
    assert still.exit_code == 0, still.output
    assert call("image", "--replay", "a.png", "--out", "b.png").exit_code == 0
    assert np.array_equal(read("a.png").frames, read("b.png").frames)

    Path("style.safetensors").rename("elsewhere.safetensors")
    missing = call("animate", "--replay", "a", "--out", "c")
    assert missing.exit_code == 2 and "there is no LoRA at style.safetensors" in missing.output
    save_file({name: 2 * value for name, value in kohya(base.load(str(folder), device="cpu")).items()}, "style.safetensors")
    other = call("animate", "--replay", "a", "--out", "c")
    assert other.exit_code == 2 and "the LoRA style.safetensors had the fingerprint" in " ".join(other.output.split())
    assert not Path("c").exists()


def test_mistakes_on_the_command_line(folder):
    for argument, said in (("none.safetensors", "there is no LoRA at"), ("x.safetensors:nan", "nan is no strength of a LoRA")):
        result = call("animate", "--prompt", PROMPT, "--base", str(folder), "--motion", "motion", "--lora", argument)
        assert result.exit_code == 2 and said in result.output and "Traceback" not in result.output


@pytest.fixture
def animatelcm(loaded, tmp_path, monkeypatch) -> Path:
    """AnimateLCM's repository as the hub has it, in the cache, with random tensors of the tiny base's shapes."""
    hub, source = tmp_path / "hub", tmp_path / "AnimateLCM"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(hub))
    adapter = tiny.motion_adapter(seed=5)
    adapter.save_pretrained(source)
    save_file({name: value.contiguous() for name, value in kohya(loaded).items()}, source / "AnimateLCM_sd15_t2v_lora.safetensors")
    save_file(original_layout.motion_checkpoint(adapter.state_dict()), tmp_path / "original.safetensors")
    cache(hub, "wangfuyun/AnimateLCM", source)
    return hub


@pytest.mark.usefixtures("animatelcm")
def test_animatelcm_brings_its_sampler_steps_guidance_and_lora(folder, tmp_path):
    prompt = ("--prompt", PROMPT, "--base", str(folder), "--size", "64x64", "--frames", "2", "--seed", "3", "--offline")
    made = call("animate", *prompt, "--motion", "animatelcm", "--out", "a")
    assert made.exit_code == 0, made.output
    record = read("a").record
    assert {name: record[name] for name in ("sampler", "steps", "guidance", "schedule")} == {
        "sampler": "lcm",
        "steps": 6,
        "guidance": 2.0,
        "schedule": "animatediff",
    }
    assert [(entry["file"], entry["strength"]) for entry in record["loras"]] == [("animatelcm", 0.8)]
    assert call("animate", "--replay", "a", "--out", "b", "--offline").exit_code == 0
    assert np.array_equal(read("a").frames, read("b").frames)

    chosen = ("--steps", "4", "--guidance", "1", "--sampler", "euler", "--lora", "animatelcm:0.5")
    assert call("animate", *prompt, "--motion", "wangfuyun/AnimateLCM", *chosen, "--out", "c").exit_code == 0
    record = read("c").record
    assert (record["sampler"], record["steps"], record["guidance"]) == ("euler", 4, 1.0)
    assert [entry["strength"] for entry in record["loras"]] == [0.5]

    draft = call("animate", *prompt, "--motion", "animatelcm", "--speed", "draft", "--out", "d")
    assert draft.exit_code == 0 and read("d").record["steps"] == 6, "a draft takes no more steps than usual"


@pytest.mark.usefixtures("animatelcm")
def test_animatelcm_by_hand_from_files_is_the_same(loaded, tmp_path):
    """The original file knows nothing of the base's 4 heads and 8 groups, so the diffusers folder stands in for it where it renders."""
    (snapshot,) = (tmp_path / "hub").glob("models--*/snapshots/*")
    by_name, by_hand = motion_for(loaded, "animatelcm", offline=True), motion_for(loaded, str(snapshot))
    original = motion_for(loaded, str(tmp_path / "original.safetensors"))
    assert by_name.fingerprint == by_hand.fingerprint == original.fingerprint and original.version == "v2"
    assert by_name.preset == MOTIONS["animatelcm"].preset and by_hand.preset is None and not by_hand.loras
    with Studio(loaded, motion=by_name) as studio:
        first = studio.clip(PROMPT, num_frames=2, size=(64, 64)).frames
        assert studio.preset.sampler == "lcm"
    own = load_lora(str(snapshot / "AnimateLCM_sd15_t2v_lora.safetensors"), base=loaded)
    with Studio(loaded, motion=by_hand, loras=[(own, 0.8)]) as studio:
        settings = {"sampler": "lcm", "num_inference_steps": 6, "guidance_scale": 2.0}
        second = studio.clip(PROMPT, num_frames=2, size=(64, 64), **settings).frames
        assert not np.array_equal(studio.clip(PROMPT, num_frames=2, size=(64, 64), num_inference_steps=6).frames, second)
    assert np.array_equal(first, second)
