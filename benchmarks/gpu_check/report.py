"""The report: Markdown for people, CSV for programs. Written after every part, so that a stop
loses only what was running."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.gpu_check.parts import Found
from benchmarks.output import Row

_HIDDEN = ("wrong", "extra MiB", "host ms")
"""Endings of columns that are in the CSV alone."""


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value).replace("|", "\\|")


def table(rows: Sequence[Row]) -> list[str]:
    """Lines of a Markdown table; no column that is empty in all rows."""
    names = dict.fromkeys(name for row in rows for name in row if not name.endswith(_HIDDEN))
    shown = [name for name in names if any(row.get(name) not in (None, "") for row in rows)]
    if not shown:
        return []
    cells = [shown, *([_text(row.get(name)) for name in shown] for row in rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in cells
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return lines


def markdown(card: Mapping[str, str], ceilings: Mapping[str, str], parts: Sequence[Found]) -> str:
    """The whole report."""
    lines = ["# GPU check", "", "`make gpu-check`; docs/gpu.md says what its parts are.", ""]
    lines += table([{"what": name, "found": value} for name, value in card.items()])
    if ceilings:
        lines += ["", "## Ceilings", ""]
        lines += table([{"what": name, "measured": value} for name, value in ceilings.items()])
    lines += ["", "## Verdicts", ""]
    lines += table([{"part": part.title, "verdict": part.verdict} for part in parts])
    lines += [
        "",
        "Milliseconds are medians of single calls between two events, the caches emptied before "
        "each; `plain` and `compiled` are the fastest of several forms in PyTorch; `floor` is the "
        "least that the measured ceilings allow. Host times and memory are in the CSV.",
    ]
    for part in parts:
        if part.lines or part.rows:
            lines += ["", f"## {part.title}", "", *table(part.rows), "", *part.lines]
    return "\n".join(lines) + "\n"


def write(
    folder: Path, card: Mapping[str, str], ceilings: Mapping[str, str], parts: Sequence[Found]
) -> Path:
    """gpu_check.md and gpu_check.csv in `folder`; returns the former."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = [{"part": part.title, **row} for part in parts for row in part.rows]
    names = list(dict.fromkeys(name for row in rows for name in row))
    partial = folder / "gpu_check.csv.tmp"
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*names, *card], restval="")
        writer.writeheader()
        writer.writerows({**row, **card} for row in rows)
    partial.replace(folder / "gpu_check.csv")
    text = folder / "gpu_check.md"
    partial = folder / "gpu_check.md.tmp"
    partial.write_text(markdown(card, ceilings, parts), encoding="utf-8")
    partial.replace(text)
    return text
