"""docs/gpu_static.csv: its rows, and how they are read and written."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TextIO

import triton

TABLE = Path(__file__).parents[2] / "docs" / "gpu_static.csv"


@dataclass(frozen=True)
class Row:
    """A kernel with a setting on a card. Spills are instructions; bytes of stack are spills too."""

    triton: str
    kernel: str
    setting: str
    card: str
    threads: int
    registers: int
    stack_bytes: int
    spills: int
    shared_bytes: int
    matrix: int
    """Instructions for tensor cores."""
    instructions: int
    occupancy: float
    """See `benchmarks.gpu_builds.cards`."""

    @property
    def name(self) -> str:
        return f"{self.kernel},{self.setting},{self.card}"

    @property
    def spilled(self) -> bool:
        return self.stack_bytes > 0 or self.spills > 0


COLUMNS = [field.name for field in fields(Row)]
_OF_TEXT = {"str": str, "int": int, "float": float}


def read_table(path: Path = TABLE) -> dict[str, Row]:
    """Rows that this Triton made, by name; none where there is no such file."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        found = [
            Row(**{field.name: _OF_TEXT[str(field.type)](row[field.name]) for field in fields(Row)})
            for row in csv.DictReader(file)
            if row["triton"] == triton.__version__
        ]
    return {row.name: row for row in found}


def write_rows(rows: Iterable[Row], file: TextIO) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(
        [f"{value:g}" if isinstance(value, float) else value for value in vars(row).values()]
        for row in rows
    )


def write_table(rows: Iterable[Row], path: Path) -> None:
    """At once, or not at all."""
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        write_rows(rows, file)
    unfinished.replace(path)
