"""Whose film a folder holds, told without rendering."""

import pytest

from cdvideo.errors import UserError
from cdvideo.storyboard.ownership import SHOTS, check_files, check_owner, films_of, own


@pytest.fixture
def boards(tmp_path):
    for name in ("one.yaml", "two.yaml"):
        (tmp_path / name).write_text("title: T\n")
    return tmp_path / "one.yaml", tmp_path / "two.yaml"


def test_a_film_belongs_to_its_storyboard_until_that_moves(tmp_path, boards):
    one, two = boards
    out = tmp_path / "film"
    check_owner(out, two)
    own(out, one, [])
    check_owner(out, one)
    with pytest.raises(UserError, match=r"another storyboard, .*one\.yaml") as refused:
        check_owner(out, two)
    assert "--overwrite" in refused.value.remedy
    one.rename(tmp_path / "first.yaml")
    check_owner(out, tmp_path / "first.yaml")


def test_only_files_of_films_are_replaced(tmp_path, boards):
    old, new = tmp_path / "old.mp4", tmp_path / "new.mp4"
    for file in (old, new):
        file.write_text("a film, or not")
        check_files(tmp_path, [tmp_path / "other.mp4"])
        with pytest.raises(UserError, match=rf"{file.name} exists already") as refused:
            check_files(tmp_path, [file])
        assert "--overwrite" in refused.value.remedy
    own(tmp_path, boards[0], [old])
    check_files(tmp_path, [old])
    with pytest.raises(UserError, match=r"new\.mp4 exists already"):
        check_files(tmp_path, [old, new])
    own(tmp_path, boards[0], [new])
    check_files(tmp_path, [old, new])


def test_a_folder_of_before_films_said_what_is_theirs_is_a_films(tmp_path):
    page = tmp_path / "index.html"
    page.write_text("a page")
    (tmp_path / SHOTS / "01-a-bear").mkdir(parents=True)
    with pytest.raises(UserError):
        check_files(tmp_path, [page])
    (tmp_path / SHOTS / "01-a-bear" / "record.json").write_text("{}")
    check_files(tmp_path, [page])


def test_earlier_films_of_a_storyboard_are_found(tmp_path, boards):
    films = tmp_path / "films"
    own(films / "b", boards[0], [])
    own(films / "a", boards[0], [])
    own(films / "c", boards[1], [])
    (films / "d" / SHOTS).mkdir(parents=True)
    (films / "d" / SHOTS / "film.json").write_text("[")
    (films / "e").write_text("a file")
    assert list(films_of(boards[0], sorted(films.iterdir()))) == [films / "a", films / "b"]
