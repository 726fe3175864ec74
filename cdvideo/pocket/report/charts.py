"""Charts as inline SVG, coloured by the page's own style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from cdvideo.pocket.report.figures import Figure, Goal

_WIDTH, _HEIGHT = 340, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 12, 30


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line through (x, y) points, with a band between lows and highs where given. `kind` is its class in the style sheet."""

    name: str
    kind: str
    x: Sequence[float]
    y: Sequence[float]
    lows: Sequence[float] = ()
    highs: Sequence[float] = ()


def line_chart(
    title: str, lines: Sequence[Line], *, percent: bool = False, level: tuple[str, float] | None = None, dots: bool = True
) -> str:
    """An SVG figure. `level` is a dashed line across with its name."""
    known = [value for line in lines for values in (line.y, line.lows, line.highs) for value in values] + ([level[1]] if level else [])
    low, high = (0.0, 1.0) if percent else _padded(min(known), max(known))
    xs = [value for line in lines for value in line.x]
    left, right = min(xs), max(xs)

    def place(x: float, y: float) -> str:
        across = (x - left) / (right - left) if right > left else 0.5
        return f"{_LEFT + across * (_WIDTH - _LEFT - _RIGHT):.1f},{_y(y, low, high):.1f}"

    parts = []
    for tick in _ticks(low, high):
        at = _y(tick, low, high)
        label = f"{100 * tick:.0f} %" if percent else f"{tick:.3g}"
        parts.append(
            f'<path class="rule" d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}"/><text x="{_LEFT - 6}" y="{at + 4:.1f}" class="end">{label}</text>'
        )
    marks = sorted(set(xs)) if len(set(xs)) <= 5 else [left, (left + right) / 2, right]
    for mark in marks:
        x = place(mark, low).split(",")[0]
        parts.append(f'<text x="{x}" y="{_HEIGHT - 10}" class="middle">{_short(mark)}</text>')
    if level:
        at = _y(level[1], low, high)
        parts.append(f'<path class="level" d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}"><title>{escape(level[0])}</title></path>')
    for line in lines:
        if line.lows:
            edge = [place(x, y) for x, y in zip(line.x, line.highs, strict=True)]
            edge += [place(x, y) for x, y in reversed(list(zip(line.x, line.lows, strict=True)))]
            parts.append(f'<polygon class="band {line.kind}" points="{" ".join(edge)}"/>')
        points = [place(x, y) for x, y in zip(line.x, line.y, strict=True)]
        parts.append(f'<polyline class="line {line.kind}" points="{" ".join(points)}"/>')
        if dots:
            for point, value in zip(points, line.y, strict=True):
                x, y = point.split(",")
                said = f"{100 * value:.0f} %" if percent else f"{value:.3f}"
                parts.append(
                    f'<circle class="dot {line.kind}" cx="{x}" cy="{y}" r="3.5"><title>{escape(line.name)}: {said}</title></circle>'
                )
    drawing = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawing}</figure>"


def interval_bar(figure: Figure, goal: Goal) -> str:
    """A rate's or cosine's value, interval and target on a bar from 0 to 1; nothing for other units."""
    if goal.unit not in ("%", "") or figure.value is None:
        return ""
    low, high = figure.low or 0.0, figure.high or 0.0
    return (
        '<svg class="bar" viewBox="0 0 200 16" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" y="6" width="200" height="4"/>'
        f'<rect class="fill" y="6" width="{200 * figure.value:.1f}" height="4"/>'
        f'<rect class="spread" x="{200 * low:.1f}" y="3" width="{max(1.0, 200 * (high - low)):.1f}" height="10"/>'
        f'<rect class="target" x="{200 * goal.target - 1:.1f}" y="0" width="2" height="16"/></svg>'
    )


def _y(value: float, low: float, high: float) -> float:
    return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return (0.0 if 0 <= low < 0.3 * high else low - margin), high + margin


def _ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _short(value: float) -> str:
    return f"{value / 1000:.3g}k" if value >= 10_000 else f"{value:.0f}"
