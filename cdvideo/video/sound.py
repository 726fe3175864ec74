"""A film's sound: a part of an audio file, as loud and as long as the film wants it, decoded piece by piece."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cdvideo.errors import UserError

if TYPE_CHECKING:
    from av import AudioFrame
    from av.container import InputContainer
    from av.filter import Graph

SAMPLE_RATE = 48_000
_READABLE = "give a sound that ffmpeg reads: .wav, .mp3, .m4a, .ogg, .flac, or a video with sound"


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A sound for a film: `offset` seconds of the file are skipped, or, where negative, pass in silence before it begins.

    `gain` in decibels. `fade_in` seconds from the first that is heard; `fade_out` seconds up to the film's end, or the sound's
    where that comes first.
    """

    path: Path
    offset: float = 0.0
    gain: float = 0.0
    fade_in: float = 0.0
    fade_out: float = 0.0


def check_sound_file(path: Path) -> None:
    """Nothing, where a file has a sound that can be decoded. Raises UserError."""
    with _opened(path):
        return


def check_sound(sound: Sound, duration: float) -> float:
    """How many seconds of the sound a film of `duration` seconds plays. Call it before an expensive render.

    That part of the file is really decoded. Raises UserError where there is no such file, no sound in it, where it is damaged, and
    where the offset leaves nothing of it to hear.
    """
    return _num_heard(sound, _num_samples(duration)) / SAMPLE_RATE


def sound_frames(sound: Sound, duration: float) -> Iterator[AudioFrame]:
    """Stereo frames of 48 kHz, in order, that together last `duration` seconds to the sample; silence where the sound is over.

    Raises UserError as `check_sound` does.
    """
    num_samples = _num_samples(duration)
    end = _num_samples(max(0.0, -sound.offset)) + _num_heard(sound, num_samples)
    fade_in, fade_out = _num_samples(sound.fade_in), _num_samples(sound.fade_out)
    lead = _num_samples(max(0.0, -sound.offset))
    filters = [("volume", f"{sound.gain}dB")]
    if fade_in:
        filters.append(("afade", f"t=in:ss=0:ns={fade_in}"))
    if fade_out:
        # Counted from the sound's own start; one that is longer than what is heard has begun before.
        filters.append(("afade", f"t=out:ss={max(0, end - lead - fade_out)}:ns={min(fade_out, end - lead)}"))
    filters += [("adelay", f"{lead}S:all=1"), ("apad", f"whole_len={num_samples}"), ("atrim", f"end_sample={num_samples}")]
    yield from _decoded(sound, filters)


def _num_samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


def _num_heard(sound: Sound, num_samples: int) -> int:
    lead = _num_samples(max(0.0, -sound.offset))
    heard = sum(frame.samples for frame in _decoded(sound, [("atrim", f"end_sample={max(1, num_samples - lead)}")]))
    if not heard:
        length = sum(frame.samples for frame in _decoded(Sound(path=sound.path), [])) / SAMPLE_RATE
        cause = f"it is {length:.2f} seconds long, and {sound.offset:g} are skipped"
        raise UserError(f"Nothing of {sound.path} is heard.", cause=cause, remedy=f"give an offset below {length:.2f} seconds")
    if lead >= num_samples:
        cause = f"it begins {-sound.offset:g} seconds after the film, which lasts {num_samples / SAMPLE_RATE:g}"
        raise UserError(f"Nothing of {sound.path} is heard.", cause=cause, remedy="let it begin earlier")
    return heard


def _decoded(sound: Sound, filters: list[tuple[str, str]]) -> Iterator[AudioFrame]:
    """Stereo frames of 48 kHz from the offset on, after further filters. The samples themselves are the clock, whatever the file says."""
    from av.filter import Graph

    with _opened(sound.path) as container:
        graph = Graph()
        source = graph.add_abuffer(template=container.streams.audio[0])
        wanted = [
            ("aresample", str(SAMPLE_RATE)),
            ("aformat", "sample_fmts=fltp:channel_layouts=stereo"),
            ("asetpts", "N/SR/TB"),
            ("atrim", f"start_sample={_num_samples(max(0.0, sound.offset))}"),
            ("asetpts", "N/SR/TB"),
            *filters,
        ]
        graph.link_nodes(source, *(graph.add(name, arguments) for name, arguments in wanted), graph.add("abuffersink"))
        graph.configure()
        for frame in container.decode(audio=0):
            source.push(frame)
            finished = yield from _waiting(graph)
            if finished:
                return
        source.push(None)
        yield from _waiting(graph)


def _waiting(graph: Graph) -> Generator[AudioFrame, None, bool]:
    """What the graph has ready; returns whether it wants no more."""
    from av import AudioFrame
    from av.error import BlockingIOError, EOFError

    while True:
        try:
            frame = graph.pull()
        except BlockingIOError:
            return False
        except EOFError:
            return True
        assert isinstance(frame, AudioFrame)
        yield frame


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    import av

    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.audio:
                raise UserError(f"{path} has no sound.", cause="no audio track is in it", remedy=_READABLE)
            if container.streams.audio[0].codec_context is None:
                raise UserError(f"{path} cannot be heard.", cause="its sound is in a format that this PyAV cannot decode", remedy=_READABLE)
            yield container
    except FileNotFoundError:
        raise UserError(f"There is no {path}.", remedy="check the path of the sound") from None
    except PermissionError as error:
        raise UserError(f"{path} cannot be read.", cause="permission denied", remedy="change its rights") from error
    except av.FFmpegError as error:
        raise UserError(f"{path} cannot be read as a sound.", cause=error.strerror or str(error), remedy=_READABLE) from error
