"""Measures the shipped pocket base, and writes index.html (tables, pictures, clips) and report.json.

Everything rendered is kept under the digest of the weights that made it: a stopped run goes on where it was, and a run that finds
everything there only looks at it again. The judge, CLIP and optical flow always look anew.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import click

from cdvideo.base import versions
from cdvideo.files import replace_files
from cdvideo.pocket.report import measure, phenomenon
from cdvideo.pocket.report.analysis import analyse
from cdvideo.pocket.report.figures import GOALS, as_json, missing, rate, shown
from cdvideo.pocket.report.likeness import sample_subjects
from cdvideo.pocket.report.measure import Bench
from cdvideo.pocket.report.options import numbers
from cdvideo.pocket.report.page import page
from cdvideo.pocket.report.rendering import load_base
from cdvideo.pocket.report.results import Phenomenon, Results

ROOT = Path(__file__).resolve().parents[3]
WORK = ROOT / "out" / "pocket"


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="A small version of everything, in some minutes: 40 prompts, 8 clips, 1 camera prompt.")
@click.option("--stills", type=click.IntRange(1), default=500, show_default=True, help="Held-out prompts.")
@click.option("--clips", type=click.IntRange(1), default=64, show_default=True, help="Clips with a motion.")
@click.option("--camera-prompts", type=click.IntRange(1, 6), default=6, show_default=True, help="Clips for each camera move.")
@click.option("--guidance", type=float, default=7.5, show_default=True, help="Guidance scale of everything.")
@click.option("--retime", is_flag=True, help="Measure seconds anew; nothing else should be running.")
@click.option("--phenomenon", "with_phenomenon", is_flag=True, help="Also train and render the personal subjects: an hour or two.")
@click.option("--subjects", help="Personal subjects with commas between them; all in samples/ by default.")
@click.option("--prompts", type=click.IntRange(1), default=25, show_default=True, help="Prompts for each personal subject.")
@click.option(
    "--steps", callback=numbers(int), default="60,240,480", show_default=True, help="Training steps at which a concept is looked at."
)
@click.option("--learning-rate", type=float, help="Of the personal subjects' trainings; the preset's by default.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the personal subjects' trainings.")
@click.option("--work", type=click.Path(path_type=Path), default=WORK, help="Where `make pocket` works, and this writes.")
@click.option("--processes", type=click.IntRange(0), default=len(os.sched_getaffinity(0)), help="Of one thread each; 0 works in this one.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda ...; seconds are always the CPU's.")
def main(
    quick: bool,
    stills: int,
    clips: int,
    camera_prompts: int,
    guidance: float,
    retime: bool,
    with_phenomenon: bool,
    subjects: str | None,
    prompts: int,
    steps: tuple[int, ...],
    learning_rate: float | None,
    seed: int,
    work: Path,
    processes: int,
    device: str,
) -> None:
    started = time.monotonic()
    if quick:
        stills, clips, camera_prompts = min(stills, 40), min(clips, 8), 1
    bench = Bench(work=work, guidance=guidance, processes=processes, device=device)
    figures = measure.timings(bench, again=retime)
    num_clips = clips + 9 * camera_prompts
    minutes = (stills * (figures["still_s"].value or 0) + num_clips * (figures["clip_s"].value or 0)) / 60
    click.echo(f"{stills} pictures and {num_clips} clips: about {minutes:.0f} minutes if none is there yet; stop at any time")
    figures |= measure.reconstruction(work / "icons")
    judged = measure.stills(bench, stills)
    figures |= measure.still_figures(judged)
    moving = measure.clips(bench, clips)
    figures |= measure.clip_figures(moving) | measure.world_identity(bench, work / "icons")
    filmed = measure.cameras(bench, camera_prompts)
    figures["camera"] = rate([one.right for one in filmed], "" if filmed else "no MotionLoRAs in motion_modules/pocket/loras")
    chosen = tuple(subjects.split(",")) if subjects else tuple(sample_subjects())
    chosen_plan = phenomenon.Plan(
        subjects=chosen, steps=steps, num_prompts=prompts, guidance=guidance, learning_rate=learning_rate, seed=seed
    )
    results = Results(
        about={},
        figures=figures,
        stills=judged,
        clips=moving,
        cameras=filmed,
        judge_accuracy=measure.judge_accuracy(bench, work / "icons", 100 if quick else 500),
        logs=training_logs(work),
    )
    for plan in (None, chosen_plan) if with_phenomenon else (None,):
        results.phenomenon = _phenomenon(bench, plan)
        results.about = about(bench, time.monotonic() - started)
        write(results, work)
    for key, goal in GOALS.items():
        figure = figures.get(key, missing(""))
        met = {True: "met", False: "short", None: "not measured"}[goal.met(figure)]
        click.echo(f"{key:10} {shown(figure.value, goal.unit):>9}   target {shown(goal.target, goal.unit):>8}   {met}")
    click.echo(f"page:   {work / 'index.html'}\nfigures: {work / 'report.json'}")


def _phenomenon(bench: Bench, plan: phenomenon.Plan | None) -> Phenomenon | None:
    """The phenomenon by this plan, or by the last plan that was finished with these weights."""
    kept = bench.folder / "phenomenon-plan.json"
    if plan is None:
        if not kept.exists():
            return None
        values = json.loads(kept.read_text(encoding="utf-8"))
        plan = phenomenon.Plan(
            **{**values, "subjects": tuple(values["subjects"]), "steps": tuple(values["steps"]), "arms": tuple(map(tuple, values["arms"]))}
        )
    folder = phenomenon.plan_folder(bench.work, plan, bench.folder.name)
    cells, drifts = phenomenon.run(plan, folder, processes=bench.processes, device=bench.device)
    replace_files(kept, [(kept, json.dumps(vars(plan)).encode())])
    rate_used = plan.learning_rate or load_base("cpu").preset.learning_rate
    return analyse(plan, cells, drifts, look=bench.look, clip=bench.clip, learning_rate=rate_used)


def write(results: Results, work: Path) -> None:
    figures = json.dumps(as_json(results.figures, results.json_extra()), ensure_ascii=False, indent=1, default=str)
    index = work / "index.html"
    replace_files(index, [(index, page(results, work).encode()), (work / "report.json", (figures + "\n").encode())])


def training_logs(work: Path) -> dict[str, list[dict[str, float]]]:
    paths = sorted(work.glob("*/log.jsonl"))
    return {path.parent.name: [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] for path in paths}


def about(bench: Bench, seconds: float) -> dict[str, str]:
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["python", "-m", "cdvideo.pocket.report", *sys.argv[1:]]),
        "this run took": f"{seconds / 60:.1f} minutes (what earlier runs had rendered is not counted)",
        "git commit": _commit(),
        "weights": bench.folder.name,
        "sampling": f"25 DDIM steps, guidance {bench.guidance:g}, {bench.processes} processes of one thread each",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "machine": f"{_cpu()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}",
    }


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + (" with changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
