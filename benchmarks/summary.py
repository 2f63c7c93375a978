"""`python -m benchmarks.summary FOLDER`: which goals a run of `python -m benchmarks` reaches.

Reads the CSVs of the run and prints a table in Markdown with the machine above it; `--output FILE`
writes it there (docs/benchmarks_summary.md was). A goal is met where every row that it is about
meets it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.compare import read
from benchmarks.goals import GOALS, Cells, Goal

Runs = Mapping[str, Sequence[Cells]]
"""Rows by job."""
_ABOUT = ("machine", "torch", "python", "clock")


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _range(values: Sequence[float]) -> str:
    if not values:
        return "-"
    texts = list(dict.fromkeys(_number(value) for value in (min(values), max(values))))
    return " to ".join(texts)


def _verdict(goal: Goal, values: Sequence[float]) -> str:
    met = sum(goal.met(value) for value in values)
    if met == len(values):
        return "yes"
    return "**no**" if met == 0 else f"**{met} of {len(values)}**"


def _about(runs: Runs) -> list[str]:
    """Machine, versions and when; the rows of a run may differ in the last alone."""
    rows = [row for job in runs.values() for row in job]
    lines = [
        f"- {name}: {'; '.join(dict.fromkeys(row[name] for row in rows if row.get(name)))}"
        for name in _ABOUT
    ]
    times = sorted(row["time"] for row in rows if row.get("time"))
    loads = [float(row["load"]) for row in rows if row.get("load")]
    lines.append(f"- {times[0]} to {times[-1]}; load of the machine {_range(loads)}")
    rates = {}
    for row in rows:
        if row.get("copy GB/s"):
            copy, product = (_number(float(row[f"{x}/s"])) for x in ("copy GB", "GEMM GFLOP"))
            rates[row["threads"]] = f"{copy} GB/s, {product} GFLOP/s"
    lines += [f"- copy and float32 product, {n} thread(s): {rate}" for n, rate in rates.items()]
    return lines


def table(runs: Runs) -> list[str]:
    """A line a goal whose job has run: what each number of threads reached."""
    threads = sorted({row["threads"] for job in runs.values() for row in job}, key=int)
    heads = [f"{n} thread{'s' * (n != '1')}" for n in threads]
    lines = [["job", "what", "goal", *heads, "met"], ["---"] * (4 + len(heads))]
    for goal in GOALS:
        rows = runs.get(goal.job, ())
        values = goal.values(rows)
        if values:
            mine = [goal.values([row for row in rows if row["threads"] == n]) for n in threads]
            cells = [_range(found) for found in mine]
            verdict = _verdict(goal, values)
            lines.append([f"`{goal.job}`", goal.title, goal.bound, *cells, verdict])
    return ["| " + " | ".join(line) + " |" for line in lines]


def text(runs: Runs) -> str:
    """The page."""
    lines = [
        "# Summary of the benchmarks",
        "",
        "Made by `make bench` and `python -m benchmarks.summary .benchmarks --output "
        "docs/benchmarks_summary.md`.",
        "Ratios, each of one run; the range is over the rows of a job's table. What the jobs do,",
        "and what stops us where a goal is missed: [benchmarks.md](benchmarks.md).",
        "",
        *_about(runs),
        "",
        *table(runs),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 2 if the folder has no results."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.summary",
        description=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="of the CSVs, such as .benchmarks")
    parser.add_argument("--output", type=Path, help="Markdown file; else it is printed")
    given = parser.parse_args(arguments)
    runs = read(given.folder, sorted({goal.job for goal in GOALS}))
    if not runs:
        print(f"{given.folder} has no results; `python -m benchmarks all`", file=sys.stderr)
        return 2
    page = text(runs)
    if given.output is None:
        print(page, end="")
    else:
        partial = given.output.with_suffix(".tmp")
        partial.write_text(page, encoding="utf-8")
        partial.replace(given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
