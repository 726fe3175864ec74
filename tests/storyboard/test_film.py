"""Whole films on the pocket base, small and of few steps; what is in them is found by decoding the files."""

import math
import multiprocessing
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
import wave
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from cdvideo import video
from cdvideo.animate import render as render_module
from cdvideo.animate import reuse
from cdvideo.base.loading import POCKET_FOLDER
from cdvideo.cli import main
from cdvideo.concept import Concept, ConceptHeader, Looks
from cdvideo.errors import UserError, UserNote
from cdvideo.evaluate.clip import Clip
from cdvideo.storyboard import plan_film, read_storyboard, render, workers
from cdvideo.storyboard.cards import PAPER
from cdvideo.storyboard.local import LocalExecutor
from cdvideo.storyboard.takes import Shelf, Take, drafted_size
from cdvideo.storyboard.timing import timeline
from cdvideo.video.sheet import evenly_picked
from tests.animate.test_text_states import concept_of
from tests.base.test_lora import kohya
from tests.command_line import call
from tests.train import children

HEAD = "title: Small\ndefaults: {frames: 6, steps: 1, size: 64x64, fps: 8}\n"
TWO = HEAD + "shots:\n  - prompt: a bear on the beach\n  - {prompt: a bear in the snow, seed: 3}\n"


class Counter:
    """Counts the denoising steps, and notes which takes were asked for and which of them lay there."""

    def __init__(self) -> None:
        self.steps = 0
        self.takes: list[tuple[int, int, bool]] = []

    def __call__(self, shot, take, done):
        self.takes.append((shot.number, take, done))
        return self._step

    def _step(self, step, steps):
        self.steps += 1


def plan_of(file: Path):
    return plan_film(read_storyboard(file), file)


def film_of(folder: Path, text: str, **settings):
    """The film of a storyboard with this text, and the steps that it took."""
    file = folder / "film.yaml"
    file.write_text(text)
    counter = Counter()
    film = render(plan_of(file), file, folder / "film", on_take=counter, **{"formats": ("mp4",), "device": "cpu", "workers": 1, **settings})
    return film, counter


def frames_of(film) -> list[np.ndarray]:
    return [shot.kept.clip().frames for shot in film.shots]


def write_tone(path: Path, seconds: float) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"".join(struct.pack("<h", int(9000 * math.sin(index / 3))) for index in range(int(8000 * seconds))))
    return path


def test_a_film_is_what_its_storyboard_says(tmp_path):
    text = HEAD + (
        "title_card: {seconds: 0.5}\nend_card: {seconds: 0.25, transition: cut}\n"
        "shots:\n"
        "  - {prompt: a bear on the beach, caption: Once}\n"
        "  - {prompt: a bear in the snow, seed: 3, transition: {kind: crossfade, seconds: 0.25}, caption: {text: It snowed, burn: true}}\n"
    )
    film, _ = film_of(tmp_path, text, formats=("mp4", "webm", "gif"))
    plan = plan_of(tmp_path / "film.yaml")
    places = timeline([length for length, _ in plan.parts], [transition for _, transition in plan.parts])
    assert [place.start for place in places] == [0, 4, 8, 14] and places[-1].end == 16

    first, second = frames_of(film)
    for suffix in ("mp4", "webm", "gif"):
        seen = video.read(film.files[suffix]).frames
        assert len(seen) == 16
        for card in (seen[:4], seen[14:]):
            assert np.abs(card[:, 2, 2].astype(int) - PAPER).max() < 12, "a card's corner is paper"
        tolerance = 30 if suffix == "gif" else 12
        if suffix != "gif":
            assert np.abs(seen[4:8].astype(int) - first[:4]).mean() < tolerance
        assert np.abs(seen[10:14, :40].astype(int) - second[2:, :40]).mean() < tolerance, "above its caption"
        for index, share in enumerate((1 / 3, 2 / 3)):
            light = (1 - share) * (first[4 + index] / 255) ** 2.2 + share * (second[index] / 255) ** 2.2
            mixed = 255 * light ** (1 / 2.2)
            assert np.abs(seen[8 + index, :40] - mixed[:40]).mean() < tolerance, "two frames of crossfade, mixed in light"
        assert np.abs(seen[10:14, 50:].astype(int) - second[2:, 50:]).max() > 60, "burnt in"
    described = video.describe(film.files["mp4"])
    assert described["fps"] == 8
    srt = film.files["srt"].read_text()
    assert "00:00:00,500 --> 00:00:01,125\nOnce" in srt and "It snowed" not in srt, "what is burnt in is no subtitle"
    assert film.page.read_text().count("<video") >= 1 and film.sheet.exists()
    record = video.read_record(film.files["mp4"])
    assert [shot["prompt"] for shot in record["shots"]] == ["a bear on the beach", "a bear in the snow"]


