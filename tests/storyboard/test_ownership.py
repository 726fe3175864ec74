"""Whose film a folder holds, told without rendering."""

import pytest

from cdvideo.errors import UserError
from cdvideo.storyboard.makings import MEMORY
from cdvideo.storyboard.ownership import SHOTS, check_own, films_of, own


@pytest.fixture
def boards(tmp_path):
    for name in ("one.yaml", "two.yaml"):
        (tmp_path / name).write_text("title: T\n")
    return tmp_path / "one.yaml", tmp_path / "two.yaml"


def test_a_film_belongs_to_its_storyboard_until_that_moves(tmp_path, boards):
    one, two = boards
    out, files = tmp_path / "film", [tmp_path / "film" / "t.mp4"]
    check_own(out, files, two)
    own(out, one)
    files[0].write_text("a film")
    check_own(out, files, one)
    with pytest.raises(UserError, match=r"another storyboard, .*one\.yaml") as refused:
        check_own(out, files, two)
    assert "--overwrite" in refused.value.remedy
    one.rename(tmp_path / "first.yaml")
    check_own(out, files, tmp_path / "first.yaml")


def test_somebodys_own_files_are_no_film(tmp_path, boards):
    page = tmp_path / "index.html"
    page.write_text("mine")
    with pytest.raises(UserError, match=r"index\.html exists already") as refused:
        check_own(tmp_path, [tmp_path / "t.mp4", page], boards[0])
    assert "--overwrite" in refused.value.remedy
    # A film that was rendered before folders said whose they are.
    (tmp_path / SHOTS).mkdir()
    (tmp_path / SHOTS / MEMORY).write_text("{}")
    check_own(tmp_path, [page], boards[0])


def test_earlier_films_of_a_storyboard_are_found(tmp_path, boards):
    films = tmp_path / "films"
    assert list(films_of(boards[0], films)) == []
    own(films / "b", boards[0])
    own(films / "a", boards[0])
    own(films / "c", boards[1])
    (films / "d" / SHOTS).mkdir(parents=True)
    (films / "d" / SHOTS / "film.json").write_text("[")
    (films / "e").write_text("a file")
    assert list(films_of(boards[0], films)) == [films / "a", films / "b"]
