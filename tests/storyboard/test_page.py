"""The film page, read by a parser and, where Playwright and Chromium are at hand, opened from the disk in a real browser.

pip install playwright && apt-get install chromium && pytest tests/storyboard/test_page.py
"""

from __future__ import annotations

import base64
import dataclasses
import shutil
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from cdvideo.storyboard.page import FilmOnPage, ShotOnPage, TakeOnPage, film_page
from cdvideo.video import Clip, Cue, write, write_frames
from tests.video.scenes import moving_scene

HOSTILE = '</script><script>alert(1)</script> <b onclick="x"> & "quotes" \' 熊 🐻'
FPS, SHOT_FRAMES = 8, 12
VOID = {"meta", "link", "source", "track", "img"}


class Page(HTMLParser):
    """What a page consists of; `open` must be empty at its end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.tags if found == tag]


def make_film(folder: Path, num_shots: int = 3, prompt: str = "a bear reading") -> FilmOnPage:
    """A film of coloured shots that lies in `folder`, and its description for the page."""
    shots, frames = [], []
    for index in range(num_shots):
        scene = np.roll(moving_scene(SHOT_FRAMES, 96, 64), index, axis=-1)
        frames.append(scene)
        clip = write(Clip(frames=scene, fps=FPS, record={}), folder / "shots" / f"{index + 1:02d} 100% #{index}.mp4")
        shots.append(
            ShotOnPage(
                number=index + 1,
                prompt=f"{prompt} {index + 1}",
                start=index * SHOT_FRAMES,
                end=(index + 1) * SHOT_FRAMES,
                num_frames=SHOT_FRAMES,
                clip=clip,
                seed=7 + index,
                command=f"cdvideo storyboard render 'my film.yaml' --only {index + 1}",
                record={"prompt": prompt, "seed": 7 + index},
                poster=scene[5],
                camera="zoom-in" if index else "",
                transition="a crossfade of 0.5 s" if index else "",
                caption=prompt if index == 1 else "",
                starring="bear",
                scores={"text": 0.31, "likeness": 0.72},
                take=2 if index == 1 else None,
                other_takes=[TakeOnPage(number=1, seed=8, clip=clip, scores={"text": 0.2})] if index == 1 else [],
            )
        )
    whole = np.concatenate(frames)
    cues = [Cue(start=SHOT_FRAMES, end=2 * SHOT_FRAMES, text="A caption & more")]
    videos = [
        write_frames(lambda: whole, folder / f"my film.{suffix}", num_frames=len(whole), fps=FPS, record={}) for suffix in ("webm", "mp4")
    ]
    return FilmOnPage(
        title=prompt,
        videos=videos,
        width=96,
        height=64,
        num_frames=len(whole),
        fps=FPS,
        shots=shots,
        poster=whole[5],
        downloads={"MP4": videos[1], "WebM": videos[0]},
        cues=cues,
        facts={"Base": "pocket"},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film with its page."""
    made = tmp_path_factory.mktemp("a film & its page")
    (made / "index.html").write_text(film_page(make_film(made), made), encoding="utf-8")
    return made


def page_of(folder: Path) -> Page:
    return Page((folder / "index.html").read_text(encoding="utf-8"))


def test_it_is_one_file_whose_links_are_files_beside_it(folder: Path) -> None:
    page = page_of(folder)
    assert not page.open
    targets = [attributes[name] for _, attributes in page.tags for name in ("src", "href", "poster") if name in attributes]
    links = [target for target in targets if target and not target.startswith("data:")]
    assert len(links) == 2 + 3 + 1 + 2
    for link in links:
        assert (folder / unquote(link)).is_file(), link
    assert not page.all("script")[0]
    assert [attributes.get("rel") for attributes in page.all("link")] == ["icon"]


def test_it_says_how_each_shot_was_made(folder: Path) -> None:
    text = page_of(folder).text
    for words in (
        "a bear reading 2",
        "cdvideo storyboard render 'my film.yaml' --only 2",
        "zoom-in",
        "a crossfade of 0.5 s",
        "0:01.5 – 0:03",
        "12 frames",
        "0.310",
        "Scores of take 2, which was kept",
        "Take 1",
        '"seed": 8',
        "3 shots · 4.5 seconds · 96 × 64 pixels · 8 frames per second",
    ):
        assert words in text, words


def test_its_captions_are_inside(folder: Path) -> None:
    (track,) = page_of(folder).all("track")
    kind, _, data = (track["src"] or "").partition(",")
    assert kind == "data:text/vtt;base64"
    assert base64.b64decode(data).decode() == "WEBVTT\n\n00:00:01.500 --> 00:00:03.000\nA caption &amp; more\n"


def test_words_stay_words(tmp_path: Path) -> None:
    page = Page(film_page(make_film(tmp_path, num_shots=2, prompt=HOSTILE), tmp_path))
    assert not page.open
    assert len(page.all("script")) == 1 and not page.all("b")[0].get("onclick")
    assert page.text.count(HOSTILE) >= 6


def test_everything_has_a_name_for_those_who_do_not_see(folder: Path) -> None:
    page = page_of(folder)
    ids = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
    assert set(ids.values()) == {1}
    named = {attributes.get("aria-labelledby") for attributes in page.all("article")} | {"shots"}
    assert named <= set(ids)
    assert all("alt" in attributes for attributes in page.all("img"))
    assert all(attributes["type"] == "button" for attributes in page.all("button"))
    assert all(attributes.get("aria-label") for attributes in page.all("button") if attributes.get("class") == "clip")
    assert page.all("html")[0]["lang"] == "en" and page.all("video")[0]["aria-label"]


