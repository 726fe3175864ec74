"""The report: intervals against hand-computed values, flow against known motions, prompts, resuming, and the page of made-up results."""

import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from cdvideo.concept import Concept
from cdvideo.pocket.report import camera, likeness, prompts
from cdvideo.pocket.report.analysis import curve, difference, wording
from cdvideo.pocket.report.charts import Line, line_chart
from cdvideo.pocket.report.figures import GOALS, Figure, as_json, mean, rate
from cdvideo.pocket.report.intervals import bootstrap, wilson
from cdvideo.pocket.report.page import page
from cdvideo.pocket.report.phenomenon import BASE, METHODS, Plan, Training, cells, concept_path, concepts_along, without_token
from cdvideo.pocket.report.prompts import Prompt
from cdvideo.pocket.report.rendering import read_frames, save_frames
from cdvideo.pocket.report.results import Example, JudgedCamera, JudgedClip, JudgedStill, Phenomenon, Results
from cdvideo.pocket.report.shelf import Shelf, work_through
from cdvideo.pocket.world.moves import CAMERAS, MOTIONS, view
from cdvideo.pocket.world.scene import LABELS


def test_wilson_intervals_are_those_worked_out_by_hand():
    # 8 of 10: centre (0.8 + 3.8415/20) / 1.38415, reach 1.96 / 1.38415 * sqrt(0.016 + 3.8415/400)
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 3.8415 / 13.8415), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((10 / 13.8415, 1.0), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_bootstrap_agrees_with_the_normal_interval_of_a_mean():
    values = np.random.default_rng(1).normal(5, 2, 400)
    reach = 1.96 * values.std() / 20
    assert bootstrap([values]) == pytest.approx((values.mean() - reach, values.mean() + reach), abs=0.06)


def test_groups_that_are_alike_inside_widen_the_interval():
    values = np.repeat(np.random.default_rng(2).normal(0, 1, 10), 25) + np.random.default_rng(3).normal(0, 0.1, 250)
    apart, together = bootstrap(values.reshape(10, 25)), bootstrap([values])
    assert apart[1] - apart[0] > 3 * (together[1] - together[0])
    assert all(math.isnan(value) for value in bootstrap([]))


def texture(x, y):
    rng = np.random.default_rng(1)
    waves = [(rng.normal(0, 9, 2), rng.uniform(0, 7)) for _ in range(12)]
    return 128 + 30 * sum(np.cos(rates[0] * x + rates[1] * y + phase) for rates, phase in waves)


def filmed(name, walker=False):
    """Ten frames of a picture known at every point, through the world's own camera; with a dark square walking across it."""
    rows, columns = (np.mgrid[:128, :128] + 0.5) / 128 - 0.5
    frames = []
    for moment in np.arange(10) / 10:
        seen = view(name, moment)
        cos, sin = math.cos(seen.angle), math.sin(seen.angle)
        x = seen.x + seen.side * (columns * cos - rows * sin)
        y = seen.y + seen.side * (columns * sin + rows * cos)
        picture = np.clip(texture(x, y), 0, 255)
        if walker:
            picture[abs(y - 0.5) + abs(x - 0.3 - 0.4 * moment) < 0.17] = 10
        frames.append(np.repeat(picture[..., None], 3, axis=2).astype(np.uint8))
    return np.stack(frames)


@pytest.fixture(scope="module")
def at_rest():
    return camera.drift(filmed(None))


@pytest.mark.parametrize("name", CAMERAS)
def test_flow_finds_each_camera_move_and_how_far_it_goes(name, at_rest):
    found = camera.drift(filmed(name, walker=name in ("pan-left", "tilt-up")))
    part, sign = camera.EXPECTED[name]
    last = view(name, 0.9), view(name, 0)
    truth = {
        "x": last[1].x - last[0].x,
        "y": last[1].y - last[0].y,
        "zoom": camera.MEAN_RADIUS * math.log(last[1].side / last[0].side),
        "roll": camera.MEAN_RADIUS * (last[1].angle - last[0].angle),
    }
    assert vars(found) == pytest.approx(truth, abs=0.02)
    assert sign * truth[part] > 0.1
    assert [other for other in CAMERAS if camera.obeys(other, found, at_rest)] == [name]


def test_a_clip_that_moves_so_anyway_is_no_merit_of_the_camera():
    moving, more = camera.Drift(x=0.3, y=0, zoom=0, roll=0), camera.Drift(x=0.2, y=0, zoom=0, roll=0)
    assert not camera.obeys("pan-left", more, moving) and camera.obeys("pan-left", moving, more)


def test_the_mean_radius_is_that_of_a_unit_square():
    across = (np.arange(1000) + 0.5) / 1000 - 0.5
    assert np.hypot(across[:, None], across).mean() == pytest.approx(camera.MEAN_RADIUS, abs=1e-4)


def test_prompts_are_deterministic_distinct_and_complete():
    few, many = prompts.still_prompts(40), prompts.still_prompts(200)
    assert many[:40] == few and len({prompt.text for prompt in many}) == 200
    assert len({prompt.seed for prompt in many}) == 200
    assert sum(prompt.expected["worn"] is not None for prompt in many) == sum(prompt.expected["held"] is not None for prompt in many) == 100
    for prompt in many:
        assert set(prompt.expected) == set(LABELS) and prompt.expected["motion"] is None
        assert re.search(rf"\b{prompt.expected['subject']}\b", prompt.text)
        assert {"subject", "place"} <= set(prompt.named)
        assert ("wearing" in prompt.text) == (prompt.expected["worn"] is not None)


def test_motion_prompts_take_every_motion_in_turn_and_name_it():
    found = prompts.motion_prompts(14)
    assert [prompt.expected["motion"] for prompt in found] == [*MOTIONS, *MOTIONS]
    assert all(any(words in prompt.text for words in MOTIONS[prompt.expected["motion"]]) for prompt in found)


def test_personal_prompts_name_the_token_before_the_class():
    found = prompts.personal_prompts("owl", "V*", 10)
    assert all(prompt.text.count("V* owl") == 1 and "an V*" not in prompt.text for prompt in found)
    assert all(prompt.expected["worn"] or prompt.expected["held"] for prompt in found)
    assert prompts.with_token("a photo of an owl at night", "owl", "V*") == "a photo of a V* owl at night"
    assert without_token("a V* bear in the snow") == "a bear in the snow"


def test_finished_work_is_not_done_again_and_a_torn_line_is(tmp_path):
    calls = []

    def start():
        return lambda task: calls.append(task) or {"double": 2 * task}

    tasks = {str(number): number for number in range(5)}
    shelf = Shelf(tmp_path / "shelf.jsonl")
    work_through({"0": 0, "1": 1}, shelf, start, processes=0, title="")
    found = work_through(tasks, Shelf(shelf.path), start, processes=0, title="")
    assert calls == [0, 1, 2, 3, 4] and found["4"] == {"double": 8}
    shelf.path.write_text(shelf.path.read_text()[:-9])
    assert work_through(tasks, Shelf(shelf.path), start, processes=0, title="") == found
    assert calls == [0, 1, 2, 3, 4, 4] and Shelf(shelf.path).records == found


@pytest.mark.parametrize(("name", "num_frames"), [("a.png", 1), ("a.webp", 5)])
def test_frames_are_kept_without_loss(tmp_path, name, num_frames):
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, 64, 64, 3), dtype=np.uint8)
    save_frames(tmp_path / name, frames)
    assert np.array_equal(read_frames(tmp_path / name), frames)


