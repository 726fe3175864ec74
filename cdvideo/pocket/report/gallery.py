"""The page's pictures: stills and clips, each under its own words with what the judge says of it."""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np

from cdvideo.pocket.report.markup import captioned, image, row, table, tick
from cdvideo.pocket.report.results import PARTS, Example, JudgedCamera, JudgedClip, JudgedStill, Results

NUM_RANDOM, NUM_FAILURES, NUM_CONFUSIONS = 64, 48, 8


def random_stills(stills: list[JudgedStill], folder: Path) -> str:
    if not stills:
        return ""
    chosen = np.random.default_rng(0).permutation(len(stills))[:NUM_RANDOM]
    pictures = "".join(_still(stills[index], folder) for index in chosen)
    intro = f"{len(chosen)} of {len(stills)}, drawn at random. Below each: the prompt, and what the judge sees of it."
    return f'<p>{intro}</p><div class="grid">{pictures}</div>'


def _still(still: JudgedStill, folder: Path) -> str:
    ticks = ""
    for part in PARTS:
        if part in still.prompt.named:
            asked = still.prompt.expected[part] or ""
            ticks += tick(still.right(part), asked if still.right(part) else still.seen[part] or f"no {asked}")
    return captioned(image(still.path, folder, still.prompt.text), still.prompt.text, ticks)


def failures(results: Results, folder: Path) -> str:
    wrong = [still for still in results.stills if not still.all_right]
    if not wrong:
        return ""
    lists = ""
    for part in PARTS:
        if pairs := results.confusions(part)[:NUM_CONFUSIONS]:
            rows = [row("ts", f"{escape(asked)} → {escape(seen)}", str(times)) for asked, seen, times in pairs]
            lists += f"<div>{table((f'{part}: asked → seen', 'times'), rows, 'tn')}</div>"
    pictures = "".join(_still(still, folder) for still in wrong[:NUM_FAILURES])
    first = min(NUM_FAILURES, len(wrong))
    intro = f"{len(wrong)} of {len(results.stills)} pictures miss a part. What is taken for what, and the first {first} of them."
    return f'<p>{intro}</p><div class="columns">{lists}</div><div class="grid">{pictures}</div>'


def clips(judged: list[JudgedClip], folder: Path) -> str:
    if not judged:
        return ""
    figures = ""
    for clip in judged:
        asked = clip.prompt.expected["motion"] or ""
        verdict = tick(clip.right, asked if clip.right else f"{clip.seen or 'none'}, not {asked}")
        cosine = f'<span class="soft">{clip.cosine_to_neighbour:.3f}</span>' if clip.cosine_to_neighbour is not None else ""
        figures += captioned(image(clip.path, folder, clip.prompt.text), clip.prompt.text, f"{verdict} {cosine}")
    intro = (
        "Every motion in turn. The judge follows the subject to say how it moves; the number is the mean CLIP cosine of the subject "
        "from frame to frame."
    )
    return f'<p>{intro}</p><div class="grid wide">{figures}</div>'


def cameras(judged: list[JudgedCamera], folder: Path) -> str:
    if not judged:
        return ""
    blocks = ""
    for name in dict.fromkeys(one.camera for one in judged):
        members = [one for one in judged if one.camera == name]
        figures = ""
        for one in members:
            drift = " ".join(f"{part} {value:+.2f}" for part, value in one.drift.items())
            verdict = tick(one.right, "moves so" if one.right else "does not")
            figures += captioned(image(one.path, folder, f"{name}: {one.prompt}"), one.prompt, verdict, f"<small>{drift}</small>")
        right = sum(one.right for one in members)
        blocks += f'<h3>{escape(name)} · {right} of {len(members)}</h3><div class="grid wide">{figures}</div>'
    intro = (
        "The same prompt and noise with and without each MotionLoRA. Optical flow measures how far the content moves, as fractions of the "
        "picture: to the right, down, growing, turning clockwise. A camera that pans left sees everything move right. Right means that the "
        "named part is the largest, has the right sign, and exceeds the clip without the LoRA."
    )
    return f"<p>{intro}</p>{blocks}"


def matrix(example: Example, folder: Path) -> str:
    """One prompt: a row for each method and a column for each number of steps, after the base's picture, which has none."""
    base, *methods = example.pictures
    steps = sorted({number for method in methods for number in example.pictures[method]})
    cells = ["<span></span>", "<span>the base</span>", *(f"<span>{number} steps</span>" for number in steps)]
    for method in methods:
        pictures = [example.pictures[base][0], *(example.pictures[method][number] for number in steps)]
        cells.append(f'<span class="row">{escape(method)}</span>')
        cells += [image(path, folder, f"{method}: {example.prompt}") for path in pictures]
    columns = f"grid-template-columns: 130px repeat({len(steps) + 1}, minmax(80px, 180px))"
    return f'<p>“{escape(example.prompt)}”</p><div class="matrix" style="{columns}">{"".join(cells)}</div>'


def strip(photos: list[Path], folder: Path) -> str:
    pictures = "".join(image(path, folder, path.stem) for path in photos)
    return f'<div class="photos">{pictures}</div>'
