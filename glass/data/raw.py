"""What every reader yields: raw interactions and items, and an account of the rows left out."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

EVENT_SCHEMA = {
    "raw_user_id": pl.String,
    "raw_item_id": pl.String,
    "time": pl.Int64,
    "row": pl.Int64,
}
GIVEN = {"split": pl.Int8}
"""Columns that events may have too: what a source says itself instead of the settings."""
ITEM_SCHEMA = {"raw_item_id": pl.String, "title": pl.String, "text": pl.String}
NUM_EXAMPLES = 10
_SHOWN_COLUMNS = 40
_SHOWN_CHARACTERS = 100


@dataclass(frozen=True)
class Source:
    """A file that is read. `role` is "interactions" or "items", `label` its name in reports."""

    role: str
    path: Path
    label: str


@dataclass
class RowReport:
    """Malformed rows of the files of one role.

    Row numbers are those an editor shows for text files (the header is 1; quoted values that span
    lines count as one row) and start at 1 for Parquet. A file without rows names its places.
    """

    role: str
    rows: int = 0
    blank: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    examples: list[tuple[int, int, str, str]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    places: dict[int, Callable[[int], str]] = field(default_factory=dict)

    def start(self, file: str, place: Callable[[int], str] | None = None) -> None:
        """Open the account of `file`; rows reported next belong to it.

        `place` names a row from its number, such as "user 7, event 3" in JSON; None: the number.
        """
        if place is not None:
            self.places[len(self.files)] = place
        self.files.append(file)

    def add(self, reason: str, rows: Iterable[int], count: int) -> None:
        """Count `count` malformed rows of the current file; `rows` are (the first of) them."""
        if count == 0:
            return
        self.reasons[reason] = self.reasons.get(reason, 0) + count
        place = len(self.files) - 1
        for _, row in zip(range(NUM_EXAMPLES), rows, strict=False):
            self.examples.append((place, row, self.files[place], reason))

    @contextmanager
    def naming_file(self) -> Iterator[None]:
        """Puts the name of the current file before what a ValueError says."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self.files[-1]}: {error}") from error

    @property
    def malformed(self) -> int:
        """Number of malformed rows."""
        return sum(self.reasons.values())

    @property
    def share(self) -> float:
        """Malformed share of all rows, 0 for no rows."""
        return self.malformed / self.rows if self.rows else 0.0

    def add_report(self, other: RowReport) -> None:
        """Takes the account of files that were read elsewhere, after those of this one."""
        before = len(self.files)
        self.rows += other.rows
        self.blank += other.blank
        for reason, count in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count
        self.examples += [
            (before + place, row, file, reason) for place, row, file, reason in other.examples
        ]
        self.files += other.files
        self.places |= {before + place: name for place, name in other.places.items()}

    def first(self) -> list[dict[str, Any]]:
        """The first malformed rows: file, row (its number, or its place as text) and reason."""
        found = []
        for number, row, file, reason in sorted(self.examples)[:NUM_EXAMPLES]:
            name = self.places.get(number)
            where = shortened(name(row)) if name else row
            found.append({"file": file, "row": where, "reason": reason})
        return found

    def summary(self) -> str:
        """One text with counts and the first places."""
        reasons = ", ".join(f"{count} x {reason}" for reason, count in self.reasons.items())
        places = "; ".join(f"{e['file']}:{e['row']} {e['reason']}" for e in self.first())
        return (
            f"{self.malformed} of {self.rows} {self.role} rows are malformed "
            f"({self.share:.2%}): {reasons}. First: {places}"
        )

    def check(self, max_share: float) -> None:
        """Raise ValueError when the malformed share is above `max_share`."""
        if self.share > max_share:
            raise ValueError(
                f"{self.summary()}. data.max_malformed_share is {max_share:.2%}: repair the file, "
                "check the column settings, or raise data.max_malformed_share"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        return {
            "rows": self.rows,
            "blank": self.blank,
            "count": self.malformed,
            "share": self.share,
            "reasons": dict(self.reasons),
            "first": self.first(),
        }


@dataclass(frozen=True)
class RawData:
    """Inner form of every format, read while it is iterated: first `events`, then `items`.

    `events`: tables of raw_user_id str, raw_item_id str, time i64 (seconds, or the row number where
    the source has no time), row i64 (number in the source, ascending and unique over all its
    files), and perhaps columns of `GIVEN`.
    `items`: tables of raw_item_id str, title str, text str ("" for none); of repeated items the
    first counts. No tables: the source has no items of its own.
    `reports`, `dropped` (rows that a reader leaves out on purpose, by reason): complete once all is
    read.
    """

    events: Iterable[pl.DataFrame]
    items: Iterable[pl.DataFrame]
    reports: tuple[RowReport, ...]
    dropped: dict[str, int]
    time_unit: str = "seconds"
    vectors: Callable[[], Iterator[tuple[pl.Series, NDArray[np.int8]]]] | None = None
    """Raw ids of items and int8 [n, D] vectors of them, where the source has vectors; read last.
    Of repeated items the first counts."""
    apart: Callable[[Path], Sequence[Callable[[], PartOfEvents]]] | None = None
    """Parts of the events in order, each of which begins to be read when it is called, in other
    processes too; they share files in the folder that is given. Read instead of `events`."""


@dataclass(frozen=True)
class PartOfEvents:
    """Some files' events, as in `RawData`, and their own account."""

    events: Iterable[pl.DataFrame]
    """`row` counts from the first row of these files."""
    report: RowReport
    dropped: dict[str, int]
    num_rows: Callable[[], int]
    """Once all is read: what the rows of the files after these are higher by."""
    time_is_row: bool = False
    """There is no time, and `time` is the row."""


def shortened(name: str) -> str:
    """A name from a file as messages show it: of a long one the beginning and the end."""
    half = _SHOWN_CHARACTERS // 2
    return name if len(name) <= _SHOWN_CHARACTERS else f"{name[:half]}...{name[-half:]}"


def require_columns(
    label: str, available: Sequence[str], wanted: Sequence[tuple[str, str]]
) -> None:
    """Raise ValueError for the first of `wanted` (setting, column) that `available` lacks."""
    for setting, column in wanted:
        if column in available:
            continue
        names = [shortened(name) for name in available[:1000]]
        close = difflib.get_close_matches(column, names, n=1, cutoff=0.5)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        if len(available) == 1:
            hint += " A single column: is the file separated by another character?"
        shown = ", ".join(names[:_SHOWN_COLUMNS])
        shown += ", ..." if len(available) > _SHOWN_COLUMNS else ""
        raise ValueError(f"{label}: {setting} is {column!r}, but the columns are {shown}.{hint}")


def existing_file(path: Path, setting: str) -> Path:
    """`path` when it is a non-empty file; ValueError with the setting to change otherwise."""
    if not path.exists():
        raise ValueError(f"{setting}: {path} does not exist")
    if not path.is_file():
        raise ValueError(f"{setting}: {path} is not a file")
    if path.stat().st_size == 0:
        raise ValueError(f"{setting}: {path} is empty")
    return path