def test_nothing_is_rendered_twice(tmp_path):
    film, counter = film_of(tmp_path, TWO)
    assert (film.num_rendered, counter.steps) == (2, 2)
    before = frames_of(film)

    sound = write_tone(tmp_path / "tone.wav", 3)
    changed = TWO.replace("fps: 8", "fps: 12, guidance: 6.0").replace("seed: 3", "seed: 3, caption: Snow, transition: dip-to-black")
    changed += f"title_card: {{}}\naudio: {sound.name}\n"
    film, counter = film_of(tmp_path, changed, formats=("mp4", "gif"))
    assert (film.num_rendered, counter.steps) == (0, 0), "no picture changed, and a default that is said aloud is the same setting"
    assert all(np.array_equal(old, new) for old, new in zip(before, frames_of(film), strict=True))
    assert {shot.kept.clip().fps for shot in film.shots} == {12.0} and video.read(film.shots[0].kept.mp4).fps == 12

    film, counter = film_of(tmp_path, TWO.replace("seed: 3", "seed: 4"))
    assert film.num_rendered == 1 and counter.takes == [(1, 1, True), (2, 1, False)]
    assert film_of(tmp_path, TWO)[0].num_rendered == 0, "going back finds the shot of before"
    moved = TWO.replace("shots:\n", "shots:\n  - prompt: a bear in the forest\n")
    film, counter = film_of(tmp_path, moved)
    assert sorted(counter.takes) == [(1, 1, False), (2, 1, True), (3, 1, True)], "a shot is the same wherever it stands"
    assert all(np.array_equal(old, new) for old, new in zip(before, frames_of(film)[1:], strict=True))


def test_a_damaged_take_is_rendered_again(tmp_path):
    whole, _ = film_of(tmp_path, TWO)
    first, second = (shot.kept.folder for shot in whole.shots)
    frames = frames_of(whole)

    def cut(file):
        file.write_bytes(file.read_bytes()[:-20])

    damages = [
        lambda: cut(first / "frame_0003.png"),
        lambda: (first / "frame_0005.png").unlink(),
        lambda: (first / "record.json").write_text("{"),
        lambda: (first / "frame_0000.png").write_bytes(b""),
    ]
    for damage in damages:
        damage()
        film, counter = film_of(tmp_path, TWO)
        assert (film.num_rendered, counter.steps) == (1, 1) and film.shots[1].kept.folder == second
        assert all(np.array_equal(own, other) for own, other in zip(frames_of(film), frames, strict=True))


def test_no_film_replaces_another_or_somebodys_own_files(tmp_path):
    film, _ = film_of(tmp_path, TWO)
    other = tmp_path / "other.yaml"
    other.write_text(TWO)
    settings = {"formats": ("mp4",), "device": "cpu", "workers": 1}
    before = film.files["mp4"].read_bytes()
    with pytest.raises(UserError, match="another storyboard"):
        render(plan_of(other), other, film.folder, **settings)
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "small.srt").write_text("mine")
    with pytest.raises(UserError, match=r"small\.srt exists already"):
        render(plan_of(other), other, tmp_path / "web", **settings)
    assert film.files["mp4"].read_bytes() == before and (tmp_path / "web" / "small.srt").read_text() == "mine"
    assert [path.name for path in (tmp_path / "web").iterdir()] == ["small.srt"]
    replaced = render(plan_of(other), other, film.folder, overwrite=True, **settings)
    assert replaced.num_rendered == 0
    with pytest.raises(UserError, match="another storyboard"):
        film_of(tmp_path, TWO)
    other.write_text(TWO.replace("Small", "New"))
    (film.folder / "new.mp4").write_text("mine")
    with pytest.raises(UserError, match=r"new\.mp4 exists already"):
        render(plan_of(other), other, film.folder, **settings)
    with pytest.warns(UserNote, match=r"small\.mp4 is of an earlier rendering"):
        other.write_text(TWO)
        render(plan_of(other), other, film.folder, **{**settings, "formats": ("gif",)})