def test_colours_are_alike_where_the_middle_is():
    red, blue = (np.full((1, 64, 64, 3), colour, np.uint8) for colour in ((200, 20, 20), (20, 20, 200)))
    framed = blue.copy()
    framed[:, 16:48, 16:48] = red[:, 16:48, 16:48]
    photos = np.concatenate([framed, blue])
    assert likeness.colour_likeness(red, photos) == pytest.approx([1.0])
    assert likeness.colour_likeness(red, blue) == pytest.approx([0.0])


def test_every_arm_of_the_phenomenon_sees_the_same_prompts_and_noise(tmp_path):
    plan = Plan(subjects=("bear", "cat"), steps=(10, 20), num_prompts=3)
    found = cells(plan, tmp_path)
    assert len(found) == 2 * 3 * (1 + 2 * 2) == len({cell.path for cell in found.values()})
    for subject in plan.subjects:
        arms = {(cell.method, cell.steps) for cell in found.values() if cell.subject == subject}
        assert arms == {(BASE, 0), *((method, steps) for method in METHODS for steps in (10, 20))}
        assert len({cell.prompt.text for cell in found.values() if cell.subject == subject}) == 3


def test_a_concept_on_the_way_is_that_of_a_shorter_training(pocket, tmp_path):
    def trained(folder, *steps):
        training = Training(
            subject="bear", method="Custom Diffusion", spl_weight=0.0, steps=steps, learning_rate=1e-3, seed=0, folder=tmp_path / folder
        )
        return concepts_along(pocket, training), Concept.load(concept_path(training.folder, "bear", "Custom Diffusion", 2))

    drift, on_the_way = trained("long", 2, 3)
    _, short = trained("short", 2)
    assert list(drift) == [2, 3] and all(0 < distance < 2 for distance in drift.values())
    assert on_the_way.header.steps == 2 and on_the_way.header.spl_weight == 0
    assert all(torch.equal(value, short.tuned[name]) for name, value in on_the_way.tuned.items())
    assert torch.equal(on_the_way.embeddings["V*"], short.embeddings["V*"])


