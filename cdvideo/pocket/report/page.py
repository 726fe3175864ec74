"""The report's page: one HTML file whose pictures lie beside it. It opens from the disk, with no network and no script."""

from __future__ import annotations

from html import escape
from pathlib import Path

from cdvideo.pocket.report import gallery
from cdvideo.pocket.report.analysis import MEASURES
from cdvideo.pocket.report.charts import Line, interval_bar, line_chart
from cdvideo.pocket.report.figures import ALSO, GOALS, JUDGE_TARGET, Figure, shown
from cdvideo.pocket.report.markup import badge, row, table
from cdvideo.pocket.report.results import Phenomenon, Results

COMMAND = "make pocket-report"
PHENOMENON_COMMAND = ".venv/bin/python -m cdvideo.pocket.report --phenomenon"
RATES = ("composition", "things", "subject")
_KINDS = {"Custom Diffusion": "custom", "ClassDiffusion": "ours"}
_COUNTERS = {"step", "seconds", "samples", "clips"}
_HEAD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    "<title>The pocket base, measured</title>"
)


def page(results: Results, folder: Path) -> str:
    """The whole page, for an `index.html` in `folder`: pictures are named relative to it."""
    sections = {
        "figures": ("Figures", _headline(results)),
        "pictures": ("Held-out prompts", gallery.random_stills(results.stills, folder)),
        "failures": ("What goes wrong", gallery.failures(results, folder)),
        "subjects": ("Subject by subject", _subjects(results)),
        "clips": ("Clips", gallery.clips(results.clips, folder)),
        "cameras": ("Camera", gallery.cameras(results.cameras, folder)),
        "phenomenon": ("The paper’s phenomenon in miniature", _phenomenon(results.phenomenon, folder)),
        "training": ("How the parts were trained", _training(results.logs)),
        "about": ("About this report", _about(results)),
    }
    filled = {name: section for name, section in sections.items() if section[1]}
    links = "".join(f'<a href="#{name}">{title}</a>' for name, (title, _) in filled.items())
    body = "".join(f'<section id="{name}"><h2>{title}</h2>{content}</section>' for name, (title, content) in filled.items())
    met = [goal.met(results.figures[key]) if key in results.figures else None for key, goal in GOALS.items()]
    unmeasured = f", {met.count(None)} not measured" if None in met else ""
    lead = f"{met.count(True)} of {len(GOALS)} targets met{unmeasured}. {escape(results.about.get('date', ''))}"
    style = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    top = f'<h1>The pocket base, measured</h1><p class="lead">{lead}</p><nav>{links}</nav>'
    return f"{_HEAD}<style>{style}</style></head><body><main>{top}{body}</main></body></html>\n"


def _headline(results: Results) -> str:
    intro = (
        "<p>An independent judge, trained on scenes and never on the model’s own pictures, looks at what the model makes of prompts drawn "
        f"from seeds that no training used. Rates carry Wilson intervals, means bootstrap intervals. <code>{COMMAND}</code></p>"
    )
    rows = []
    for key, goal in GOALS.items():
        figure = results.figures.get(key, Figure(value=None, note="not measured"))
        met = goal.met(figure)
        rows.append(
            row(
                "tvscnst",
                _titled(goal.title, figure),
                shown(figure.value, goal.unit),
                _spread(figure, goal.unit),
                interval_bar(figure, goal),
                f"{'at most' if goal.at_most else 'at least'} {shown(goal.target, goal.unit)}",
                str(figure.count or ""),
                '<span class="badge none">not measured</span>' if met is None else badge(met, "met", "short"),
            )
        )
    return intro + table(("Measure", "Value", "95 %", "", "Target", "n", ""), rows, "tnncnnt") + _also(results)


def _titled(title: str, figure: Figure) -> str:
    return f"{escape(title)}<small>{escape(figure.note)}</small>"


def _spread(figure: Figure, unit: str) -> str:
    return f"{shown(figure.low, unit)} … {shown(figure.high, unit)}" if figure.low is not None else ""