def test_a_film_of_before_folders_said_whose_they_are_stays_its_storyboards(tmp_path):
    film, _ = film_of(tmp_path, TWO, formats=("mp4", "gif"))
    (film.folder / "shots" / "film.json").unlink()
    changed = TWO.replace("seed: 3", "seed: 4")
    assert film_of(tmp_path, changed, only=(1,))[0].missing == [2]
    assert film_of(tmp_path, changed)[0].num_rendered == 1 and film_of(tmp_path, changed, formats=("gif",))[0].num_rendered == 0


@pytest.mark.parametrize("draft", [(), ("--draft",)])
def test_a_film_under_another_title_is_noticed(tmp_path, monkeypatch, draft):
    monkeypatch.chdir(tmp_path)
    render_it = ("storyboard", "render", "film.yaml", "--only", "1", "--device", "cpu", "--workers", "1", *draft)
    for title, said in (("Small", ""), ("Large", "are used with --out films/small")):
        Path("film.yaml").write_text(TWO.replace("Small", title))
        result = CliRunner().invoke(main, render_it)
        assert result.exit_code == 0 and said in result.output and ("another title" in result.output) == bool(said), result.output


def test_captions_are_found_out_before_anything_is_rendered_and_subtitles_are_those_of_the_track(tmp_path):
    lost = TWO.replace("- prompt: a bear on the beach", "- {prompt: a bear on the beach, caption: 漢}")
    with pytest.raises(UserError, match="漢"):
        film_of(tmp_path, lost, formats=("gif",))
    assert not list((tmp_path / "film").glob("shots/*/")), "although an MP4 would not draw it"

    shown = TWO.replace("seed: 3", "seed: 3, caption: Für dich")
    film, _ = film_of(tmp_path, shown, formats=("gif",))
    assert "Für dich" in film.files["srt"].read_text()
    burnt = shown.replace("Für dich", "{text: Für dich, burn: true}")
    film, _ = film_of(tmp_path, burnt, formats=("gif",))
    assert "srt" not in film.files and not list((tmp_path / "film").glob("*.srt")), "players would show it twice"


def test_a_film_that_lies_there_loads_nothing_and_hires_nobody(tmp_path, monkeypatch):
    text = TWO.replace("steps: 1", "steps: 2").replace("seed: 3", "seed: 3, takes: 2, camera: zoom-in, continue: true")
    film, _ = film_of(tmp_path, text)
    with monkeypatch.context() as patch:
        for name in ("cdvideo.base.load", "cdvideo.storyboard.takes.clip_of", "cdvideo.storyboard.local.LocalHand"):
            patch.setattr(name, lambda *_, **__: pytest.fail("something was loaded"))
        again, counter = film_of(tmp_path, text, workers=2)
        assert counter.takes == [(1, 1, True), (2, 1, True), (2, 2, True)] and again.num_rendered == 0
        assert [shot.kept for shot in again.shots] == [shot.kept for shot in film.shots]
    weights = tmp_path / "other"
    shutil.copytree(POCKET_FOLDER, weights)
    assert film_of(tmp_path, text + f"base: {weights}\n")[0].num_rendered == 0, "a copy of the same base makes the same takes"
    state = load_file(weights / "unet/diffusion_pytorch_model.safetensors")
    state["conv_out.weight"] = -state["conv_out.weight"]
    (weights / "unet/diffusion_pytorch_model.safetensors").unlink()
    save_file(state, weights / "unet/diffusion_pytorch_model.safetensors")
    assert film_of(tmp_path, text + f"base: {weights}\n")[0].num_rendered == 3, "other weights under the same name make others"


def test_only_some_shots(tmp_path):
    film, counter = film_of(tmp_path, TWO, only=[2])
    assert counter.takes == [(2, 1, False)] and film.missing == [1]
    assert not film.files and film.page is None and not list((tmp_path / "film").glob("*.mp4"))
    film, counter = film_of(tmp_path, TWO, only=[1])
    assert counter.takes == [(1, 1, False)] and not film.missing and film.files["mp4"].exists()


