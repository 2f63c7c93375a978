"""Files of events read by several workers at once, each into partitions of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import polars as pl

from glass.data.assembly import spill
from glass.data.assembly.gather import (
    Gathered,
    Gathering,
    Names,
    Step,
    describe,
    distinct,
)
from glass.data.assembly.spill import Joined
from glass.data.raw import PartOfEvents, RawData, RowReport
from glass.workers import Workers

MOST_PARTS = 64
"""Each writes as many files as there are partitions, three times."""


@dataclass(frozen=True)
class _Part:
    """What a worker read."""

    gathered: Gathering
    reports: list[RowReport]
    dropped: list[dict[str, int]]
    num_rows: int
    time_is_row: bool


@dataclass(frozen=True)
class GatherPart:
    """Reads neighbouring files into a folder that no other attempt at them has."""

    folder: Path
    seed: int

    def __call__(self, files: Sequence[Callable[[], PartOfEvents]]) -> _Part:
        found = Gathering(self.folder / f"files-{uuid4().hex}", self.seed)
        before, parts = 0, []
        for begin in files:
            part = begin()
            parts.append(part)
            for chunk in part.events:
                found.add(shifted(chunk, before, time_is_row=part.time_is_row))
            before += part.num_rows()
        for rows in (found.events, found.users, found.items):
            rows.use_files()
        reports, dropped = [part.report for part in parts], [part.dropped for part in parts]
        return _Part(found, reports, dropped, before, parts[0].time_is_row)


def shifted(chunk: pl.DataFrame, rows: int, *, time_is_row: bool) -> pl.DataFrame:
    """The events of files that come after `rows` rows of others."""
    return chunk.with_columns(pl.col(name) + rows for name in _counted(time_is_row))


def gather_files(
    raw: RawData, folder: Path, seed: int, workers: Workers, step: Step
) -> Gathered | None:
    """What `gather` gives, read by several workers; None: it is small, or cannot be read so."""
    if not workers.several or raw.apart is None:
        return None
    apart = raw.apart(folder / "shared")
    edges = np.linspace(0, len(apart), min(MOST_PARTS, len(apart)) + 1).astype(int)
    groups = [apart[start:end] for start, end in itertools.pairwise(edges)]
    parts, shifts, before = [], [], 0
    for part in workers.map(GatherPart(folder, seed), groups):
        parts.append(part)
        shifts.append(dict.fromkeys(_counted(part.time_is_row), before))
        before += part.num_rows
        step(part.gathered.num_events)
    num_events = sum(part.gathered.num_events for part in parts)
    if num_events <= spill.ROWS_IN_MEMORY:  # as it is where one process reads
        return None
    for part in parts:
        for report, dropped in zip(part.reports, part.dropped, strict=True):
            next(own for own in raw.reports if own.role == report.role).add_report(report)
            for reason, count in dropped.items():
                raw.dropped[reason] = raw.dropped.get(reason, 0) + count
    described, num_described = describe(raw.items, folder, seed)
    described.use_files()
    found = [part.gathered for part in parts]
    unshifted: list[dict[str, int]] = [{} for _ in parts]
    return Gathered(
        Joined([one.events for one in found], shifts),
        described,
        Names(Joined([one.users for one in found], unshifted, distinct)),
        Names(Joined([one.items for one in found], unshifted, distinct)),
        num_events,
        num_described,
    )


def _counted(time_is_row: bool) -> tuple[str, ...]:
    return ("row", "time") if time_is_row else ("row",)