def _also(results: Results) -> str:
    others = [
        row("tnss", _titled(title, figure), shown(figure.value, unit), _spread(figure, unit), str(figure.count))
        for key, (title, unit) in ALSO.items()
        if (figure := results.figures.get(key)) and figure.value is not None
    ]
    judge = [
        row("tnt", escape(name.replace("_", ", where ")), shown(accuracy, "%"), badge(accuracy >= JUDGE_TARGET, "met", "short"))
        for name, accuracy in results.judge_accuracy.items()
    ]
    parts = ""
    if others:
        parts += f"<div><h3>Also measured</h3>{table(('Measure', 'Value', '95 %', 'n'), others, 'tnnn')}</div>"
    if judge:
        parts += f"<div><h3>The judge itself, on held-out scenes</h3>{table(('Label', 'Right', 'at least 97 %'), judge, 'tnt')}</div>"
    return f'<div class="columns">{parts}</div>'


def _subjects(results: Results) -> str:
    ordered = sorted(results.by_subject().items(), key=lambda entry: (entry[1][0] / entry[1][1], entry[0]))
    bars = "".join(
        f'<div><span>{escape(name)}</span><i><b style="width:{100 * right / count:.0f}%"></b></i><small>{right} / {count}</small></div>'
        for name, (right, count) in ordered
    )
    return f'<p>How often the judge sees the class that was asked for, the hardest first.</p><div class="bars">{bars}</div>' if bars else ""


def _phenomenon(found: Phenomenon | None, folder: Path) -> str:
    command = f"<code>{PHENOMENON_COMMAND}</code>"
    if found is None:
        return f"<p>Not measured yet: {command} takes an hour or two on two cores, and can be stopped at any time.</p>"
    told = "".join(f"<li>{escape(sentence)}</li>" for sentence in found.wording)
    kinds = {**_KINDS, "the base, asked for the class alone": "base"}
    legend = "".join(f'<span><i class="{kind}"></i>{name}</span>' for name, kind in kinds.items())
    intro = (
        f"<p>{len(found.subjects)} personal subjects ({escape(', '.join(found.subjects))}) × {found.num_prompts} prompts, "
        f"guidance {found.guidance:g}, learning rate {found.learning_rate:g}. The same prompts and noise for every method; intervals draw "
        f"subjects, then their prompts. {command}</p>"
    )
    rows = [
        row("tnns", escape(MEASURES[one.measure]), str(one.steps), f"{one.value:+.3f}", f"{one.low:+.3f} … {one.high:+.3f}")
        for one in found.differences
    ]
    heads = ("ClassDiffusion minus Custom Diffusion", "Steps", "Difference", "95 %")
    examples = "".join(gallery.matrix(example, folder) for example in found.examples)
    return (
        f'{intro}<ul>{told}</ul><div class="legend">{legend}</div><div class="charts">{_curves(found)}</div>'
        f"<h3>What {escape(found.subjects[0])} was learnt from, and its first prompts over training steps</h3>"
        f"{gallery.strip(found.photos, folder)}{examples}"
        f"<h3>Paired differences</h3>{table(heads, rows, 'tnnn')}"
    )


def _curves(found: Phenomenon) -> str:
    charts = ""
    for measure, curves in found.curves.items():
        lines = [
            Line(name=curve.method, kind=_KINDS[curve.method], x=curve.steps, y=curve.values, lows=curve.lows, highs=curve.highs)
            for curve in curves
        ]
        base = found.ceiling.get(measure)
        level = ("the base", base.value) if base and base.value is not None else None
        charts += line_chart(MEASURES[measure], lines, percent=measure in RATES, level=level)
    return charts


def _training(logs: dict[str, list[dict[str, float]]]) -> str:
    charts = ""
    for part, lines in logs.items():
        for key in dict.fromkeys(key for line in lines for key in line if key not in _COUNTERS):
            points = [(line["seconds"] / 60, line[key]) for line in lines if key in line and "seconds" in line]
            if len(points) > 1:
                minutes, values = zip(*points, strict=True)
                line = Line(name=key, kind="ours", x=minutes, y=values)
                charts += line_chart(f"{part}: {key.replace('_', ' ')}, over minutes", [line], dots=False)
    return f'<div class="charts">{charts}</div>' if charts else ""


def _about(results: Results) -> str:
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in results.about.items()) + "</dl>"
