"""The paper's Table 3 in miniature: what each weight of the semantic preservation loss does after each number of steps.

Trains every subject once with each weight, draws its prompts at each number of steps, and writes the means as weights.md and weights.json.
What is there already is not done again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
import numpy as np

from cdvideo.files import replace_files
from cdvideo.pocket.report import phenomenon
from cdvideo.pocket.report.__main__ import WORK
from cdvideo.pocket.report.analysis import MEASURES, measured
from cdvideo.pocket.report.measure import Bench
from cdvideo.pocket.report.options import numbers
from cdvideo.pocket.report.phenomenon import BASE

Row = dict[str, float | int | str]


@click.command(help=__doc__)
@click.option(
    "--spl-weights", callback=numbers(float), default="0,0.01,0.1,1,10,100", show_default=True, help="Weights with commas between them."
)
@click.option(
    "--steps", callback=numbers(int), default="60,240,480", show_default=True, help="Training steps at which a concept is looked at."
)
@click.option("--subjects", default="bear,dog,cat", show_default=True, help="Subjects in samples/ with commas between them.")
@click.option("--prompts", type=click.IntRange(1), default=25, show_default=True, help="Prompts for each subject.")
@click.option("--guidance", type=float, default=7.5, show_default=True)
@click.option("--learning-rate", type=float, help="For one picture; the preset's by default.")
@click.option("--work", type=click.Path(path_type=Path), default=WORK, help="Where this writes.")
@click.option("--processes", type=click.IntRange(0), default=len(os.sched_getaffinity(0)), help="Of one thread each; 0 works in this one.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda ...")
def main(
    spl_weights: tuple[float, ...],
    steps: tuple[int, ...],
    subjects: str,
    prompts: int,
    guidance: float,
    learning_rate: float | None,
    work: Path,
    processes: int,
    device: str,
) -> None:
    bench = Bench(work=work, guidance=guidance, processes=processes, device=device)
    plan = phenomenon.Plan(
        subjects=tuple(subjects.split(",")),
        steps=steps,
        num_prompts=prompts,
        guidance=guidance,
        learning_rate=learning_rate,
        arms=tuple((f"SPL {weight:g}", weight) for weight in spl_weights),
    )
    folder = phenomenon.plan_folder(work, plan, bench.folder.name)
    cells, drifts = phenomenon.run(plan, folder, processes=processes, device=device)
    table = measured(plan, cells, bench.look, bench.clip)
    weights = dict(plan.arms)
    rows: list[Row] = []
    for (method, number), values in sorted(table.items(), key=lambda item: (weights.get(item[0][0], -1.0), item[0][1])):
        row: Row = {"spl_weight": BASE if method == BASE else weights[method], "steps": number}
        row |= {name: float(np.mean([value for group in values[name] for value in group])) for name in MEASURES if name in values}
        if method != BASE:
            row["drift"] = float(np.mean([drifts[f"{subject} {method}"]["drift"][str(number)] for subject in plan.subjects]))
        rows.append(row)
    text = _markdown(rows)
    outputs = [(work / "weights.md", text.encode()), (work / "weights.json", (json.dumps(rows, indent=1) + "\n").encode())]
    replace_files(work / "weights.md", outputs)
    click.echo(text)
    click.echo(f"table: {work / 'weights.md'}")


def _markdown(rows: list[Row]) -> str:
    names = [name for name in MEASURES if any(name in row for row in rows)]
    lines = ["| λ | steps | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 2)]
    for row in rows:
        figures = [f"{row[name]:.3f}" if name in row else "" for name in names]
        lines.append("| " + " | ".join([str(row["spl_weight"]), str(row["steps"]), *figures]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