def made_up_table(custom_at_the_end):
    def groups(chance):
        return [(np.random.default_rng((subject, 5)).random(25) < chance).astype(float).tolist() for subject in range(10)]

    custom, ours = METHODS
    rates = {(custom, 60): 0.8, (custom, 480): custom_at_the_end, (ours, 60): 0.8, (ours, 480): 0.78, (BASE, 0): 0.85}
    return {arm: {"composition": groups(chance)} for arm, chance in rates.items()}


def changes(table):
    return {method: difference(table, "composition", (method, 480), (method, 60)) for method in METHODS}


def paired(table):
    custom, ours = METHODS
    return difference(table, "composition", (ours, 480), (custom, 480))


@pytest.mark.parametrize(("custom_at_the_end", "said"), [(0.3, "the paper’s effect appears"), (0.78, "cannot be told apart")])
def test_the_wording_follows_from_the_numbers(custom_at_the_end, said):
    table = made_up_table(custom_at_the_end)
    curves = {"composition": [curve(table, "composition", method, (60, 480)) for method in METHODS]}
    sentences = wording(curves, {"composition": Figure(value=0.85)}, [paired(table)], changes(table))
    assert said in sentences[3] and "85%" in sentences[0]
    assert ("it falls." in sentences[1]) == (custom_at_the_end < 0.5)


def test_a_paired_difference_is_that_of_the_means():
    table = {("a", 1): {"m": [[1.0, 0.0], [1.0, 1.0]]}, ("b", 1): {"m": [[0.0, 0.0], [1.0, 0.0]]}}
    found = difference(table, "m", ("a", 1), ("b", 1))
    assert found.value == 0.5 and found.low <= 0.5 <= found.high and found.verdict == "not told apart"


class Sources(HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources, self.open = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href") and not value.startswith("#")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def made_up_results(folder):
    rng = np.random.default_rng(0)
    stills, clips = [], []
    for index, prompt in enumerate(prompts.still_prompts(30)):
        path = folder / "report" / f"{index}.png"
        save_frames(path, rng.integers(0, 256, (1, 16, 16, 3), dtype=np.uint8))
        seen = dict(prompt.expected) if index % 3 else {**prompt.expected, "subject": "bear", "worn": None}
        stills.append(JudgedStill(prompt=prompt, path=path, seen=seen))
    for index, prompt in enumerate(prompts.motion_prompts(3)):
        path = folder / "report" / f"{index}.webp"
        save_frames(path, rng.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8))
        clips.append(JudgedClip(prompt=prompt, path=path, seen="left", cosine_to_first=0.97, cosine_to_neighbour=0.98))
    drift = {"x": 0.1, "y": 0.0, "zoom": 0.0, "roll": 0.0}
    filmed = [JudgedCamera(camera="pan-left", prompt="a <bear>", path=clips[0].path, drift=drift, without=drift, right=False)]
    table = made_up_table(0.3)
    curves = {"composition": [curve(table, "composition", method, (60, 480)) for method in METHODS]}
    phenomenon = Phenomenon(
        subjects=("bear",),
        num_prompts=25,
        guidance=7.5,
        learning_rate=3e-5,
        curves=curves,
        ceiling={"composition": Figure(value=0.85, count=250, low=0.8, high=0.9)},
        differences=[paired(table)],
        photos=[stills[3].path],
        examples=[
            Example(
                prompt="a V* bear",
                pictures={BASE: {0: stills[0].path}, **{name: {60: stills[1].path, 480: stills[2].path} for name in METHODS}},
            )
        ],
        wording=["It & appears."],
    )
    figures = {
        "subject": rate([still.right("subject") for still in stills]),
        "identity": mean([0.95, 0.99]),
        "still_s": Figure(value=3.0, count=5, low=2.8, high=3.1),
        "psnr_db": Figure(value=None, note="needs icons"),
        "colour": rate([True]),
    }
    logs = {"unet": [{"step": step, "seconds": 60.0 * step, "loss": 1 / step} for step in range(1, 5)]}
    return Results(
        about={"date": "2026"},
        figures=figures,
        stills=stills,
        clips=clips,
        cameras=filmed,
        judge_accuracy={"subject": 0.98},
        logs=logs,
        phenomenon=phenomenon,
    )


