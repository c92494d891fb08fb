"""Charts as SVG, written by hand: bars for ratios, lines for what depends on size."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import Mapping, Sequence

COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#9c755f", "#edc948")
STYLE = "font-family:sans-serif;font-size:12px"


def _page(width: int, height: int, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" style="{STYLE}">'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="white"/>', *parts, "</svg>\n"])


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def bars(path: Path, title: str, rows: Mapping[str, Mapping[str, float]], line: float = 1.0) -> None:
    """Horizontal bars: a row for each workload, a bar for each system; `line` marks what is equal to native."""
    series = list(dict.fromkeys(name for row in rows.values() for name in row))
    colour = {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(series)}
    left, bar, width = 300, 11, 1000
    longest = max(1.3, min(2.5, max((v for row in rows.values() for v in row.values()), default=1)))
    scale = (width - left - 70) / longest
    parts, y = [_text(10, 20, title)], 40.0
    for at, name in enumerate(series):
        parts.append(f'<rect x="{10 + at * 165}" y="30" width="10" height="10" fill="{colour[name]}"/>')
        parts.append(_text(24 + at * 165, 39, name))
    top = y = 55.0
    for label, row in rows.items():
        parts.append(_text(left - 8, y + bar * len(row) / 2 + 4, label, "end"))
        for name, value in row.items():
            length = min(value, longest) * scale
            parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 1}" fill="{colour[name]}"/>')
            parts.append(_text(left + length + 4, y + bar - 2, f"{value:.2f}"))
            y += bar
        y += 8
    x = left + line * scale
    parts.append(f'<line x1="{x}" y1="{top}" x2="{x}" y2="{y}" stroke="#333" stroke-dasharray="4 3"/>')
    path.write_text(_page(width, int(y + 15), parts))


def lines(
    path: Path, title: str, x_title: str, y_title: str, series: Mapping[str, Sequence[tuple[float, float]]]
) -> None:
    """Lines over a logarithmic x axis (0 stands at its left end); y begins at 0."""
    points = [point for line in series.values() for point in line]
    if not points:
        return
    width, height, left, bottom, top = 900, 420, 80, 50, 60
    positive = [x for x, _ in points if x > 0] or [1.0]
    low, high = math.log10(min(positive)), math.log10(max(positive))
    has_zero = any(x <= 0 for x, _ in points)
    low -= 0.5 if has_zero else 0
    span = max(high - low, 1e-9)
    y_max = max(y for _, y in points) * 1.1 or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        share = (math.log10(x) - low) / span if x > 0 else 0.0
        return left + share * (width - left - 40), height - bottom - y / y_max * (height - bottom - top)

    parts = [_text(10, 20, title), _text(10, top - 8, y_title), _text(width / 2, height - 10, x_title, "middle")]
    for step in range(6):
        value = y_max * step / 5
        x, y = at(0, value)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{width - 40}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(_text(left - 6, y + 4, f"{value:.3g}", "end"))
    for x_value in sorted({x for x, _ in points}):
        x, y = at(x_value, 0)
        parts.append(_text(x, y + 16, f"{x_value:,.0f}", "middle"))
    for number, (name, line) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        path_points = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in sorted(line))
        parts.append(f'<polyline points="{path_points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        x, y = 10 + number % 5 * 175, 28 + number // 5 * 12
        parts.append(f'<rect x="{x}" y="{y}" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(x + 14, y + 9, name))
    path.write_text(_page(width, height, parts))
