"""What rendering would do is said beforehand, and nothing is done."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from cdvideo.animate.preflight import Memory, Pace
from cdvideo.cli import main
from cdvideo.storyboard import forecast as module
from cdvideo.storyboard.film import rendering_of
from cdvideo.storyboard.forecast import forecast
from cdvideo.storyboard.local import LocalExecutor
from tests.storyboard.test_film import HEAD, film_of, plan_of

FILM = HEAD.replace("steps: 1", "steps: 2") + (
    "shots:\n  - prompt: a bear on the beach\n  - {prompt: a bear in the snow, seed: 3, takes: 2}\n"
    "  - {prompt: the bear again, continue: true, steps: 4}\n  - {prompt: a cat at night, frames: 3}\n"
)
PACE = Pace(whole_seconds=16, frame_seconds=1, window=16, measured_frames=16)


@pytest.fixture
def clocked(monkeypatch):
    monkeypatch.setattr(module, "pace_of", lambda *_, **__: PACE)
    monkeypatch.setattr(module, "memory_of", lambda *_, **__: Memory(weights=1, working=2))


def files_in(folder: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def foreseen(folder: Path, workers: int = 1, **settings):
    return forecast(rendering_of(plan_of(folder / "film.yaml"), folder / "film", device="cpu", **settings), LocalExecutor(), workers)


def test_what_lies_there_is_told_from_what_would_be_rendered(tmp_path, clocked):
    (tmp_path / "film.yaml").write_text(FILM)
    found = foreseen(tmp_path)
    assert [list(shot.to_render) for shot in found.shots] == [[1], [1, 2], [1], [1]] and not (tmp_path / "film").exists()
    assert [found.seconds_of(shot) for shot in found.shots] == [2 * 6 + 6, 2 * (2 * 6 + 6), 4 * 6 + 6, 2 * 3 + 3]
    assert found.seconds == 18 + 36 + 30 + 9
    assert foreseen(tmp_path, workers=2).seconds == 36 + 30, "the shots that continue are one worker's"

    film_of(tmp_path, FILM, only=[1, 3])
    before = files_in(tmp_path)
    found = foreseen(tmp_path, workers=2)
    assert [list(shot.rendered) for shot in found.shots] == [[1], [1, 2], [1], []]
    assert [list(shot.to_render) for shot in found.shots] == [[], [], [], [1]] and found.workers == 1
    assert found.measured.shot == 4 and found.measured.device == "cpu"
    assert [list(shot.to_render) for shot in foreseen(tmp_path, only=[2]).shots] == [[], [], [], []]
    (tmp_path / "film.yaml").write_text(FILM.replace("seed: 3", "seed: 4"))
    found = foreseen(tmp_path)
    assert [list(shot.rendered) for shot in found.shots] == [[1], [1], [], []], "the second take of before is the first one of now"
    (tmp_path / "film.yaml").write_text(FILM)
    assert files_in(tmp_path).keys() == before.keys()


def test_nothing_is_written_or_loaded_of_a_film_that_lies_there(tmp_path, monkeypatch):
    film_of(tmp_path, FILM)
    before = files_in(tmp_path)
    monkeypatch.setattr("cdvideo.base.load", lambda *_, **__: pytest.fail("the base was loaded"))
    found = foreseen(tmp_path)
    assert found.measured is None and found.workers == 0 and found.seconds == 0 and files_in(tmp_path) == before
    for made in (*(tmp_path / "film/shots").glob("*.scores.json"), *(tmp_path / "film/shots").glob("*.mp4")):
        made.unlink()
    before = files_in(tmp_path)
    assert foreseen(tmp_path).measured is None and files_in(tmp_path) == before, "not even scores that were to be kept"


def test_the_command_line_says_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("film.yaml").write_text(FILM)
    result = CliRunner().invoke(
        main, ["storyboard", "render", "film.yaml", "--dry-run", "--only", "1,2", "--device", "cpu", "--workers", "2"]
    )
    assert result.exit_code == 0, result.output
    assert "takes: 5, of which 0 lie in films/small/shots and 3 would be rendered" in result.output
    assert "2 takes  about" in result.output and "not asked for" in result.output and "64x64" in result.output
    assert "with 2 workers" in result.output and "measured just now on cpu" in result.output and "memory: about" in result.output
    assert [path.name for path in Path().iterdir()] == ["film.yaml"]
