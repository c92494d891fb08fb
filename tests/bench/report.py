"""results.json, results.md and the charts."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Iterable

import plot
from goals import goals
from results import Results, Sample


def write(results: Results, out: Path) -> None:
    """Writes everything into `out`, and says where."""
    results.write(out / "results.json")
    parts = [_head(results)]
    if results.names("files"):
        parts += [_ratios(results), _raw(results), _daemons(results)]
        _chart(results, out / "ratios.svg")
    for part in ("replication", "lag"):
        if results.names(part):
            parts.append(_plain(results, part))
    if results.names("scale"):
        parts.append(_scale(results, out))
    parts.append(_goals(results))
    (out / "results.md").write_text("\n\n".join(parts) + "\n")
    print(f"\nresults: {out / 'results.md'}, {out / 'results.json'}", flush=True)


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def _head(results: Results) -> str:
    facts = [
        [name, ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)]
        for name, value in results.machine.items()
    ]
    parts = ["# Benchmark", table(["machine", ""], facts)]
    if results.skipped:
        parts.append("Left out:\n\n" + "\n".join(f"* {what}: {why}" for what, why in results.skipped.items()))
    if results.failures:
        parts.append("**Failed:**\n\n" + "\n".join(f"* {text}" for text in results.failures))
    return "\n\n".join(parts)


def _ratios(results: Results) -> str:
    systems = [name for name in results.systems("files") if name != "native"]

    def cell(name: str, system: str) -> str:
        found = results.ratios(name, system)
        if not found:
            return "-"
        return f"**{statistics.median(found):.2f}** ({min(found):.2f}..{max(found):.2f})"

    rows = [[title, *[cell(name, system) for system in systems]] for name, title, _ in results.names("files")]
    note = "Speed against native in the same round: 1 is as fast, 0.5 half as fast. Median (lowest..highest)."
    return f"## Files: speed against native\n\n{note}\n\n" + table(["workload", *systems], rows)


def _raw(results: Results) -> str:
    systems = results.systems("files")
    rows = [
        [title, unit, *[number(results.median(name, system)) for system in systems]]
        for name, title, unit in results.names("files")
    ]
    return "## Files: raw medians\n\n" + table(["workload", "unit", *systems], rows)


def _daemons(results: Results) -> str:
    rows = []
    for name, title, _ in results.names("files"):
        for system in results.systems("files"):
            samples = results.of(name, system)
            if any("catch_up_seconds" in sample.more for sample in samples):
                rows.append([title, system, *_of_daemons(samples)])
    head = ["workload", "system", "catch-up s", "worker CPU s", "worker MiB", "target CPU s", "target MiB"]
    note = "Catch-up: from the end of the load until all of it is durable on the target. CPU and highest memory from"
    note += " the begin of the load until then. Medians; memory: the highest of all rounds."
    return f"## Memory and CPU of both daemons under each load\n\n{note}\n\n" + table(head, rows)


def _of_daemons(samples: list[Sample]) -> list[str]:
    def median(values: list[float]) -> str:
        return number(statistics.median(values)) if values else "-"

    cells = [median([s.more["catch_up_seconds"] for s in samples if "catch_up_seconds" in s.more])]
    for process in ("worker", "target"):
        found = [s.more["processes"][process] for s in samples if process in s.more.get("processes", {})]
        cells.append(median([entry["cpu_seconds"] for entry in found]))
        cells.append(number(max((entry["max_rss_mib"] for entry in found), default=None)))
    return cells


def _plain(results: Results, part: str) -> str:
    systems = results.systems(part)
    rows = []
    for name, title, unit in results.names(part):
        row = [title, unit]
        for system in systems:
            values = [sample.value for sample in results.of(name, system)]
            spread = f" ({number(min(values))}..{number(max(values))})" if len(values) > 1 else ""
            row.append(number(results.median(name, system)) + spread)
        rows.append(row)
    return f"## {part.capitalize()}\n\nMedian (lowest..highest).\n\n" + table(["what", "unit", *systems], rows)


def _scale(results: Results, out: Path) -> str:
    """Samples of this part carry `x`: files that are there, or bytes of backlog."""
    texts = []
    for kind, title, x_title in (
        ("files", "Cost of an operation by number of files", "files in the tree"),
        ("backlog", "Cost of a 4 KiB append by backlog", "MiB in the queue"),
    ):
        chosen = [s for s in results.samples if s.part == "scale" and s.more.get("kind") == kind]
        if not chosen:
            continue
        series: dict[str, dict[float, list[float]]] = {}
        for sample in chosen:
            line = series.setdefault(f"{sample.name} {sample.system}", {})
            line.setdefault(sample.more["x"], []).append(sample.value)
        medians = {name: [(x, statistics.median(v)) for x, v in line.items()] for name, line in series.items()}
        plot.lines(out / f"scale-{kind}.svg", title, x_title, "microseconds", medians)
        xs = sorted({x for line in series.values() for x in line})
        rows = [[name, *[number(dict(line).get(x)) for x in xs]] for name, line in medians.items()]
        texts.append(f"## {title}\n\nMicroseconds.\n\n" + table([x_title, *[f"{x:,.0f}" for x in xs]], rows))
    return "\n\n".join(texts)


def _goals(results: Results) -> str:
    rows = []
    for goal in goals(results):
        reached = "not measured" if goal.reached is None else goal.text()
        verdict = "-" if goal.reached is None else "yes" if goal.is_met() else "**no**"
        rows.append([goal.what, goal.wanted(), reached, verdict])
    return "## Goals\n\n" + table(["what", "goal", "reached", "met"], rows)


def _chart(results: Results, path: Path) -> None:
    rows = {}
    for name, title, _ in results.names("files"):
        found = {s: results.ratio(name, s) for s in results.systems("files") if s != "native"}
        rows[title] = {system: ratio for system, ratio in found.items() if ratio is not None}
    plot.bars(path, "Speed against native (1 = as fast), medians of rounds", rows)