def test_a_shot_continues_from_the_one_before(tmp_path):
    text = TWO.replace("steps: 1", "steps: 2").replace("seed: 3", "seed: 3, continue: true")
    film, _ = film_of(tmp_path, text, only=[2])
    assert film.num_rendered == 2 and not film.missing, "the shot that it continues is needed too"
    from cdvideo.animate.starting import start_from

    last = video.Clip(frames=frames_of(film)[0][-1:], fps=8, record={})
    assert film.shots[1].kept.clip().record["init"]["digest"] == start_from(last, None, size=(64, 64), num_frames=6).digest
    alone, _ = film_of(tmp_path, TWO.replace("steps: 1", "steps: 2"))
    assert not np.array_equal(frames_of(film)[1], frames_of(alone)[1])
    film, counter = film_of(tmp_path, text.replace("beach", "beach\n    seed: 9"))
    assert [done for _, _, done in counter.takes] == [False, False], "another last frame makes another shot"
    source, folder = tmp_path / "film.yaml", tmp_path / "film"
    command = f"cdvideo storyboard render {source} --only 2 --out {folder}"
    assert f"{command}<" in film.page.read_text(), "the frame that it began with is in no file"
    draft = render(plan_of(source), source, folder / "draft", formats=("mp4",), device="cpu", workers=1, speed="draft")
    assert f"{command} --draft<" in draft.page.read_text()


@pytest.mark.parametrize(("keep", "kept"), [("best", 2), ("3", 3)])
def test_the_best_take_is_kept_or_the_one_that_is_asked_for(tmp_path, monkeypatch, keep, kept):
    judged = []

    class Judge:
        def alignment(self, frames, texts):
            judged.append(texts)
            return [0.2, 0.9, 0.4][len(judged) - 1]

    monkeypatch.setattr(Shelf, "clip_model", Judge())
    film, counter = film_of(tmp_path, HEAD + f"shots:\n  - {{prompt: a bear on the beach, seed: 5, takes: 3, keep: {keep}}}\n")
    assert counter.takes == [(1, 1, False), (1, 2, False), (1, 3, False)]
    (shot,) = film.shots
    assert [take.seed for take in shot.takes] == [5, 6, 7] and [take.clip().record["seed"] for take in shot.takes] == [5, 6, 7]
    assert (shot.kept.number, shot.kept.scores["text"]) == (kept, [0.2, 0.9, 0.4][kept - 1])
    assert judged[0] == ["a bear on the beach"] * 4
    page = film.page.read_text()
    assert all(take.mp4.name in page for take in shot.takes)


def test_takes_are_like_the_photos_of_who_is_named(tmp_path, pocket):
    clip = Clip()
    photos = {name: np.full((1, 64, 64, 3), level, np.uint8) for name, level in (("V1*", 250), ("V2*", 5))}
    header = ConceptHeader(base="pocket", fingerprint=pocket.fingerprint, tokens=("V1*", "V2*"), class_words=("bear", "sunglasses"))
    rows = {token: pocket.text_encoder.get_input_embeddings().weight[0].clone() for token in header.tokens}
    looks = {token: Looks(clip.images(photo), clip.name) for token, photo in photos.items()}
    Concept(header=header, tuned={}, embeddings=rows, looks=looks).save(tmp_path / "both.safetensors")
    cast = "cast:\n  bear: {concept: both.safetensors, class: bear}\n  sunglasses: {concept: both.safetensors, class: sunglasses}\n"
    text = HEAD + cast + "shots:\n  - {prompt: 'a {bear} on the beach', takes: 2}\n"
    (shot,) = film_of(tmp_path, text)[0].shots
    for take in shot.takes:
        frames = take.clip().frames[evenly_picked(6, 4)]
        assert take.scores["likeness"] == pytest.approx(clip.likeness(frames, photos["V1*"]), abs=1e-3), "not like the sunglasses"
        frozen = max(0, 1 - take.scores["motion"])
        expected = take.scores["text"] + take.scores["likeness"] - 0.01 * take.scores["flicker"] - 0.02 * frozen
        assert take.scores["score"] == pytest.approx(expected, abs=2e-4)
    assert shot.kept.scores["score"] == max(take.scores["score"] for take in shot.takes)
    looks["V1*"] = Looks(looks["V1*"].features, "another")
    Concept(header=header, tuned={}, embeddings=rows, looks=looks).save(tmp_path / "both.safetensors")
    (shot,) = film_of(tmp_path, text)[0].shots
    assert all("likeness" not in take.scores for take in shot.takes), "what another CLIP has seen says nothing"


