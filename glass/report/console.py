"""What a run prints when it ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from glass.report.input import ExampleUser, ReportInput, ShownItem
from glass.report.tables import Level, Table, metric_table
from glass.report.text import clean, count, ordered_systems, system_label
from glass.report.verdict import verdict


def summary_text(
    run: ReportInput,
    *,
    report: Path | None = None,
    metrics: Path | None = None,
    num_examples: int = 3,
    num_recommendations: int = 5,
) -> str:
    """Verdict, metric tables with intervals, a few users and the paths of the results.

    Plain text without colours or control characters, whatever the titles hold.

    Raises:
        ValueError: `num_examples` or `num_recommendations` is negative.
    """
    for name, value in (
        ("num_examples", num_examples),
        ("num_recommendations", num_recommendations),
    ):
        if value < 0:
            raise ValueError(f"{name} is {value}; it must be 0 or more")
    said = verdict(run.metrics)
    blocks = ["\n".join((said.headline, *said.details))]
    levels: tuple[Level, ...] = ("sid", "item")
    for level in levels:
        table = metric_table(run.metrics, level)
        if table is not None:
            blocks.append(align(table))
    blocks += [_example(user, num_recommendations) for user in list(run.examples)[:num_examples]]
    paths = [(name, path) for name, path in (("Report", report), ("Metrics", metrics)) if path]
    if paths:
        blocks.append("\n".join(f"{name + ':':<9}{path}" for name, path in paths))
    return "\n\n".join(blocks) + "\n"


def print_summary(
    run: ReportInput,
    *,
    report: Path | None = None,
    metrics: Path | None = None,
    file: TextIO | None = None,
) -> None:
    """Print `summary_text`; what the terminal cannot encode is replaced, never an error."""
    stream = sys.stdout if file is None else file
    text = summary_text(run, report=report, metrics=metrics)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, errors="replace").decode(encoding))
    stream.flush()


def align(table: Table) -> str:
    """A table in columns: best value of a column with *, interval in brackets on a second line."""
    lines: list[list[str]] = [[*table.head]]
    for row in table.rows:
        lines.append([row[0].text, *(c.text + ("*" if c.best else " ") for c in row[1:])])
        if any(cell.note for cell in row):
            lines.append([f"[{cell.note}]".replace(" ", "") if cell.note else "" for cell in row])
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.head))]
    text = [table.caption + " (* best)"]
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        text.append("  ".join(cells).rstrip())
    rule = "-" * max(len(line) for line in text)
    return "\n".join([text[0], rule, text[1], rule, *text[2:]])


def _example(user: ExampleUser, most: int) -> str:
    lines = [f"User {clean(user.user, 60)}: {count(user.history_length)} events in the history"]
    lines.append("  newest:    " + _titles(user.history, most))
    lines.append("  took next: " + _titles(user.targets, most))
    for system in ordered_systems(user.recommendations)[::-1]:
        lines.append(f"  {system_label(system)} recommends (+ hit, r repeat)")
        for rank, item in enumerate(list(user.recommendations[system])[:most], start=1):
            marks = ("+" if item.hit else " ") + ("r" if item.repeat else " ")
            lines.append(f"    {rank:>2} {marks} {clean(item.title, 70)}")
    return "\n".join(lines)


def _titles(items: Sequence[ShownItem], most: int) -> str:
    shown = "; ".join(clean(item.title, 40) for item in list(items)[:most])
    left = len(items) - most
    return (shown or "none") + (f"; and {left} more" if left > 0 else "")
