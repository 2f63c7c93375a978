"""Rows of a benchmark: as a table, as CSV, as a plot."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.machine import describe

CSV_ONLY = (" q1", " q3", "B/s", "FLOP/s")
Row = dict[str, str | int | float | None]


def number(value: object) -> float:
    """A cell that must hold a number."""
    assert isinstance(value, int | float)
    return float(value)


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def format_table(rows: Sequence[Row]) -> str:
    """Medians only; the quartiles and the machine's rates are in the CSV."""
    names = [name for name in _columns(rows) if not name.endswith(CSV_ONLY)]
    cells = [names, *([_text(row.get(name)) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def write_csv(rows: Sequence[Row], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    about = describe()
    partial = path.with_suffix(".tmp")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*_columns(rows), *about], restval="")
        writer.writeheader()
        writer.writerows({**row, **about} for row in rows)
    partial.rename(path)


def save_figure(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.tmp{path.suffix}")
    figure.savefig(partial, dpi=80, bbox_inches="tight")
    plt.close(figure)
    partial.rename(path)


def plot_bars(
    rows: Sequence[Row], label: Sequence[str], values: Sequence[str], unit: str, path: Path
) -> None:
    """One group of bars a row, named by its `label` columns; a bar for each of its `values`."""
    figure, axes = plt.subplots(figsize=(8, 1 + 0.22 * len(rows) * len(values)))
    height = 0.8 / len(values)
    for i, value in enumerate(values):
        bars = [(n + i * height, row[value]) for n, row in enumerate(rows) if row.get(value)]
        if bars:
            places, lengths = zip(*bars, strict=True)
            axes.barh(places, lengths, height=height, label=value)
    names = [", ".join(f"{key} {_text(row[key])}" for key in label) for row in rows]
    axes.set_yticks([n + 0.4 - height / 2 for n in range(len(rows))], names)
    axes.margins(y=0.5 / max(len(rows), 1))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(unit)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    save_figure(figure, path)


def draw_growth(axes: Any, rows: Sequence[Row], size: str, sides: Sequence[str]) -> None:
    """A line for each side and number of threads: time against `size`, both logarithmic."""
    for i, threads in enumerate(sorted({number(row["threads"]) for row in rows})):
        for j, side in enumerate(sides):
            shown = [r for r in rows if r["threads"] == threads and r.get(f"{side} ms")]
            axes.plot(
                [number(row[size]) for row in shown],
                [number(row[f"{side} ms"]) for row in shown],
                ("-", "--", ":")[i % 3],
                color=f"C{j}",
                marker=".",
                label=f"{side}, {threads:.0f} thread{'s' * (threads > 1)}",
            )
    axes.set(xscale="log", yscale="log", ylabel="ms")
    axes.grid(alpha=0.3)
