"""The judge: what it takes and gives, motions from hand-made tracks, what it is trained towards, a training that goes on."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from cdvideo.pocket import judge
from cdvideo.pocket.recipes import alone
from cdvideo.pocket.recipes import judge as recipe
from cdvideo.pocket.recipes.run import Run
from cdvideo.pocket.world.moves import MOTIONS, Pose, moved
from cdvideo.pocket.world.painter import Painter
from cdvideo.pocket.world.samples import SHOTS
from cdvideo.pocket.world.scene import LABELS, Scene
from cdvideo.pocket.world.subjects import PERSONAL, SUBJECTS
from cdvideo.resources import resource
from tests.pocket.test_world import FlatIcons


@pytest.fixture
def painter() -> Painter:
    return Painter(FlatIcons())


@pytest.fixture(scope="module")
def untrained() -> judge.Judge:
    torch.manual_seed(0)
    return judge.Judge(recipe.build(), recipe.READ)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_each_picture_gets_an_option_of_each_label_its_confidence_and_a_pose(untrained):
    seen = untrained.look(noise(3, 128, 128, 3))
    assert list(seen.labels) == ["subject", "worn", "held", "place", "colour"] == list(seen.confidences)
    for name, shown in seen.labels.items():
        assert len(shown) == 3 and set(shown) <= {*LABELS[name], None}
        assert seen.confidences[name].shape == (3,) and ((seen.confidences[name] > 0) & (seen.confidences[name] < 1)).all()
    assert seen.presence.shape == (3, len(SUBJECTS)) and seen.poses.shape == (3, 4) and (seen.poses[:, 2] > 0).all()


def test_no_subject_is_named_where_none_is_clear_and_two_where_two_are(untrained):
    bias = untrained.network.heads["subject"].bias
    kept = bias.detach().clone()
    names = recipe.READ["subject"]
    pictures = noise(1, 128, 128, 3)
    assert untrained.look(pictures).labels["subject"] == [None], "one in 46 each, to begin with"
    with torch.no_grad():
        bias[names.index("bear")], bias[names.index("cat")] = 3.0, 4.0
    seen = untrained.look(pictures)
    assert seen.subjects == [["cat", "bear"]] and seen.labels["subject"] == ["cat"]
    with torch.no_grad():
        bias.copy_(kept)


def test_a_picture_is_seen_alike_in_any_company_and_at_any_time(untrained, monkeypatch):
    pictures = noise(6, 128, 128, 3)
    monkeypatch.setattr(judge, "AT_ONCE", 4)
    together, again, alone = untrained.look(pictures), untrained.look(pictures), untrained.look(pictures[-1:])
    assert np.array_equal(together.presence, again.presence) and np.array_equal(together.poses, again.poses)
    assert np.allclose(together.presence[-1:], alone.presence, atol=1e-5) and np.allclose(together.poses[-1:], alone.poses, atol=1e-4)


def test_larger_pictures_are_brought_to_the_judges_side(untrained):
    pictures = noise(2, 8, 8, 3).repeat(16, axis=1).repeat(16, axis=2)
    larger = pictures.repeat(4, axis=1).repeat(4, axis=2)
    assert (judge.to_input(larger) - judge.to_input(pictures)).abs().mean() < 0.02
    assert untrained.look(larger).poses.shape == (2, 4)


@pytest.mark.parametrize(
    ("frames", "complaint"),
    [
        (np.zeros((2, 128, 128, 3), np.float32), "frames are float32, not uint8"),
        (np.zeros((128, 128, 3), np.uint8), r"\(128, 128, 3\), not \(N, side, side, 3\)"),
        (np.zeros((2, 3, 128, 128), np.uint8), r"\(2, 3, 128, 128\), not"),
        (np.zeros((2, 128, 96, 3), np.uint8), r"\(2, 128, 96, 3\), not"),
        (np.zeros((0, 128, 128, 3), np.uint8), "at least one picture"),
    ],
)
def test_other_arrays_are_named_and_refused(untrained, frames, complaint):
    with pytest.raises(ValueError, match=complaint):
        untrained.look(frames)


@pytest.fixture(scope="module")
def samples() -> dict[str, judge.Seen]:
    """What the shipped judge sees in the samples: drawings that it was never shown, in places whose details it was never shown."""
    shipped = judge.Judge.load()

    def pictures(subject: str) -> np.ndarray:
        return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in sorted(resource("samples", subject).glob("*.png"))])

    return {subject: shipped.look(pictures(subject)) for subject in PERSONAL}


def test_the_shipped_judge_knows_the_labels_of_the_world():
    shipped = judge.Judge.load()
    assert shipped.options == {name: LABELS[name] for name in ("subject", "worn", "held", "place", "colour")}


def test_the_shipped_judge_sees_where_the_samples_are(samples):
    for subject, seen in samples.items():
        assert seen.labels["place"] == [shot["place"] for shot in SHOTS], subject
        assert np.abs(seen.poses[:, 0] - [shot["x"] for shot in SHOTS]).mean() < 0.1, subject
        assert np.abs(seen.poses[:, 1] - Scene.y).mean() < 0.1, subject


def test_the_shipped_judge_names_a_class_in_a_drawing_that_it_was_never_shown(samples):
    assert samples["bear"].subjects == [["bear"]] * len(SHOTS)
    assert samples["bear"].labels["worn"] == samples["bear"].labels["held"] == [None] * len(SHOTS)
    named = [found == subject for subject, seen in samples.items() for found in seen.labels["subject"]]
    assert np.mean(named) > 0.6, "chance is one in 46"


def test_a_saved_judge_sees_what_it_saw(untrained, tmp_path):
    recipe.save(untrained, tmp_path)
    loaded = judge.Judge.load(tmp_path)
    assert loaded.options == untrained.options
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3_000_000
    pictures = noise(2, 128, 128, 3)
    assert np.allclose(loaded.look(pictures).presence, untrained.look(pictures).presence, atol=2e-3), "half precision"


def track(**changes) -> np.ndarray:
    """Sixteen poses and widths (16, 5) of a subject that sways a little, with `changes` to x, y, height, angle or width at each moment."""
    moments = np.arange(16) / 16
    rest = {"x": 0.5, "y": 0.55, "height": 0.6, "angle": 0.05 * np.sin(2 * np.pi * moments), "width": 1.0}
    return np.stack([np.broadcast_to(changes.get(name, value), 16) for name, value in rest.items()], -1)


def named(track: np.ndarray) -> str | None:
    return judge.motion_of(track[:, :4], track[:, 3], np.abs(track[:, 4]))


T = np.arange(16) / 16


@pytest.mark.parametrize(
    ("motion", "changes"),
    [
        (None, {}),
        (None, {"x": 0.5 + 0.05 * T, "height": 0.6 + 0.05 * T}),
        ("left", {"x": 0.7 - 0.4 * T}),
        ("right", {"x": 0.3 + 0.4 * T, "y": 0.55 - 0.02 * np.abs(np.sin(4 * np.pi * T))}),
        ("jump", {"y": 0.6 - 0.2 * np.abs(np.sin(2 * np.pi * T))}),
        ("float", {"y": 0.7 - 0.3 * T}),
        ("approach", {"height": 0.4 * (1 + 0.8 * T)}),
        ("nod", {"angle": 0.3 * np.sin(4 * np.pi * T + 1)}),
        ("nod", {"angle": 0.3 * np.sin(4 * np.pi * T), "x": 0.5 + 0.09 * np.sin(4 * np.pi * T)}),
        ("spin", {"width": np.cos(2 * np.pi * T).clip(0.2) + np.cos(2 * np.pi * T).clip(None, -0.2)}),
        ("spin", {"width": np.abs(np.cos(2 * np.pi * T + 1))}),
    ],
)
def test_motions_are_told_from_poses(motion, changes):
    poses = track(**changes)
    assert named(poses) == motion
    noisy = poses + np.random.default_rng(0).normal(0, (0.01, 0.01, 0.02, 0.04, 0.04), poses.shape)
    assert named(noisy) == motion
    poses[5] = (0.2, 0.3, 0.4, 1.5, 0.2)
    assert named(poses) == motion, "one frame is misread"


@pytest.mark.parametrize("motion", [None, *MOTIONS])
@pytest.mark.parametrize("phase", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("amplitude", [0.85, 1.15])
def test_the_worlds_own_tracks_are_named_as_they_were_made(motion, phase, amplitude):
    poses = np.array([tuple(vars(moved(Pose(0.5, 0.55, 0.6), motion, at, amplitude, phase)).values()) for at in T])
    assert named(poses) == motion


def test_a_lean_is_read_from_the_pictures():
    leans = np.array([0.0, 0.1, 0.3, -0.2, -0.4, 0.05])
    frames = []
    for lean in leans:
        picture = Image.new("RGB", (128, 128), (90, 160, 200))
        corners = [(-30, -30), (30, -30), (12, 34), (-24, 30)]
        cos, sin = math.cos(lean), math.sin(lean)
        draw = ImageDraw.Draw(picture)
        draw.polygon([(57 + cos * x - sin * y, 77 + sin * x + cos * y) for x, y in corners], fill=(150, 90, 40))
        draw.circle((57 + cos * 10 + sin * 12, 77 + sin * 10 - cos * 12), 6, fill=(20, 20, 20))
        frames.append(np.asarray(picture))
    poses = np.tile([57.5 / 128, 77.5 / 128, 0.6, 0.0], (len(leans), 1))
    leaned, wide = judge.turns(np.stack(frames), poses)
    assert np.abs(leaned - leans).max() <= 0.05 and (wide == 1).all()


def test_a_width_is_read_from_the_pictures():
    widths = np.array([1.0, 0.7, 0.3, -0.2, -0.6, -1.0, 0.9])
    frames = []
    for width in widths:
        picture = Image.new("RGB", (128, 128), (90, 160, 200))
        draw = ImageDraw.Draw(picture)
        draw.polygon([(57 + width * x, 77 + y) for x, y in [(-30, -30), (30, -30), (12, 34), (-24, 30)]], fill=(150, 90, 40))
        draw.ellipse((57 + width * 10 - abs(width) * 6, 59, 57 + width * 10 + abs(width) * 6, 71), fill=(20, 20, 20))
        frames.append(np.asarray(picture))
    leaned, wide = judge.turns(np.stack(frames), np.tile([57.5 / 128, 77.5 / 128, 0.6, 0.0], (len(widths), 1)))
    assert np.abs(wide - np.abs(widths)).max() <= 0.1 and np.abs(leaned).max() < 1e-6


def test_a_track_needs_frames_and_poses():
    for shape in ((16, 3), (3, 4), (4,)):
        with pytest.raises(ValueError, match="at least four frames"):
            judge.motion_of(np.ones(shape), np.zeros(shape[0]), np.ones(shape[0]))


def test_targets_hold_both_subjects_and_the_options_own_order():
    bear = SUBJECTS["bear"].drawings[0]
    pair = Scene(subject="bear", drawing=bear, companion="cat", companion_drawing=SUBJECTS["cat"].drawings[0], place="snow")
    alone = Scene(subject="bear", drawing=bear, worn="hat", place="beach")
    found = recipe.targets([pair, alone])
    names = recipe.READ["subject"]
    assert [[names[index] for index in row.nonzero()[:, 0]] for row in found["subject"]] == [["bear", "cat"], ["bear"]]
    assert [recipe.READ["worn"][index] for index in found["worn"]] == [None, "hat"]
    assert [recipe.READ["place"][index] for index in found["place"]] == ["snow", "beach"]


def test_training_scenes_are_tinted_and_turned_more_often_and_otherwise_kept():
    rng = np.random.default_rng(0)
    scene = Scene(subject="bear", drawing=SUBJECTS["bear"].drawings[0], worn="hat")
    drawn = [recipe.varied(scene, rng) for _ in range(2000)]
    assert np.mean([one.colour is not None for one in drawn]) == pytest.approx(recipe.TINTED, abs=0.03)
    assert np.mean([one.motion == "spin" for one in drawn]) == pytest.approx(recipe.TURNED, abs=0.03)
    assert {one.colour for one in drawn} == set(LABELS["colour"]) and {one.worn for one in drawn} == {"hat"}


def test_a_place_without_a_subject_asks_for_no_subject_and_no_pose(painter, monkeypatch):
    monkeypatch.setattr(recipe, "EMPTY", 0.5)
    pictures, labels, poses = recipe.training_batch(painter, np.random.default_rng(2), 16)
    nobody = labels["subject"].sum(-1) == 0
    assert 0 < nobody.sum() < 16 and torch.equal(nobody, poses.isnan().all(-1))
    assert (labels["worn"][nobody] == 0).all() and (labels["held"][nobody] == 0).all() and (labels["colour"][nobody] == 0).all()
    assert pictures.shape == (16, 3, 128, 128) and pictures.abs().max() <= 1

    logits = {name: torch.zeros(16, len(options)) for name, options in recipe.READ.items()}
    perfect = recipe.loss_of(logits, poses.nan_to_num(), labels, poses)
    chance = sum(math.log(len(options)) for name, options in recipe.READ.items() if name != "subject") + len(SUBJECTS) * math.log(2)
    assert torch.isclose(perfect, torch.tensor(chance)), "poses are right, labels are guessed"


def test_the_pose_starts_where_the_judge_looks():
    network = recipe.build()
    with torch.no_grad():
        network.pose.bias.zero_()
        network.attention.weight.zero_()
        _, poses = network(torch.zeros(1, 3, 128, 128))
    assert torch.allclose(poses, torch.tensor([[0.5, 0.5, 0, 0, 0]]), atol=1e-6), "everywhere alike, so in the middle"


def test_a_training_goes_on_where_it_stopped(painter, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "elapsed", property(lambda run: float(run.step)))  # a second a step
    monkeypatch.setattr(alone, "constant_then_decay", lambda fraction: 1.0)
    monkeypatch.setattr(recipe, "held_out_accuracy", lambda *_: {})

    def weights(name: str, *ends: int) -> dict[str, torch.Tensor]:
        for end in ends:
            torch.manual_seed(0)
            recipe.train(painter, tmp_path / name, seconds=end, batch_size=2)
        return recipe.finished(tmp_path / name).network.state_dict()

    whole, parts, shorter = weights("whole", 2), weights("parts", 1, 2), weights("shorter", 1)
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert not all(torch.equal(value, shorter[name]) for name, value in whole.items())


def test_accuracies_are_shares_of_right_answers(painter):
    class Knowing:
        """Answers with what the scenes hold, except that it never sees a hat."""

        def look(self, frames):
            rng = np.random.default_rng(4)
            scenes = [scene for scene, _ in zip(recipe.sharp_scenes(rng), frames, strict=False)]
            labels = {name: [getattr(scene, name) for scene in scenes] for name in recipe.READ}
            labels["worn"] = [None if worn == "hat" else worn for worn in labels["worn"]]
            subjects = [[name for name in (scene.companion, scene.subject) if name] for scene in scenes]
            self.hats = [scene.worn == "hat" for scene in scenes if not scene.companion]
            return judge.Seen(labels=labels, confidences={}, subjects=subjects, presence=np.zeros(0), poses=np.zeros(0))

    knowing = Knowing()
    found = recipe.picture_accuracy(knowing, painter, 60, seed=4)
    assert found["subject"] == found["companion"] == found["place"] == found["colour"] == 1
    assert found["worn"] == pytest.approx(1 - np.mean(knowing.hats)) and 0 < np.mean(knowing.hats) < 0.5


def test_held_out_accuracy_reports_every_label_and_the_motion(untrained, painter):
    found = recipe.held_out_accuracy(untrained, painter, 24, seed=1)
    assert {"subject", "worn", "held", "place", "colour", "companion", "motion"} <= set(found)
    assert all(0 <= share <= 1 for share in found.values())
