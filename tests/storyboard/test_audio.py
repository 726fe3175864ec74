"""Where a click track's clicks are heard in the finished file is found by correlating with the click, in sound that ffmpeg decoded."""

from __future__ import annotations

import subprocess
import wave
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray

from cdvideo.errors import UserError
from cdvideo.video import Sound, check_sound, describe, read, write_frames
from tests.video.scenes import moving_scene

FPS, NUM_FRAMES = 8, 24
DURATION = NUM_FRAMES / FPS
CLICKS = (0.4, 1.0, 1.75, 2.6, 4.2, 5.1)
RATE = 48000
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


def click(rate: int) -> NDArray[np.float64]:
    """A rising chirp of 20 ms, which correlates with itself at one place only."""
    time = np.arange(round(0.02 * rate)) / rate
    return 0.5 * np.hanning(len(time)) * np.sin(2 * np.pi * (600 * time + 60000 * time**2))


def write_wav(path: Path, samples: NDArray[np.float64], rate: int = 44100) -> Path:
    """`samples` of shape (N,) or (N, channels), in [-1, 1]."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture
def clicks(tmp_path: Path) -> Path:
    rate = 44100
    samples = np.zeros(6 * rate)
    for time in CLICKS:
        samples[round(time * rate) :][: len(click(rate))] += click(rate)
    return write_wav(tmp_path / "clicks.wav", samples, rate)


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    """Ten seconds of 440 Hz at half of full scale, other on the right than on the left."""
    time = np.arange(10 * RATE) / RATE
    left = 0.5 * np.sin(2 * np.pi * 440 * time)
    return write_wav(tmp_path / "tone.wav", np.stack([left, 0.5 * left], axis=1), RATE)


def film(path: Path, sound: Sound | None, num_frames: int = NUM_FRAMES) -> Path:
    frames = moving_scene(num_frames, 32, 32)
    return write_frames(lambda: frames, path, num_frames=num_frames, fps=FPS, record={"kind": "film"}, sound=sound)


def heard(path: Path) -> NDArray[np.float32]:
    """The sound as ffmpeg decodes it, shape (N, 2) at 48 kHz."""
    command = [FFMPEG, "-loglevel", "error", "-i", str(path), "-map", "0:a", "-f", "f32le", "-ac", "2", "-ar", str(RATE), "-"]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.float32).reshape(-1, 2)


def times_of_clicks(samples: NDArray[np.float32]) -> list[float]:
    likeness = np.correlate(samples.mean(axis=1), click(RATE), mode="valid")
    found = []
    while likeness.max() > 0.5 * (click(RATE) ** 2).sum():
        peak = int(likeness.argmax())
        found.append(peak / RATE)
        likeness[max(0, peak - RATE // 20) : peak + RATE // 20] = 0
    return sorted(found)


def loudness(samples: NDArray[np.float32], start: float, end: float) -> float:
    """Root mean square of the left channel between two times in seconds."""
    return float(np.sqrt((samples[round(start * RATE) : round(end * RATE), 0].astype(float) ** 2).mean()))


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
@pytest.mark.parametrize("offset", [0.0, 0.9, 2.5, -0.7])
def test_every_click_is_heard_at_its_time(tmp_path: Path, clicks: Path, suffix: str, offset: float) -> None:
    samples = heard(film(tmp_path / f"film.{suffix}", Sound(path=clicks, offset=offset)))
    wanted = [time - offset for time in CLICKS if 0 <= time - offset < DURATION - 0.02]
    assert times_of_clicks(samples) == pytest.approx(wanted, abs=0.001)
    assert len(samples) / RATE == pytest.approx(DURATION, abs=0.025)


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "aac"), ("webm", "opus")])
def test_the_film_itself_is_as_without_sound(tmp_path: Path, clicks: Path, suffix: str, codec: str) -> None:
    with_sound = film(tmp_path / f"film.{suffix}", Sound(path=clicks))
    silent = film(tmp_path / f"silent.{suffix}", None)
    assert np.array_equal(read(with_sound).frames, read(silent).frames)
    assert describe(with_sound)["record"] == {"kind": "film"}
    about = subprocess.run([FFMPEG, "-i", str(with_sound)], capture_output=True).stderr.decode()
    assert f"Audio: {codec}" in about and "48000 Hz, stereo" in about


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_a_sound_that_is_too_short_ends_in_silence(tmp_path: Path, clicks: Path, suffix: str) -> None:
    samples = heard(film(tmp_path / f"film.{suffix}", Sound(path=clicks, offset=5.0)))
    assert len(samples) / RATE == pytest.approx(DURATION, abs=0.025)
    assert times_of_clicks(samples) == pytest.approx([0.1], abs=0.001)
    assert np.abs(samples[round(1.1 * RATE) :]).max() < 0.001


def test_both_channels_and_the_gain_in_decibels(tmp_path: Path, tone: Path) -> None:
    plain = heard(film(tmp_path / "plain.webm", Sound(path=tone)))
    softer = heard(film(tmp_path / "softer.webm", Sound(path=tone, gain=-6.0206)))
    assert loudness(plain, 0.5, 2.5) == pytest.approx(0.5 / 2**0.5, rel=0.03)
    assert loudness(softer, 0.5, 2.5) == pytest.approx(loudness(plain, 0.5, 2.5) / 2, rel=0.03)
    assert loudness(plain[:, ::-1], 0.5, 2.5) == pytest.approx(loudness(plain, 0.5, 2.5) / 2, rel=0.03)


def test_fades_are_straight_lines_at_both_ends(tmp_path: Path, tone: Path) -> None:
    samples = heard(film(tmp_path / "film.mp4", Sound(path=tone, offset=2, fade_in=1.0, fade_out=0.5)))
    full = 0.5 / 2**0.5
    for time, share in [(0.1, 0.1), (0.5, 0.5), (0.9, 0.9), (1.5, 1), (2.4, 1), (2.6, 0.8), (2.75, 0.5), (2.95, 0.1)]:
        assert loudness(samples, time - 0.02, time + 0.02) == pytest.approx(share * full, abs=0.03 * full), time


def test_a_fade_belongs_to_the_sound_where_that_is_shorter(tmp_path: Path, tone: Path) -> None:
    samples = heard(film(tmp_path / "film.webm", Sound(path=tone, offset=8.5, fade_out=1.0)))
    full = 0.5 / 2**0.5
    assert loudness(samples, 0.98, 1.02) == pytest.approx(0.5 * full, abs=0.03 * full)
    late = heard(film(tmp_path / "late.webm", Sound(path=tone, offset=-1, fade_in=1.0)))
    assert loudness(late, 0, 0.95) < 0.001
    assert loudness(late, 1.48, 1.52) == pytest.approx(0.5 * full, abs=0.03 * full)


def test_a_video_lends_its_sound(tmp_path: Path, clicks: Path) -> None:
    first = film(tmp_path / "first.mp4", Sound(path=clicks))
    again = film(tmp_path / "again.webm", Sound(path=first, offset=0.5))
    assert times_of_clicks(heard(again)) == pytest.approx([0.5, 1.25, 2.1], abs=0.001)


def test_what_is_heard_is_known_before_the_render(clicks: Path) -> None:
    assert check_sound(Sound(path=clicks), DURATION) == pytest.approx(DURATION)
    assert check_sound(Sound(path=clicks, offset=4.5), DURATION) == pytest.approx(1.5)
    assert check_sound(Sound(path=clicks, offset=-1.25), DURATION) == pytest.approx(DURATION - 1.25)


def cut_short(path: Path) -> Path:
    short = path.with_name("short.flac")
    subprocess.run([FFMPEG, "-loglevel", "error", "-i", str(path), str(short)], check=True)
    short.write_bytes(short.read_bytes()[:30])
    return short


def test_sounds_that_cannot_be_heard(tmp_path: Path, clicks: Path) -> None:
    text = tmp_path / "notes.mp3"
    text.write_text("no sound at all\n" * 200)
    silent = film(tmp_path / "silent.mp4", None)
    for path, words in [
        (tmp_path / "none.wav", "There is no"),
        (text, "cannot be read as a sound"),
        (cut_short(clicks), "cannot be read as a sound"),
        (tmp_path, "cannot be read as a sound"),
        (silent, "has no sound"),
    ]:
        with pytest.raises(UserError, match=words) as caught:
            check_sound(Sound(path=path), DURATION)
        assert str(path) in caught.value.message and caught.value.remedy


def test_an_offset_beyond_either_end(clicks: Path) -> None:
    with pytest.raises(UserError, match=r"Nothing of .*clicks\.wav is heard") as caught:
        check_sound(Sound(path=clicks, offset=6.0), DURATION)
    assert "it is 6.00 seconds long" in caught.value.cause and "below 6.00" in caught.value.remedy
    with pytest.raises(UserError, match="is heard") as caught:
        check_sound(Sound(path=clicks, offset=-3.0), DURATION)
    assert "begins 3 seconds after the film, which lasts 3" in caught.value.cause


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_a_sound_that_fails_leaves_the_earlier_film(tmp_path: Path, clicks: Path, suffix: str) -> None:
    path = film(tmp_path / f"film.{suffix}", Sound(path=clicks))
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    with pytest.raises(UserError, match="is heard"):
        film(path, Sound(path=clicks, offset=7.0), num_frames=8)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["film.gif", "frames"])
def test_a_format_without_sound_does_not_drop_it_silently(tmp_path: Path, clicks: Path, name: str) -> None:
    with pytest.raises(ValueError, match="holds neither"):
        film(tmp_path / name, Sound(path=clicks))
    assert not (tmp_path / name).exists()
