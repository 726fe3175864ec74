from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from cdvideo.errors import UserError, UserNote
from cdvideo.storyboard import cards
from cdvideo.storyboard.cards import INK, PAPER, Typeface, caption_overlay, captioned, still, title_card, typeface_for
from cdvideo.video import Cue
from tests.video.scenes import moving_scene

SIZES = [(128, 128), (512, 512), (512, 288), (192, 320), (64, 64)]


def drawn(picture: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """Where a picture differs from its background, shape (H, W)."""
    return (picture != np.array(background, np.uint8)).any(axis=-1)


def box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("subtitle", ["", "in shots"])
def test_a_card_stands_in_the_middle_and_inside_its_margin(width: int, height: int, subtitle: str) -> None:
    card = title_card("A bear's journey", width=width, height=height, subtitle=subtitle)
    assert card.shape == (height, width, 3) and card.dtype == np.uint8
    left, top, right, bottom = box(drawn(card, PAPER))
    assert left >= 0.1 * width - 1 and right <= 0.9 * width + 1
    assert top >= 0.1 * height - 1 and bottom <= 0.9 * height + 1
    assert abs(left + right - width) <= 3
    assert abs(top + bottom - height) <= 0.12 * height
    assert (card == np.array(INK, np.uint8)).all(axis=-1).sum() > 10


def test_a_long_title_gets_smaller_and_not_cut() -> None:
    long = title_card("The long and winding road of a bear who read every book that there was in the town", width=128, height=128)
    left, top, right, bottom = box(drawn(long, PAPER))
    assert left >= 12 and right <= 116 and top >= 12 and bottom <= 116


def test_a_card_in_other_colours() -> None:
    card = title_card("End", width=96, height=64, ink=(255, 0, 0), paper=(0, 0, 80))
    assert tuple(card[0, 0]) == (0, 0, 80)
    assert card[..., 0].max() > 230 and card[..., 1].max() == 0


def test_a_still_shot_takes_the_memory_of_a_frame() -> None:
    frame = title_card("End", width=64, height=64)
    shot = still(frame, 500)
    assert shot.shape == (500, 64, 64, 3) and shot.strides[0] == 0
    assert np.array_equal(shot[499], frame)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_caption_is_white_outlined_and_at_the_bottom(width: int, height: int) -> None:
    overlay = caption_overlay("A bear finds a book", width=width, height=height)
    left, top, right, bottom = box(overlay.alpha[..., 0] > 0)
    assert left >= 0.05 * width - 1 and right <= 0.95 * width + 1
    assert top >= 0.5 * height and 0.9 * height <= bottom <= 0.95 * height + 1
    on_white = overlay.on(np.full((height, width, 3), 255, np.uint8))
    on_black = overlay.on(np.zeros((height, width, 3), np.uint8))
    assert on_white.min() < 40 and on_black.max() > 215, "it can be read on anything"
    above = slice(0, top)
    assert (on_white[above] == 255).all() and (on_black[above] == 0).all()


def test_captions_are_seen_in_their_frames_only() -> None:
    frames = moving_scene(10, 96, 64)
    cues = [Cue(start=6, end=8, text="later"), Cue(start=1, end=3, text="early")]
    found = np.stack(list(captioned(frames, cues)))
    changed = (found != frames).any(axis=(1, 2, 3))
    assert list(np.flatnonzero(changed)) == [1, 2, 6, 7]
    assert np.array_equal(found[2], caption_overlay("early", width=96, height=64).on(frames[2]))


def test_words_are_wrapped_into_lines_of_nearly_one_length() -> None:
    lines = cards._wrapped("one two three four five six", len, 20, False)
    assert lines == ["one two three", "four five six"]
    assert cards._wrapped("one\ntwo three", len, 20, False) == ["one", "two three"]
    assert cards._wrapped("abcdefghij", len, 4, False) == []
    assert cards._wrapped("abcdefghij", len, 4, True) == ["abcd", "efgh", "ij"]


@pytest.mark.parametrize("kind", ["caption", "title", "subtitle"])
def test_what_nobody_could_read_is_cut_off_and_said(kind: str) -> None:
    words, size = "word " * 300, {"width": 128, "height": 128}
    with pytest.warns(UserNote, match="cut off, since it is too long to be read") as caught:
        picture = {
            "caption": lambda: caption_overlay(words, **size).on(still(np.zeros((128, 128, 3), np.uint8), 1)[0]),
            "title": lambda: title_card(words, **size),
            "subtitle": lambda: title_card("Title", subtitle=words, **size),
        }[kind]()
    assert "shorten it" in str(caught[0].message)
    left, top, right, bottom = box(drawn(picture, (0, 0, 0) if kind == "caption" else PAPER))
    assert min(left, top) > 0 and max(right, bottom) < 128


def test_as_much_is_kept_of_a_long_text_as_there_is_room_for() -> None:
    typeface, words = Typeface(), " ".join(str(number) for number in range(300))
    with pytest.warns(UserNote):
        block = cards._laid_out(words, typeface, (100, 100), size=20, what="A title")
    kept = " ".join(block.lines)
    assert kept.endswith("...") and words.startswith(kept[:-3])
    assert block.height <= 100 < block.height + 2 * cards._MIN_SIZE, "no line more would fit"


def test_a_picture_without_room_for_a_letter_is_refused() -> None:
    with pytest.raises(UserError, match="too long to be read") as caught:
        caption_overlay("words", width=8, height=8)
    assert "shorten" in caught.value.remedy


def test_letters_that_the_font_lacks_are_named() -> None:
    assert Typeface().missing("A plain title, 1-2!") == ""
    assert Typeface().missing("漢 B 字") == "漢字"
    for attempt in (lambda: title_card("漢字", width=128, height=128), lambda: caption_overlay("漢字", width=128, height=128)):
        with pytest.raises(UserError, match="漢字") as caught:
            attempt()
        assert "漢 (U+6F22)" in caught.value.cause


def test_the_built_in_font_is_taken_where_it_does() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert typeface_for(["A bear", "reads\u00a0a book"]) == Typeface()


def test_a_font_of_the_system_is_taken_with_a_word() -> None:
    try:
        ImageFont.truetype("DejaVuSans.ttf", 10)
    except OSError:
        pytest.skip("this system has no DejaVu Sans")
    with pytest.warns(UserNote, match=r"no ä \(U\+00E4\).*DejaVu Sans"):
        face = typeface_for(["Der Ba\u0308r"])
    assert drawn(title_card("Der Bär", width=128, height=128, typeface=face), PAPER).any()


def test_without_any_font_that_has_it_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "_SYSTEM_FONTS", ("NoSuchFont.ttf",))
    with pytest.raises(UserError, match=r"no font at hand has 漢 \(U\+6F22\)") as caught:
        typeface_for(["漢"])
    assert "name a font file" in caught.value.remedy


def test_a_font_file_of_the_users(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be used as a font") as caught:
        typeface_for(["x"], tmp_path / "none.ttf")
    assert "no such file" in caught.value.cause
    Image.new("RGB", (2, 2)).save(tmp_path / "picture.png")
    with pytest.raises(UserError, match="cannot be used as a font") as caught:
        typeface_for(["x"], tmp_path / "picture.png")
    assert "no font" in caught.value.cause