def test_pictures_without_sound_scores_or_posters(tmp_path: Path) -> None:
    film = make_film(tmp_path, num_shots=1)
    gif = write(Clip(frames=moving_scene(3), fps=8, record={}), tmp_path / "shot.gif")
    bare = dataclasses.replace(film.shots[0], clip=gif, poster=None, scores={}, starring="")
    page = Page(film_page(dataclasses.replace(film, shots=[bare], poster=None, cues=(), facts={}, downloads={}), tmp_path))
    assert not page.open
    assert [attributes["src"] for attributes in page.all("img")] == ["shot.gif"]
    assert not page.all("track") and "Scores" not in page.text


def test_a_film_of_200_shots_stays_a_small_page(tmp_path: Path) -> None:
    film = make_film(tmp_path, num_shots=1)
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    shots = [dataclasses.replace(film.shots[0], number=number, poster=noise) for number in range(1, 201)]
    assert len(film_page(dataclasses.replace(film, shots=shots), tmp_path)) < 20_000_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="the page is opened where Playwright is installed")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as running:
        found = running.chromium.launch(executable_path=program, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"])
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any, folder: Path) -> Iterator[Any]:
    """The page, loaded from the disk in a browser without network; at the end, nothing was complained about."""
    context = browser.new_context(offline=True, permissions=["clipboard-read", "clipboard-write"], viewport={"width": 1280, "height": 900})
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((folder / "index.html").as_uri())
    page.wait_for_function("film.readyState >= 1")
    yield page
    context.close()
    assert complaints == []


def test_the_film_plays_with_its_captions(opened: Any) -> None:
    assert opened.evaluate("[film.videoWidth, film.videoHeight]") == [96, 64]
    assert opened.evaluate("film.duration") == pytest.approx(4.5, abs=0.05)
    assert opened.evaluate("film.play().then(() => true)")
    opened.wait_for_function("film.currentTime > 1.6 && film.textTracks[0].activeCues.length === 1", timeout=15000)
    assert opened.evaluate("film.textTracks[0].activeCues[0].getCueAsHTML().textContent") == "A caption & more"
    assert opened.evaluate("film.error") is None


def test_a_click_on_a_shot_goes_there(opened: Any) -> None:
    entries = opened.locator("#chapters button")
    for index in (2, 0, 1):
        entries.nth(index).click()
        opened.wait_for_function(f"!film.seeking && Math.abs(film.currentTime - {1.5 * index}) < 0.7")
        opened.wait_for_function(f"document.querySelectorAll('#chapters button')[{index}].hasAttribute('aria-current')")
    assert opened.locator("#chapters [aria-current]").count() == 1


def test_the_keyboard_is_enough(opened: Any) -> None:
    opened.locator("#chapters button").nth(2).focus()
    opened.keyboard.press("Enter")
    opened.wait_for_function("film.currentTime >= 3")
    opened.locator("button.clip").first.focus()
    opened.keyboard.press("Space")
    opened.wait_for_function("document.querySelector('button.clip video').currentTime > 0.1")
    opened.keyboard.press("Space")
    assert opened.evaluate("document.querySelector('button.clip video').paused")


def test_the_command_is_copied(opened: Any) -> None:
    opened.locator(".redo button").nth(1).click()
    opened.wait_for_function("document.querySelectorAll('.redo button')[1].textContent === 'Copied'")
    assert opened.evaluate("navigator.clipboard.readText()") == "cdvideo storyboard render 'my film.yaml' --only 2"
    assert opened.locator("#said").inner_text() == "Copied"


def test_every_clip_and_file_loads(opened: Any) -> None:
    opened.evaluate("for (const clip of document.querySelectorAll('video')) clip.preload = 'auto'")
    opened.wait_for_function("[...document.querySelectorAll('video')].every((video) => video.readyState >= 1 && !video.error)")
    opened.wait_for_function("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")


@pytest.mark.parametrize("width", [320, 390, 768, 1280, 2000])
def test_nothing_sticks_out_at_any_width(opened: Any, width: int) -> None:
    opened.set_viewport_size({"width": width, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    film = opened.locator("#film").bounding_box()
    assert film["height"] <= 0.75 * 800 and film["width"] >= 280


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_by_night_and_by_day(opened: Any, scheme: str) -> None:
    """Contrast by WCAG 2, level AA: at least 4.5 to 1."""
    opened.emulate_media(color_scheme=scheme)
    for selector, behind in [
        ("h1", "body"),
        (".lead", "body"),
        ("dt", ".shot"),
        (".plain", ".shot"),
        ("summary", ".shot"),
        ("code", "code"),
    ]:
        ink, paper = opened.evaluate(
            "([of, behind]) => [getComputedStyle(document.querySelector(of)).color,"
            " getComputedStyle(document.querySelector(behind)).backgroundColor]",
            [selector, behind],
        )
        assert contrast(ink, paper) >= 4.5, selector


def contrast(one: str, other: str) -> float:
    lights = sorted(luminance(colour) for colour in (one, other))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
