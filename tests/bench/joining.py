"""Which way of joining two concepts keeps both in one picture, into out/bench/joining.json: what `--joining`'s default rests on.

Pairs of personal subjects are trained one by one, and together. Then the same prompts and seeds are drawn with the concepts joined at
their own words (local), merged into one (merge), and with the one that was trained for both (together); the base, asked for the plain
classes, is the ceiling. Pocket's judge says whether both classes are in a picture, CLIP how like it is to the photos of each.
Trainings that lie in out/bench/joining/ already are not made again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cdvideo import base
from cdvideo.animate import Studio
from cdvideo.concept import Concept
from cdvideo.evaluate.clip import Clip
from cdvideo.pocket.judge import Judge
from cdvideo.pocket.report.likeness import read_photos, sample_subjects
from cdvideo.video import contact_sheet
from tests.bench.record import FOLDER, Record, conditions, table

PAIRS = (("bear", "cat"), ("dog", "rabbit"), ("bear", "sunglasses"), ("cat", "sunglasses"))
PLACES = ("on the beach", "in the snow", "in the forest", "on the street", "on a blue background", "on the grass")
WORKSHOP = FOLDER / "joining"
WAYS = ("local", "merge", "together", "base")


def trained(pair: tuple[str, ...]) -> Path:
    """The concept file of these subjects, trained together where they are several."""
    out = WORKSHOP / f"{'-'.join(pair)}.safetensors"
    if not out.exists():
        WORKSHOP.mkdir(parents=True, exist_ok=True)
        config = WORKSHOP / f"{'-'.join(pair)}.yaml"
        entries = "".join(f"  - {{images: samples/{word}, class: {word}}}\n" for word in pair)
        config.write_text(f"concepts:\n{entries}base: pocket\nout: {out}\n", encoding="utf-8")
        subprocess.run([sys.executable, "-m", "cdvideo", "train", str(config)], check=True)
    return out


def prompts_of(pair: tuple[str, str], *, with_tokens: bool) -> list[str]:
    first, second = (f"V{number}* {word}" for number, word in enumerate(pair, 1)) if with_tokens else pair
    both = f"a {first} wearing {second}" if pair[1] == "sunglasses" else f"a {first} next to a {second}"
    return [f"{both} {place}" for place in PLACES]


def open_studio(way: str, pair: tuple[str, str]) -> Studio:
    loaded = base.load("pocket", device="cpu", dtype="fp32")
    if way == "base":
        return Studio(loaded)
    if way == "together":
        return Studio(loaded, [Concept.load(trained(pair))])
    return Studio(loaded, [Concept.load(trained((word,))) for word in pair], joining=way)


def drawn(way: str, pair: tuple[str, str], num_seeds: int) -> Any:
    """Pictures (N, H, W, 3) uint8: every prompt with every seed."""
    with open_studio(way, pair) as studio:
        prompts = prompts_of(pair, with_tokens=way != "base")
        return np.concatenate([studio.still(prompt, seed=seed).frames for prompt in prompts for seed in range(num_seeds)])


def measure(way: str, num_seeds: int, judge: Judge, clip: Clip) -> dict[str, Any]:
    both, likenesses, rows = [], [], []
    photos = sample_subjects()
    for pair in PAIRS:
        pictures = drawn(way, pair, num_seeds)
        rows.append(pictures[:: max(1, len(pictures) // len(PLACES))])
        seen = judge.look(pictures)
        for subjects, worn in zip(seen.subjects, seen.labels["worn"], strict=True):
            both.append(all(word in subjects or word == worn for word in pair))
        likenesses += [clip.likeness(pictures, read_photos(photos[word])) for word in pair]
    contact_sheet(rows, len(PLACES), [f"{way}: {' and '.join(pair)}" for pair in PAIRS]).save(WORKSHOP / f"{way}.png")
    return {"both_percent": round(100 * float(np.mean(both)), 1), "likeness": round(float(np.mean(likenesses)), 3), "pictures": len(both)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.joining", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=4, help="pictures of each prompt")
    given = parser.parse_args()
    for pair in PAIRS:
        for subjects in (pair, *((word,) for word in pair)):
            trained(subjects)
    record, judge, clip = Record("joining"), Judge.load(), Clip()
    record.put(conditions=conditions())
    for way in WAYS:
        record.put(**{way: measure(way, given.seeds, judge, clip)})
    rows = [
        (way, f"{record.values[way]['both_percent']:.1f} % show both", f"likeness {record.values[way]['likeness']:.3f}") for way in WAYS
    ]
    print(table(rows))
    print(f"all of it: {record.path}; pictures: {WORKSHOP}")


if __name__ == "__main__":
    main()
