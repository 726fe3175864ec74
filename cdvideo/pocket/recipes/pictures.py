"""Pictures of a training: its curve, and grids of what a part makes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

INK, GRID, LINE = (40, 44, 52), (226, 228, 232), (32, 108, 196)
PANEL_WIDTH, PANEL_HEIGHT, EDGE = 360, 180, 44


def draw_curve(log: Path, path: Path) -> None:
    """One panel for each figure in a `log.jsonl`, over the minutes of training."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    names = [name for name in dict.fromkeys(name for line in lines for name in line) if name not in ("step", "seconds", "samples")]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    sheet = Image.new("RGB", (columns * PANEL_WIDTH, rows * PANEL_HEIGHT), "white")
    for index, name in enumerate(names):
        points = [(line["seconds"] / 60, line[name]) for line in lines if name in line]
        sheet.paste(_panel(name, points), (index % columns * PANEL_WIDTH, index // columns * PANEL_HEIGHT))
    sheet.save(path)


def _panel(name: str, points: Sequence[tuple[float, float]]) -> Image.Image:
    panel = Image.new("RGB", (PANEL_WIDTH, PANEL_HEIGHT), "white")
    draw = ImageDraw.Draw(panel)
    end = max(at for at, _ in points)
    low, high = min(value for _, value in points), max(value for _, value in points)

    def place(at: float, value: float) -> tuple[float, float]:
        x = EDGE + at / (end or 1) * (PANEL_WIDTH - EDGE - 12)
        return x, PANEL_HEIGHT - 24 - (value - low) / ((high - low) or 1) * (PANEL_HEIGHT - 52)

    for share in (0.0, 0.5, 1.0):
        value = low + share * (high - low)
        draw.line([place(0, value), place(end, value)], fill=GRID)
        draw.text((4, place(0, value)[1] - 6), f"{value:.3g}", fill=INK)
    draw.line([place(*point) for point in points], fill=LINE, width=2)
    draw.text((EDGE, 6), f"{name}: {points[-1][1]:.4g}", fill=INK)
    draw.text((PANEL_WIDTH - 74, PANEL_HEIGHT - 16), f"{end:.1f} min", fill=INK)
    return panel


def grid(pictures: Sequence[Image.Image], columns: int, captions: Sequence[str] | None = None) -> Image.Image:
    """Pictures of one size in rows, each above its caption."""
    width, height = pictures[0].size
    letters, room = max(8, width // 6), 34 if captions else 0
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * (height + room)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, picture in enumerate(pictures):
        left, top = index % columns * width, index // columns * (height + room)
        sheet.paste(picture, (left, top))
        if captions:
            text = captions[index]
            lines = [text[start : start + letters] for start in range(0, min(len(text), 3 * letters), letters)]
            draw.text((left + 2, top + height), "\n".join(lines), fill=INK, spacing=0)
    return sheet