def test_a_draft_is_small_where_there_is_something_to_halve_and_of_few_steps(tmp_path):
    assert drafted_size((512, 384)) == (256, 192) and drafted_size((264, 520)) == (128, 256)
    assert drafted_size((128, 128)) == (128, 128) and drafted_size((512, 192)) == (512, 192)
    large = HEAD.replace("64x64", "256x256").replace("steps: 1", "steps: 20").replace("frames: 6", "frames: 2")
    film, counter = film_of(tmp_path, large + "shots:\n  - prompt: a bear\n", speed="draft")
    assert frames_of(film)[0].shape == (2, 128, 128, 3) and counter.steps == 12


def test_takes_of_a_speed_are_rendered_anew_when_it_gives_up_something_else(tmp_path, monkeypatch):
    text = HEAD + "shots:\n  - prompt: a bear\n"
    names = {}
    for speed in ("exact", "fast"):
        for most_apart in (1, 3):
            changed = {name: replace(one, most_apart=most_apart) for name, one in reuse.SPEEDS.items()}
            monkeypatch.setattr(reuse, "SPEEDS", changed)
            (shot,) = film_of(tmp_path, text, speed=speed)[0].shots
            names[speed, most_apart] = shot.kept.folder.name
    assert names["fast", 1] != names["fast", 3] and names["exact", 1] == names["exact", 3]


def test_what_stands_still_loses_to_what_moves(tmp_path, monkeypatch):
    monkeypatch.setattr(Shelf, "clip_model", None)
    amounts = iter([{"motion": 0.25, "flicker": 1.0}, {"motion": 6.0, "flicker": 2.0}])
    monkeypatch.setattr(render_module.Movement, "described", lambda self: next(amounts))
    (shot,) = film_of(tmp_path, HEAD + "shots:\n  - {prompt: a bear, takes: 2}\n")[0].shots
    assert [take.scores["score"] for take in shot.takes] == [-0.025, -0.02] and shot.kept.number == 2


def test_two_concepts_meet_in_a_shot_and_each_plays_alone(tmp_path, pocket):
    for word, seed in (("bear", 1), ("cat", 2)):
        concept_of(pocket, "V*", word, seed).save(tmp_path / f"{word}.safetensors")
    text = (
        HEAD
        + "cast: {bear: bear.safetensors, cat: cat.safetensors}\nshots:\n  - prompt: 'a {bear} next to a {cat}'\n  - prompt: 'a {cat}'\n"
    )
    film, _ = film_of(tmp_path, text)
    both, alone = [shot.kept.clip().record for shot in film.shots]
    assert [entry["tokens"] for entry in both["concepts"]] == [["V1*"], ["V2*"]] and both["joining"] == "local"
    assert both["prompt"] == "a V1* bear next to a V2* cat" and alone["prompt"] == "a V* cat"
    assert [entry["class_words"] for entry in alone["concepts"]] == [["cat"]]


def test_loras_of_the_look_are_those_of_a_clip(tmp_path, pocket, monkeypatch):
    state = {name: 0.3 * value for name, value in kohya(pocket).items() if name.startswith("lora_unet")}
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "ink.safetensors")
    # A single step begins where nearly all is clean, and shows nothing of a LoRA.
    plain = TWO.replace("steps: 1", "steps: 3")
    text = plain + "look: {lora: ink.safetensors:0.7}\n"
    film, _ = film_of(tmp_path, text, only=[1])
    arguments = ["--prompt", "a bear on the beach", "--frames", "6", "--steps", "3", "--size", "64x64", "--device", "cpu"]
    lora = f"{tmp_path / 'ink.safetensors'}:0.7"
    assert call("animate", *arguments, "--lora", lora, "--out", str(tmp_path / "clip")).exit_code == 0
    # A film's shots are rendered by one thread, which rounds otherwise than several.
    gap = frames_of(film)[0].astype(int) - video.read(tmp_path / "clip").frames
    assert np.abs(gap).max() <= 2
    without = frames_of(film_of(tmp_path, plain, only=[1])[0])[0]
    assert np.abs(frames_of(film)[0].astype(int) - without).max() > 10

    with monkeypatch.context() as patch:
        patch.setattr("cdvideo.base.load", lambda *_, **__: pytest.fail("a base was loaded"))
        assert film_of(tmp_path, text, only=[1])[0].num_rendered == 0
    assert film_of(tmp_path, text.replace("0.7", "0.8"), only=[1])[0].num_rendered == 1
    save_file({name: 2 * value for name, value in state.items()}, tmp_path / "ink.safetensors")
    assert film_of(tmp_path, text, only=[1])[0].num_rendered == 1, "another LoRA under the same name"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc")
