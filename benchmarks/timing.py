"""Interleaved timing on one machine, as a table and as CSV."""

from __future__ import annotations

import csv
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch


def interleaved(sides: dict[str, Callable[[int], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each side; round r calls every side with r, so noise hits all."""
    for run in sides.values():
        run(0)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats):
        for name, run in sides.items():
            start = time.perf_counter()
            run(repeat)
            seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(times) for name, times in seconds.items()}


def machine() -> str:
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s), "
        f"torch {torch.__version__}"
    )


def print_table(rows: Sequence[dict[str, str]]) -> None:
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
    print("  ".join(key.ljust(width) for key, width in widths.items()))
    for row in rows:
        print("  ".join(row[key].rjust(width) for key, width in widths.items()))


def write_csv(rows: Sequence[dict[str, str]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], "machine"])
        writer.writeheader()
        writer.writerows({**row, "machine": machine()} for row in rows)
    partial.rename(path)
