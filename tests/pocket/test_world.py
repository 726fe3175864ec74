"""The picture world: the same seed gives the same picture, captions say what is drawn, motions go where they are named."""

import numpy as np
import pytest
from PIL import Image

from cdvideo.pocket.world.catalogue import COLOURS, HELD, MOTIONS, PLACES, SUBJECTS, WORN
from cdvideo.pocket.world.icons import FAMILIES
from cdvideo.pocket.world.scene import Painter, Scene, caption, sample_scene


class FlatIcons:
    """Stands in for the icon families, which only `make pocket` fetches: every icon is a black disc."""

    def sprite(self, family: str, icon: str) -> Image.Image:
        assert family in FAMILIES
        rows, columns = np.mgrid[-1:1:160j, -1:1:160j]
        alpha = ((rows**2 + columns**2) < 1).astype(np.uint8) * 255
        return Image.fromarray(np.dstack([np.zeros((160, 160, 3), np.uint8), alpha]))


@pytest.fixture
def painter() -> Painter:
    return Painter(FlatIcons())


def centre(picture: Image.Image) -> tuple[float, float, int]:
    """The dark subject's centre, x and y, and its area in pixels."""
    dark = np.asarray(picture.convert("L")) < 60
    rows, columns = np.nonzero(dark)
    return columns.mean(), rows.mean(), int(dark.sum())


def test_the_same_seed_gives_the_same_scene_and_picture(painter):
    first, second = (sample_scene(np.random.default_rng(7)) for _ in range(2))
    assert first == second != sample_scene(np.random.default_rng(8))
    one, two = (np.asarray(painter.frame(first, 0.3)) for _ in range(2))
    assert np.array_equal(one, two) and one.shape == (128, 128, 3)


def test_captions_name_what_the_scene_holds():
    rng = np.random.default_rng(0)
    for _ in range(500):
        scene = sample_scene(rng)
        if scene.blurred:
            continue
        text = caption(scene, rng)
        assert scene.subject in text.split()
        for kind, names in ((scene.worn, WORN), (scene.held, HELD), (scene.motion, MOTIONS)):
            assert kind is None or any(words in text for words in names[kind]), text
            assert not any(words in text for other, options in names.items() if other != kind for words in options if names is WORN), text
        assert scene.place in COLOURS or any(words in text for words in PLACES[scene.place]), text


def test_personal_drawings_are_never_shown_in_training():
    rng = np.random.default_rng(1)
    shown = {sample_scene(rng).drawing for _ in range(5000)}
    personal = {drawing for subject in SUBJECTS.values() for drawing in subject.personal}
    assert len(personal) >= 6 and not shown & personal
    assert shown == {drawing for subject in SUBJECTS.values() for drawing in subject.drawings}


@pytest.mark.parametrize("motion", MOTIONS)
def test_motions_go_where_they_are_named(painter, motion):
    scene = Scene(subject="bear", drawing=SUBJECTS["bear"].drawings[0], place="white", motion=motion, height=0.4)
    places = [centre(frame) for frame in painter.clip(scene, 16)]
    x, y, area = (np.array(values, float) for values in zip(*places, strict=True))
    if motion in ("left", "right"):
        assert (x[-1] - x[0]) * (1 if motion == "right" else -1) > 30
    elif motion == "jump":
        assert y.max() - y.min() > 15 and abs(x[-1] - x[0]) < 2
    elif motion == "approach":
        assert area[-1] > 1.5 * area[0]
    else:
        assert np.ptp(x) < 2 and np.ptp(y) < 3


@pytest.mark.parametrize("place", [*PLACES, "red"])
def test_places_look_different_and_move(painter, place):
    scene = Scene(subject="cat", drawing=SUBJECTS["cat"].drawings[0], place=place, height=0.3, decor_seed=3)
    first, later = (np.asarray(painter.frame(scene, moment), float) for moment in (0.0, 0.4))
    others = [np.asarray(painter.frame(Scene(**{**vars(scene), "place": other}), 0.0), float) for other in PLACES if other != place]
    assert min(np.abs(first - other).mean() for other in others) > 10
    assert np.abs(first - later).mean() > (0.05 if place in PLACES else 0.0)


def test_blurred_scenes_are_described_as_bad(painter):
    scene = Scene(subject="dog", drawing=SUBJECTS["dog"].drawings[0], blurred=True)
    assert "quality" in caption(scene, np.random.default_rng(0))
    sharp = Scene(subject="dog", drawing=SUBJECTS["dog"].drawings[0])
    edges = [np.abs(np.diff(np.asarray(painter.frame(one), float), axis=1)).max() for one in (scene, sharp)]
    assert edges[0] < 0.5 * edges[1]


def test_unknown_places_are_refused():
    with pytest.raises(ValueError, match="the moon"):
        Scene(subject="bear", drawing=("noto", "bear"), place="the moon")
