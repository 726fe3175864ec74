"""The picture world: the same seed gives the same picture, captions say what is drawn, motions and cameras go where they are named."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cdvideo.pocket.world.icons import FAMILIES
from cdvideo.pocket.world.moves import CAMERAS, MOTIONS, Pose, View, view
from cdvideo.pocket.world.painter import Painter
from cdvideo.pocket.world.places import COLOURS, PLACES
from cdvideo.pocket.world.scene import LABELS, Scene, labels_of, sample_scene
from cdvideo.pocket.world.subjects import PERSONAL, SUBJECTS
from cdvideo.pocket.world.things import HELD, WORN, held_pose
from cdvideo.pocket.world.wording import caption


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


def bear(**changes) -> Scene:
    return replace(Scene(subject="bear", drawing=SUBJECTS["bear"].drawings[0]), **changes)


def test_the_world_is_as_wide_as_promised():
    assert len(SUBJECTS) >= 40 and len(PERSONAL) >= 10
    assert min(len(subject.drawings) for subject in SUBJECTS.values()) >= 3
    assert len(LABELS["worn"]) >= 7 and len(LABELS["held"]) >= 7 and len(PLACES) >= 9 and len(CAMERAS) == 8


def test_the_same_seed_gives_the_same_scene_and_picture(painter):
    first, second = (sample_scene(np.random.default_rng(7)) for _ in range(2))
    assert first == second != sample_scene(np.random.default_rng(8))
    one, two = (np.asarray(painter.frame(first, 0.3)) for _ in range(2))
    assert np.array_equal(one, two) and one.shape == (128, 128, 3)


def test_complete_captions_name_what_the_scene_holds():
    rng = np.random.default_rng(0)
    for _ in range(1000):
        scene = sample_scene(rng)
        text = caption(scene, rng, complete=True)
        words = text.replace(",", "").split()
        assert scene.subject in words
        assert scene.companion is None or scene.companion in words
        assert scene.colour is None or scene.colour in words
        named = {thing.name for thing in WORN.values() if any(said.split()[-1] in words for said in thing.words)}
        assert scene.worn is None or scene.worn in named | {"bow"}, text
        assert scene.held is None or any(said in text for said in held_pose(scene.held, scene.variant)[2]), text
        assert scene.motion is None or any(said in text for said in MOTIONS[scene.motion]), text
        assert scene.camera is None or any(text.endswith(said) for said in CAMERAS[scene.camera]), text
        place = PLACES.get(scene.place, (f"{scene.place} background",))
        assert any(said in text for said in place), text


def test_no_caption_names_what_is_not_there():
    rng = np.random.default_rng(3)
    for _ in range(1000):
        scene = sample_scene(rng)
        text = caption(scene, rng)
        absent = [words for name, words in MOTIONS.items() if name != scene.motion]
        absent += [words for name, words in CAMERAS.items() if name != scene.camera]
        absent += [pose[2] for name, thing in HELD.items() if name != scene.held for pose in thing.poses]
        absent += [tuple(f"wearing {said}" for said in thing.words) for name, thing in WORN.items() if name != scene.worn]
        assert not [said for words in absent for said in words if f" {said} " in f" {text} "], text


def test_people_leave_the_place_unsaid_now_and_then():
    rng = np.random.default_rng(5)
    scene = bear(place="red")
    assert 0.1 < np.mean(["red background" not in caption(scene, rng) for _ in range(500)]) < 0.3
    assert all("red background" in caption(scene, rng, complete=True) for _ in range(100))


@pytest.mark.parametrize(("noun", "said"), [("owl", "an owl"), ("bear", "a bear"), ("sunglasses", "sunglasses")])
def test_nouns_have_their_articles(noun, said):
    text = caption(Scene(subject=noun, drawing=SUBJECTS[noun].drawings[0], place="orange"), np.random.default_rng(2), complete=True)
    assert said in text and "a sunglasses" not in text and "a orange" not in text


def test_personal_drawings_are_never_shown_in_training():
    rng = np.random.default_rng(1)
    scenes = [sample_scene(rng) for _ in range(12000)]
    shown = {drawing for scene in scenes for drawing in (scene.drawing, scene.companion_drawing)} - {None}
    personal = {drawing for subject in SUBJECTS.values() for drawing in subject.personal}
    assert len(personal) >= 20 and not shown & personal
    assert shown == {drawing for subject in SUBJECTS.values() for drawing in subject.drawings}


def test_every_label_occurs_and_has_its_number():
    rng = np.random.default_rng(4)
    scenes = [sample_scene(rng, moving=True) for _ in range(3000)]
    for name, numbers in labels_of(scenes).items():
        assert set(numbers.tolist()) == set(range(len(LABELS[name])))
        assert LABELS[name][int(numbers[0])] == getattr(scenes[0], name)


@pytest.mark.parametrize("motion", MOTIONS)
def test_motions_go_where_they_are_named(painter, motion):
    scene = bear(place="white", motion=motion, height=0.4)
    places = [centre(frame) for frame in painter.clip(scene, 16)]
    x, y, area = (np.array(values, float) for values in zip(*places, strict=True))
    poses = [painter.pose(scene, moment / 16) for moment in range(16)]
    if motion in ("left", "right"):
        assert (x[-1] - x[0]) * (1 if motion == "right" else -1) > 30
    elif motion == "jump":
        assert y.max() - y.min() > 15 and abs(x[-1] - x[0]) < 2
    elif motion == "approach":
        assert area[-1] > 1.5 * area[0]
    elif motion == "float":
        assert y[0] - y[-1] > 30
    elif motion == "nod":
        assert np.ptp([pose.angle for pose in poses]) > 0.4
        assert 6 < np.ptp(x) < 20 and abs(x.mean() - x[0]) < 1 and np.ptp(y) < 4, "about its base"
    else:
        assert np.ptp(x) < 2 and np.ptp(y) < 3
        assert area[4] < 0.3 * area[0] and area[8] == pytest.approx(area[0], rel=0.02) and poses[8].width == -1


def test_a_spinning_subject_is_seen_from_behind_in_a_mirror(painter):
    scene = bear(place="white", motion="spin", held="balloon", x=0.5)
    front, behind = (np.asarray(painter.frame(scene, moment), float) for moment in (0.0, 0.5))
    assert np.abs(behind - front[:, ::-1]).mean() < 0.5 < 1 < np.abs(behind - front).mean()


@pytest.mark.parametrize("camera", CAMERAS)
def test_a_camera_moves_everything_and_the_pose_says_where_to(painter, camera):
    scene = bear(place="white", camera=camera, height=0.4, x=0.5, y=0.5)
    first, last = (painter.frame(scene, moment) for moment in (0.0, 15 / 16))
    for picture, moment in ((first, 0.0), (last, 15 / 16)):
        x, y, _ = centre(picture)
        pose = painter.pose(scene, moment)
        assert np.allclose((pose.x * 128, pose.y * 128), (x, y), atol=1.5)
    (x0, y0, area0), (x1, y1, area1) = centre(first), centre(last)
    way = {
        "pan-left": x1 - x0,
        "pan-right": x0 - x1,
        "tilt-up": y1 - y0,
        "tilt-down": y0 - y1,
        "zoom-in": area1 - area0,
        "zoom-out": area0 - area1,
    }
    assert way.get(camera, 100) > 25


def test_a_camera_that_rolls_clockwise_turns_the_picture_the_other_way():
    right = Pose(0.8, 0.5, 0.1)
    assert view("roll-clockwise", 1.0).seen(right).y < 0.5 < view("roll-anticlockwise", 1.0).seen(right).y
    assert View().seen(right) == right


@pytest.mark.parametrize("place", [*PLACES, "red"])
def test_places_look_different_and_move(painter, place):
    scene = Scene(subject="cat", drawing=SUBJECTS["cat"].drawings[0], place=place, height=0.3, decor_seed=3)
    first, later = (np.asarray(painter.frame(scene, moment), float) for moment in (0.0, 0.4))
    others = [np.asarray(painter.frame(replace(scene, place=other), 0.0), float) for other in PLACES if other != place]
    assert min(np.abs(first - other).mean() for other in others) > 10
    assert np.abs(first - later).mean() > (0.05 if place in PLACES else 0.0)


def test_worn_and_held_things_and_colours_change_the_picture(painter):
    def picture(**changes):
        return np.asarray(painter.frame(bear(**changes)), float)

    for kind, options in (("worn", WORN), ("held", HELD), ("colour", COLOURS)):
        for option in options:
            assert np.abs(picture(**{kind: option, "variant": 5}) - picture()).mean() > 0.2, option


def test_a_mirrored_drawing_is_the_mirrored_picture():
    class Half(FlatIcons):
        def sprite(self, family, icon):
            disc = np.asarray(super().sprite(family, icon)).copy()
            disc[:, 80:, 3] = 0
            return Image.fromarray(disc)

    plain, mirrored = (np.asarray(Painter(Half()).frame(bear(mirrored=flag, y=0.5), 0.0), float) for flag in (False, True))
    assert np.abs(plain[:, ::-1] - mirrored).mean() < 1 < np.abs(plain - mirrored).mean()


def test_blurred_scenes_are_described_as_bad(painter):
    scene = bear(blurred=True)
    assert "quality" in caption(scene, np.random.default_rng(0))
    edges = [np.abs(np.diff(np.asarray(painter.frame(one), float), axis=1)).max() for one in (scene, bear())]
    assert edges[0] < 0.5 * edges[1]


@pytest.mark.parametrize(("field", "value"), [("place", "the moon"), ("worn", "a tie"), ("camera", "dolly"), ("subject", "yeti")])
def test_unknown_parts_of_a_scene_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} '{value}'"):
        bear(**{field: value})