def test_ctrl_c_in_a_terminal_stops_everything_quietly(tmp_path):
    """A terminal sends it to the film's process and its workers alike, here while the workers still import."""
    (tmp_path / "film.yaml").write_text(TWO.replace("steps: 1", "steps: 900"))
    command = [sys.executable, "-m", "cdvideo", "storyboard", "render", "film.yaml", "--device", "cpu", "--workers", "2"]
    with (tmp_path / "log").open("wb") as log:
        # Whoever runs the tests in the background is deaf to Ctrl-C, and what it starts would be, too.
        hears = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True, preexec_fn=hears)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def imports(child: Path) -> bool:
        with suppress(OSError):  # It may have ended.
            return b"spawn_main" in (child / "cmdline").read_bytes() and "libtorch" in (child / "maps").read_text()
        return False

    hired: list[Path] = []
    while len(hired) < 2 and process.poll() is None:
        time.sleep(0.05)
        with suppress(OSError):
            hired = [child for pid in children.read_text().split() if imports(child := Path("/proc", pid))]
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130 and len(hired) == 2
    said = (tmp_path / "log").read_text()
    assert "the finished shots are kept" in said and "Traceback" not in said
    assert not any(one.exists() for one in hired)


def test_nothing_is_rendered_of_what_cannot_be_finished(tmp_path, monkeypatch):
    monkeypatch.setattr("cdvideo.base.load", lambda *_, **__: pytest.fail("the base was loaded"))
    for wrong in ("audio: none.wav\n", "title_card: \N{SNOWMAN} \U000fffff\n"):
        with pytest.raises(UserError):
            film_of(tmp_path, TWO + wrong)
    assert not (tmp_path / "film").exists()


