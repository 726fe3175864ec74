"""What a clip will take: bytes against those of the clip itself, seconds against a clock of our own."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from cdvideo.animate import Studio, preflight
from cdvideo.animate.preflight import Pace, PeakBytes, is_large, memory_of, pace_of
from cdvideo.cli import main
from cdvideo.video.gather import MOST_IN_MEMORY


def test_bytes_of_tensors_that_are_there_at_once_are_counted():
    given = torch.zeros(1000)
    seen = []
    with PeakBytes() as counted:
        first = given + 1
        view = first[:10]
        seen.append(counted.live)
        both = torch.cat([first, first])
        seen.append(counted.live)
        del first
        seen.append(counted.live)
        del view
        seen.append(counted.live)
        both.add_(1)
        half = both.half()
        seen.append(counted.live)
        del both, half
    assert seen == [4000, 12000, 12000, 8000, 12000], "views and changes in place have no bytes, but a view keeps what it shows"
    assert (counted.live, counted.peak) == (0, 12000)


def test_memory_is_that_of_the_clip_itself(pocket, pocket_motion):
    with Studio(pocket, [], pocket_motion) as studio:
        foreseen = memory_of(studio, num_frames=5, size=(192, 128))
        with PeakBytes() as counted:
            studio.clip("a bear", num_frames=5, size=(192, 128), num_inference_steps=1)
    assert foreseen.working == pytest.approx(counted.peak, rel=0.05)
    models = (pocket.unet, pocket.text_encoder, pocket.vae)
    parameters = sum(4 * value.numel() for model in models for value in model.parameters())
    motion = sum(4 * value.numel() for value in pocket_motion.state.values())
    assert foreseen.weights == pytest.approx(parameters + motion, rel=0.001), "all but small tables"
    with Studio(pocket, [], pocket_motion) as studio:
        longer = memory_of(studio, num_frames=50_000, size=(192, 128))
        window = memory_of(studio, num_frames=16, size=(192, 128))
    assert 0 < longer.working - window.working <= MOST_IN_MEMORY, "the frames of a long clip lie on disk"
    assert not is_large(studio, num_frames=16) and is_large(studio, num_frames=100, size=(256, 256))


class Clockwork:
    """A studio whose clips take the time that is set, on a clock of its own: the first step of a clip 5 seconds more."""

    window = 16
    base = SimpleNamespace(device=torch.device("cpu"))
    preset = SimpleNamespace(guidance_scale=7.5, sampler="ddim")

    def __init__(self, step: float, decode: float) -> None:
        self.now, self.step, self.decode = 0.0, step, decode
        self.clips: list[int] = []

    def clip(self, prompt, *, num_frames, num_inference_steps, on_step, guidance_scale=7.5):
        self.clips.append(num_frames)
        self.now += 5
        for step in range(num_inference_steps):
            self.now += self.step * num_frames
            on_step(step + 1, num_inference_steps)
        self.now += self.decode * num_frames


@pytest.mark.parametrize(("step", "measured"), [(1.0, 8), (10.0, 1)])
def test_the_pace_is_a_warm_steps(monkeypatch, step, measured):
    clockwork = Clockwork(step, decode=0.5)
    monkeypatch.setattr(preflight, "_now", lambda studio: studio.now)
    pace = pace_of(clockwork, num_frames=8, settings={"prompts": {0: "a"}})
    assert pace == Pace(whole_seconds=16 * step, frame_seconds=0.5, window=16, measured_frames=measured)
    assert clockwork.clips == ([1, 8] if measured == 8 else [1]), "what would take long is measured on one frame"
    draft = pace_of(clockwork, num_frames=8, settings={"prompts": {0: "a"}, "speed": "draft"})
    assert draft.whole_seconds == pytest.approx(16 * step)
    assert draft.seconds(num_frames=16, num_steps=10) == pytest.approx(16 * step * 6 + 8), "the UNet computes at 0, 1, 2, 4, 6 and 8"
    ancestral = pace_of(clockwork, num_frames=8, settings={"prompts": {0: "a"}, "speed": "draft", "sampler": "euler-a"})
    assert ancestral.seconds(num_frames=16, num_steps=10) == pytest.approx(16 * step * 10 + 8), "it leaves nothing to draw on"
    early = replace(draft, speed=replace(draft.speed, guided_share=0.5))
    assert early.seconds(num_frames=16, num_steps=10) == pytest.approx(16 * step * 5 + 8), "6 and 8 have no guidance"
    alone = pace_of(clockwork, num_frames=8, settings={"prompts": {0: "a"}, "speed": "draft", "guidance_scale": 1.0})
    assert replace(alone, speed=early.speed).seconds(num_frames=16, num_steps=10) == pytest.approx(16 * step * 6 + 8), "nothing to halve"


def test_seconds_of_a_clip_by_hand():
    pace = Pace(whole_seconds=2, frame_seconds=0.25, window=16, measured_frames=16)
    assert pace.seconds(num_frames=16, num_steps=10) == 20 + 4
    assert pace.seconds(num_frames=8, num_steps=10) == 10 + 2
    assert pace.seconds(num_frames=16, num_steps=10, loop=True) == 2 * 20 + 4, "a loop's second window is around its join"
    assert pace.seconds(num_frames=28, num_steps=10) == 2 * 20 + 7, "two windows, which share four frames"


def test_animate_says_what_a_large_clip_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "LARGE_PIXELS", 1)
    arguments = ["animate", "--prompt", "a bear", "--steps", "1", "--frames", "1", "--size", "64x64", "--device", "cpu"]
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "a.gif")])
    assert result.exit_code == 0 and "memory: about" in result.output and "MB of weights" in result.output
    monkeypatch.setattr(preflight, "LARGE_PIXELS", 10**9)
    assert "memory:" not in CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "b.gif")]).output
