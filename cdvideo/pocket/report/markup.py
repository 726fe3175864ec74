"""Pieces of HTML that several sections of the page use. Everything passed as text is escaped here."""

from __future__ import annotations

import os
from collections.abc import Iterable
from html import escape
from pathlib import Path


def table(heads: Iterable[str], rows: Iterable[str], columns: str) -> str:
    """A table whose columns are of kinds: one letter each of t(ext), n(umber) and c(hart)."""
    cells = "".join(f'<th class="{_KINDS[kind]}">{escape(head)}</th>' for head, kind in zip(heads, columns, strict=True))
    return f'<div class="card"><table><thead><tr>{cells}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def row(columns: str, *cells: str) -> str:
    """A row of cells that are HTML already, of the same kinds as the table's; also v(alue) and s(oft number)."""
    return "<tr>" + "".join(f'<td class="{_KINDS[kind]}">{cell}</td>' for kind, cell in zip(columns, cells, strict=True)) + "</tr>"


_KINDS = {"t": "text", "n": "number", "c": "chart", "v": "number value", "s": "number soft"}


def badge(right: bool, yes: str, no: str) -> str:
    return f'<span class="badge {"yes" if right else "no"}">{"✓" if right else "✗"} {escape(yes if right else no)}</span>'


def tick(right: bool, text: str) -> str:
    return f'<span class="tick {"yes" if right else "no"}">{"✓" if right else "✗"} {escape(text)}</span>'


def image(path: Path, folder: Path, text: str) -> str:
    """A picture or clip, named relative to the page's folder."""
    return f'<img loading="lazy" src="{escape(os.path.relpath(path, folder))}" alt="{escape(text)}">'


def captioned(picture: str, text: str, ticks: str = "", below: str = "") -> str:
    return f'<figure>{picture}<figcaption>{escape(text)}<div class="ticks">{ticks}</div>{below}</figcaption></figure>'
