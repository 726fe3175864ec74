"""What the phenomenon's pictures say: curves over training steps, paired differences, and sentences that follow from the numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdvideo.evaluate.clip import Clip
from cdvideo.pocket.report.figures import Figure
from cdvideo.pocket.report.intervals import bootstrap
from cdvideo.pocket.report.likeness import colour_likeness, read_photos, sample_subjects
from cdvideo.pocket.report.phenomenon import BASE, METHODS, Cell, Plan, without_token
from cdvideo.pocket.report.rendering import read_frames
from cdvideo.pocket.report.results import Curve, Difference, Example, Label, Phenomenon
from cdvideo.pocket.report.shelf import Record

CUSTOM, OURS = METHODS
MEASURES: dict[str, str] = {
    "composition": "Worn, held and place right",
    "things": "Worn and held right",
    "subject": "Subject class right",
    "text": "Text alignment (CLIP-T)",
    "likeness": "Likeness to the photos (CLIP-I)",
    "colours": "Likeness to the photos (colours)",
    "drift": "Distance of “a photo of a V* bear” from the class (D_cos)",
}
PICTURE_MEASURES = tuple(name for name in MEASURES if name != "drift")
NUM_EXAMPLES = 3

Look = Callable[[NDArray[np.uint8]], list[dict[str, Label]]]
Table = dict[tuple[str, int], dict[str, list[list[float]]]]
"""(method, steps) -> measure -> one list for each subject, in the order of its prompts."""


def analyse(
    plan: Plan, cells: dict[str, Cell], drifts: dict[str, Record], *, look: Look, clip: Clip | None, learning_rate: float
) -> Phenomenon:
    table = measured(plan, cells, look, clip)
    for method in METHODS:
        for steps in plan.steps:
            table[method, steps]["drift"] = [[drifts[f"{subject} {method}"]["drift"][str(steps)]] for subject in plan.subjects]
    names = [name for name in MEASURES if table[CUSTOM, plan.steps[0]].get(name)]
    curves = {name: [curve(table, name, method, plan.steps) for method in METHODS] for name in names}
    ceiling = {name: _figure(table[BASE, 0][name]) for name in names if name != "drift"}
    differences = [difference(table, name, (OURS, steps), (CUSTOM, steps)) for name in names for steps in plan.steps]
    changes = {method: difference(table, "composition", (method, plan.steps[-1]), (method, plan.steps[0])) for method in METHODS}
    return Phenomenon(
        subjects=plan.subjects,
        num_prompts=plan.num_prompts,
        guidance=plan.guidance,
        learning_rate=learning_rate,
        curves=curves,
        ceiling=ceiling,
        differences=differences,
        photos=sample_subjects()[plan.subjects[0]],
        examples=_examples(plan, cells),
        wording=wording(curves, ceiling, differences, changes),
    )


def measured(plan: Plan, cells: dict[str, Cell], look: Look, clip: Clip | None) -> Table:
    groups: dict[tuple[str, int, str], list[Cell]] = defaultdict(list)
    for cell in cells.values():
        groups[cell.method, cell.steps, cell.subject].append(cell)
    photos = {subject: read_photos(paths) for subject, paths in sample_subjects().items() if subject in plan.subjects}
    photo_features = {subject: clip.images(frames) for subject, frames in photos.items()} if clip else {}
    table: Table = defaultdict(lambda: defaultdict(list))
    for (method, steps, subject), members in groups.items():
        frames = np.concatenate([read_frames(cell.path) for cell in members])
        row: dict[str, list[float]] = {name: [] for name in ("composition", "things", "subject")}
        for cell, seen in zip(members, look(frames), strict=True):
            right = {part: seen[part] == cell.prompt.expected[part] for part in cell.prompt.named}
            things = [right[part] for part in ("worn", "held") if part in right]
            row["composition"].append(float(all([*things, right["place"]])))
            row["things"].append(float(all(things)))
            row["subject"].append(float(right["subject"]))
        row["colours"] = [float(value) for value in colour_likeness(frames, photos[subject])]
        if clip:
            images = clip.images(frames)
            texts = clip.texts([without_token(cell.prompt.text) for cell in members])
            row["text"] = (images * texts).sum(-1).tolist()
            row["likeness"] = (images @ photo_features[subject].T).mean(-1).tolist()
        for name, values in row.items():
            table[method, steps][name].append(values)
    return table


def _figure(groups: Sequence[Sequence[float]]) -> Figure:
    low, high = bootstrap(groups)
    values = [value for group in groups for value in group]
    return Figure(value=float(np.mean(values)), count=len(values), low=low, high=high)


def curve(table: Table, measure: str, method: str, steps: tuple[int, ...]) -> Curve:
    figures = [_figure(table[method, number][measure]) for number in steps]
    return Curve(
        method=method,
        steps=steps,
        values=tuple(figure.value or 0.0 for figure in figures),
        lows=tuple(figure.low or 0.0 for figure in figures),
        highs=tuple(figure.high or 0.0 for figure in figures),
    )


def difference(table: Table, measure: str, arm: tuple[str, int], other: tuple[str, int]) -> Difference:
    """One arm minus the other, paired by subject, prompt and noise; the interval draws subjects, then their prompts."""
    pairs = zip(table[arm][measure], table[other][measure], strict=True)
    groups = [(np.asarray(ours) - np.asarray(theirs)).tolist() for ours, theirs in pairs]
    low, high = bootstrap(groups)
    value = float(np.mean([value for group in groups for value in group]))
    return Difference(measure=measure, steps=arm[1], value=value, low=low, high=high)


_CHANGES = {"higher": "it grows.", "lower": "it falls.", "not told apart": "no change that these pictures can show."}
_COSTS = {"higher": "no cost.", "lower": "the cost of keeping the class.", "not told apart": "no cost that these pictures can show."}


def wording(
    curves: dict[str, list[Curve]], ceiling: dict[str, Figure], differences: list[Difference], changes: dict[str, Difference]
) -> list[str]:
    """What may be said and no more: every sentence follows from an interval. `changes` are each method's, last minus first."""
    custom, ours = curves["composition"]
    first, last = custom.steps[0], custom.steps[-1]
    at_last = {one.measure: one for one in differences if one.steps == last}
    sentences = [f"The base, asked for the class alone, gets {ceiling['composition'].value or 0:.0%} of the compositions right."]
    for line in (custom, ours):
        change = changes[line.method]
        way = f"from {line.values[0]:.0%} at {first} steps to {line.values[-1]:.0%} at {last}"
        sentences.append(f"{line.method} goes {way}, {_points(change)}: {_CHANGES[change.verdict]}")
    composed = at_last["composition"]
    sentences.append(f"At {last} steps ClassDiffusion minus Custom Diffusion is {_points(composed)}: {_effect(composed, changes[CUSTOM])}")
    for name in ("likeness", "colours"):
        if cost := at_last.get(name):
            told = {
                "higher": "no cost.",
                "lower": "the cost of keeping the class.",
                "not told apart": "no cost that these pictures can show.",
            }
            sentences.append(f"{MEASURES[name]}: {cost.value:+.3f} ({cost.low:+.3f} to {cost.high:+.3f}), {told[cost.verdict]}")
    if "drift" in curves:
        away, kept = (line.values[-1] for line in curves["drift"])
        where = f"{away:.3f} with Custom Diffusion and {kept:.3f} with ClassDiffusion"
        sentences.append(f"In text space “a photo of a V* …” lies so far from its class after {last} steps: {where}.")
    return sentences


def _points(one: Difference) -> str:
    return f"{100 * one.value:+.0f} points (95 %: {100 * one.low:+.0f} to {100 * one.high:+.0f})"


def _effect(composed: Difference, custom_change: Difference) -> str:
    if composed.verdict == "higher":
        return "the paper’s effect appears." if custom_change.verdict == "lower" else "it composes better, but not because the other falls."
    if composed.verdict == "lower":
        return "the opposite of the paper’s effect."
    return "the two cannot be told apart, so the paper’s effect does not show in these pictures."


def _examples(plan: Plan, cells: dict[str, Cell]) -> list[Example]:
    """The first prompts of the first subject: not chosen by what they show."""
    subject = plan.subjects[0]
    examples = []
    for number in range(min(NUM_EXAMPLES, plan.num_prompts)):
        members = [cell for cell in cells.values() if cell.subject == subject and cell.number == number]
        pictures: dict[str, dict[int, Path]] = {name: {} for name in (BASE, *METHODS)}
        for cell in members:
            pictures[cell.method][cell.steps] = cell.path
        examples.append(Example(prompt=members[0].prompt.text, pictures=pictures))
    return examples
