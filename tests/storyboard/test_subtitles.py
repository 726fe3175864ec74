from __future__ import annotations

import re
import subprocess
from pathlib import Path

import av
import imageio_ffmpeg
import pytest

from cdvideo.errors import UserError
from cdvideo.storyboard.subtitles import caption_cues
from cdvideo.storyboard.timing import CUT, Placement, Transition, timeline
from cdvideo.video import Cue, describe, to_srt, to_webvtt, write_frames
from tests.video.scenes import moving_scene

CUES = [Cue(start=0, end=9, text="Once <upon> a time"), Cue(start=12, end=24, text="Grüße, 熊 & 🐻\nin two lines")]


def test_a_caption_lasts_while_its_shot_rules() -> None:
    places = timeline([10, 16, 8, 8], [CUT, Transition(kind="crossfade", num_frames=4), CUT, Transition(kind="dip", num_frames=4)])
    cues = caption_cues(places, ["one", "two", None, "four"])
    assert cues == [Cue(start=0, end=8, text="one"), Cue(start=8, end=22, text="two"), Cue(start=30, end=38, text="four")]


def test_the_same_caption_does_not_blink_at_a_cut() -> None:
    places = timeline([4, 4, 4, 4], [CUT] * 4)
    assert caption_cues(places, ["a", "a", "b", "a"]) == [
        Cue(start=0, end=8, text="a"),
        Cue(start=8, end=12, text="b"),
        Cue(start=12, end=16, text="a"),
    ]


def test_a_shot_that_is_all_transition_rules_nothing_and_says_nothing() -> None:
    place = Placement(start=3, num_frames=1, rules_from=3, rules_until=3)
    assert caption_cues([place], ["unseen"]) == []


def test_srt_written_by_hand() -> None:
    assert to_srt([CUES[0], Cue(start=28810, end=28819, text="late")], 8) == (
        "1\n00:00:00,000 --> 00:00:01,125\nOnce <upon> a time\n\n2\n01:00:01,250 --> 01:00:02,375\nlate\n\n"
    )


def test_times_are_rounded_once() -> None:
    fps = 24000 / 1001
    assert "00:59:59,971 --> 01:00:00,013" in to_srt([Cue(start=86313, end=86314, text="x")], fps)


def test_webvtt_escapes_what_it_would_read_as_markup() -> None:
    assert to_webvtt(CUES[:1], 8) == "WEBVTT\n\n00:00:00.000 --> 00:00:01.125\nOnce &lt;upon&gt; a time\n"
    assert "-->" not in to_webvtt([Cue(start=0, end=1, text="a --> b")], 8).splitlines()[3]


def test_blank_lines_would_end_a_cue_and_are_dropped() -> None:
    assert Cue(start=0, end=1, text=" a \r\n\r\n  b\n\n").text == "a\nb"
    with pytest.raises(UserError, match="blank"):
        Cue(start=0, end=1, text=" \n ")
    with pytest.raises(UserError, match="lasts no frame"):
        Cue(start=2, end=2, text="x")


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_another_reader_finds_the_track(tmp_path: Path, suffix: str) -> None:
    frames = moving_scene(24)
    path = write_frames(lambda: frames, tmp_path / f"film.{suffix}", num_frames=24, fps=8, record={}, cues=CUES)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(path), "-map", "0:s", "-f", "srt", "-"]
    text = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    found = re.sub(r"</?font[^>]*>|\r", "", text)
    assert found == to_srt(CUES, 8)
    assert describe(path)["num_frames"] == 24


def test_the_track_in_an_mp4_is_shown_without_asking(tmp_path: Path) -> None:
    frames = moving_scene(4)
    cue = Cue(start=1, end=3, text="two frames")
    path = write_frames(lambda: frames, tmp_path / "film.mp4", num_frames=4, fps=8, record={}, cues=[cue])
    with av.open(str(path)) as container:
        (track,) = container.streams.subtitles
        assert track.codec_context.name == "mov_text"
        packets = [packet for packet in container.demux(track) if packet.size > 2]
    assert [(packet.pts * packet.time_base, packet.duration * packet.time_base) for packet in packets] == [(0.125, 0.25)]
    assert bytes(packets[0])[2:] == b"two frames"