def test_the_command_line_says_what_waits_and_refuses_shots_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("film.yaml").write_text(TWO)
    refused = CliRunner().invoke(main, ["storyboard", "render", "film.yaml", "--only", "1,3"])
    assert refused.exit_code == 2 and "there is no shot 3" in refused.output and "1 to 2" in refused.output
    result = CliRunner().invoke(main, ["storyboard", "render", "film.yaml", "--only", "2", "--draft", "--device", "cpu", "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert "waits for shot 1" in result.output and list(Path("films/small/draft/shots").glob("02-*"))


def is_rendering(log: Path) -> bool:
    return log.exists() and "shot " in log.read_text()


def test_killed_at_any_moment_a_film_goes_on_and_ends_the_same(tmp_path):
    text = TWO.replace("steps: 1", "steps: 3") + "  - {prompt: a cat at night, seed: 1, takes: 2}\n"
    whole, _ = film_of(tmp_path, text, dtype="fp32")
    arguments = [
        "storyboard",
        "render",
        str(tmp_path / "film.yaml"),
        "--out",
        str(tmp_path / "parts"),
        "--format",
        "mp4",
        "--device",
        "cpu",
    ]
    draw = random.Random(4)
    for attempt in range(4):
        log = tmp_path / f"log{attempt}"
        process = children.command_line([*arguments, "--dtype", "fp32"], log, {"OMP_NUM_THREADS": "1"})
        # The first with a take behind it, the others at the next ones.
        while process.is_alive() and not (is_rendering(log) if attempt else list((tmp_path / "parts").rglob("frame_*.png"))):
            process.join(0.02)
        process.join(draw.uniform(0, 1))
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), log.read_text()
    process = children.command_line([*arguments, "--dtype", "fp32"], tmp_path / "log", {"OMP_NUM_THREADS": "1"})
    process.join(120)
    assert process.exitcode == 0, (tmp_path / "log").read_text()
    for shot in whole.shots:
        for take in shot.takes:
            other = Take(number=take.number, seed=take.seed, folder=tmp_path / "parts/shots" / take.folder.name, fps=8, scores={})
            assert np.array_equal(take.clip().frames, other.clip().frames)
    again = tmp_path / "parts" / whole.files["mp4"].name
    assert np.array_equal(video.read(whole.files["mp4"]).frames, video.read(again).frames)
    assert not list((tmp_path / "parts").rglob("*.partial"))


THREE = TWO.replace("steps: 1", "steps: 2") + "  - {prompt: the bear again, continue: true}\n  - {prompt: a cat at night, seed: 1}\n"


def test_several_workers_render_the_same_and_one_that_is_killed_is_replaced(tmp_path):
    alone, _ = film_of(tmp_path, THREE)
    killed = []

    class Killer(Counter):
        def _step(self, step, steps):
            super()._step(step, steps)
            if not killed:
                worker = multiprocessing.active_children()[0]
                worker.kill()
                killed.append(worker.pid)

    killer = Killer()
    file = tmp_path / "film.yaml"
    film = render(plan_of(file), file, tmp_path / "shared", formats=("mp4",), device="cpu", workers=2, on_take=killer)
    assert killed and killer.steps >= 1
    assert all(np.array_equal(one, other) for one, other in zip(frames_of(alone), frames_of(film), strict=True))
    assert {(number, take) for number, take, _ in killer.takes} == {(1, 1), (2, 1), (3, 1), (4, 1)}
    again = render(plan_of(file), file, tmp_path / "shared", formats=("mp4",), device="cpu", workers=2)
    assert again.num_rendered == 0


class Graveyard:
    """An executor all of whose workers die at once."""

    shares_process = False

    def __init__(self):
        self.hired = []

    def hire(self, rendering, slot):
        self.hired.append(slot)
        return object()

    def hear(self, hands):
        return [(hand, workers.Lost()) for hand in hands]

    def close(self):
        self.hired.append("closed")


def test_workers_are_hired_where_they_gain_more_than_their_start_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(4))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def usual(text: str, **settings) -> int:
        (tmp_path / "film.yaml").write_text(text)
        plan = plan_of(tmp_path / "film.yaml")
        rendering = workers.Rendering(plan=plan, folder=tmp_path, **{"wanted": range(1, 9), **settings})
        return workers.num_workers(rendering, workers.chains(plan.shots), LocalExecutor())

    of_usual_shots = TWO.replace("frames: 6, steps: 1, size: 64x64, ", "")
    assert usual(TWO) == 1, "three pictures of a step"
    assert usual(of_usual_shots) == 2, "32 pictures of 25 steps, of which each worker has half"
    assert usual(of_usual_shots, wanted=[1]) == 1
    uneven = of_usual_shots.replace("beach\n", "beach\n    frames: 8\n") + "  - {prompt: the bear again, continue: true}\n"
    assert usual(uneven) == 1, "one has nearly all of it"
    assert usual(of_usual_shots, speed="draft") == 1, "its UNet computes at few steps"
    assert usual(of_usual_shots.replace("fps: 8", "fps: 8, frames: 4")) == 1, "8 pictures of 25 steps"


def test_workers_that_are_killed_again_and_again_end_the_film(tmp_path):
    executor = Graveyard()
    with pytest.raises(UserError, match="killed 3 times"):
        film_of(tmp_path, TWO, workers=1, executor=executor)
    assert executor.hired == [0, 0, 0, "closed"], "each is replaced in its place"


def test_what_a_worker_cannot_do_is_said_here(tmp_path):
    with pytest.raises(UserError, match="there is no base at /no/such/base"):
        film_of(tmp_path, TWO + "base: /no/such/base\n", workers=2)


def test_shots_that_continue_go_to_one_worker(tmp_path):
    (tmp_path / "film.yaml").write_text(THREE)
    found = workers.chains(plan_of(tmp_path / "film.yaml").shots)
    assert [[shot.number for shot in chain] for chain in found] == [[1], [2, 3], [4]]