def test_the_page_is_well_formed_and_misses_no_picture(tmp_path):
    results = made_up_results(tmp_path)
    text = page(results, tmp_path)
    reader = Sources()
    reader.feed(text)
    assert not reader.open and len(reader.sources) > 40
    assert all((tmp_path / source).is_file() for source in reader.sources)
    assert "://" not in text and "<script" not in text
    assert "a &lt;bear&gt;" in text and "needs icons" in text and "It &amp; appears." in text


def test_a_page_of_nothing_still_says_what_to_run(tmp_path):
    text = page(Results(about={}, figures={}), tmp_path)
    assert f"0 of {len(GOALS)} targets met" in text and "--phenomenon" in text


def test_the_json_has_plain_numbers_by_key_and_the_rest_beside_them(tmp_path):
    results = made_up_results(tmp_path)
    found = json.loads(json.dumps(as_json(results.figures, results.json_extra())))
    assert set(GOALS) <= set(found) and found["identity"] == pytest.approx(0.97) and found["worn"] is None
    assert found["details"]["still_s"]["met"] is False and found["details"]["identity"]["met"] is True
    assert found["details"]["subject"]["count"] == 30 and found["details"]["subject"]["low"] < found["subject"]
    assert found["phenomenon"]["curves"]["composition"][0]["steps"] == [60, 480]


def test_what_is_asked_and_what_is_seen_are_paired():
    def still(asked, seen):
        expected = {"subject": asked, "worn": None, "held": None, "place": "snow"}
        return JudgedStill(prompt=Prompt("", expected, 0), path=None, seen={**expected, "subject": seen})

    results = Results(about={}, figures={}, stills=[still("dog", "wolf"), still("dog", "wolf"), still("dog", "dog"), still("cat", "dog")])
    assert results.confusions("subject") == [("dog", "wolf", 2), ("cat", "dog", 1)]
    assert results.by_subject() == {"cat": (0, 1), "dog": (1, 3)}


def test_a_chart_keeps_its_points_inside():
    drawing = line_chart("a", [Line(name="one", kind="ours", x=[1, 2, 3], y=[5.0, 9.0, 7.0], lows=[4, 8, 6], highs=[6, 10, 8])])
    points = [float(value) for points in re.findall(r'points="([^"]+)"', drawing) for value in re.split("[ ,]", points)]
    assert min(points) >= 0 and max(points[::2]) <= 340 and max(points[1::2]) <= 210


def test_a_subject_is_followed_wherever_it_walks():
    frames, poses = [], []
    for step in range(4):
        frame = np.zeros((128, 128, 3), np.uint8)
        left = 20 + 15 * step
        frame[50:82, left : left + 32] = np.linspace(40, 250, 32, dtype=np.uint8)[None, :, None]
        frames.append(frame)
        poses.append(((left + 16) / 128, 66 / 128, 32 / 128, 0.0))
    cuts = likeness.followed(np.stack(frames), np.array(poses))
    assert cuts.shape == (4, 128, 128, 3)
    assert np.abs(cuts[1:].astype(int) - cuts[0]).max() <= 2, "the same wherever it is"
    assert cuts[0].mean() > 90, "and nearly all of it is the subject"


def test_the_worlds_own_moving_scenes_show_every_motion_in_turn():
    scenes = [scene for scene, _ in zip(prompts.moving_scenes(np.random.default_rng(0)), range(2 * len(MOTIONS)), strict=False)]
    assert [scene.motion for scene in scenes] == [*MOTIONS, *MOTIONS]
    assert not any(scene.camera or scene.companion or scene.blurred for scene in scenes)
