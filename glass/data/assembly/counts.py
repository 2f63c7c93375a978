"""Events of each item, counted partition of users by partition of users."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glass.data.assembly.gather import Step
from glass.data.assembly.keys import PARTITION_BITS, partition_of
from glass.data.assembly.parts import Parts, renamed
from glass.data.assembly.splits import Split
from glass.data.assembly.users import SortedUsers
from glass.data.order import TRAIN
from glass.workers import Workers

ROWS_ADDED_UP = 4_000_000
"""Rows of counts that are read before they are added up."""
SCHEMA = {"key": pl.UInt64, "events": pl.Int64, "train_count": pl.Int64}
_RECORD = np.dtype([("key", "<u8"), ("events", "<i4"), ("train_count", "<i4")])
Records = NDArray[Any]
"""_RECORD [n], rising by key."""


@dataclass(frozen=True)
class ItemCounts:
    """Events and training events of each item of the kept users' events.

    A file for each partition of users; of each a partition of items is a range.

    Attributes:
        folder: of the files; None: all users are one partition, and so are all items.
        starts: int64 [partitions of items + 1] by partition of users, of the ranges.
        whole: the counts where there is no folder.
    """

    folder: Path | None
    starts: Mapping[int, NDArray[np.int64]]
    whole: Records

    def read(self, partition: int) -> pl.DataFrame:
        """`SCHEMA` of the items of a partition, in any order."""
        if self.folder is None:
            return _table(self.whole)
        found = pl.DataFrame(schema=SCHEMA)
        waiting: list[Records] = []
        rows = 0
        for number, starts in self.starts.items():
            start, end = starts[partition : partition + 2].tolist()
            at = {"count": end - start, "offset": start * _RECORD.itemsize}
            waiting.append(np.fromfile(_path(self.folder, number), _RECORD, **at))
            rows += len(waiting[-1])
            if rows > ROWS_ADDED_UP:
                found, waiting, rows = _added_up(found, waiting), [], 0
        return _added_up(found, waiting)

    def drop(self) -> None:
        """Frees the files; nothing is read any more."""
        for number in self.starts if self.folder else ():
            _path(self.folder, number).unlink()  # type: ignore[arg-type]


@dataclass(frozen=True)
class CountPartition:
    """Counts the items of a partition of users."""

    events: Parts
    split: Split
    folder: Path | None

    def __call__(self, number: int) -> Records | NDArray[np.int64]:
        """Writes the counts and returns where the ranges start; without a folder, the counts."""
        events = self.events.get(number)
        trained = self.split(events) == TRAIN
        keys, inverse, counts = np.unique(
            events["item"].to_numpy(), return_inverse=True, return_counts=True
        )
        records = np.empty(len(keys), _RECORD)
        records["key"], records["events"] = keys, counts
        records["train_count"] = np.bincount(inverse[trained], minlength=len(keys))
        if self.folder is None:
            return records
        with renamed(_path(self.folder, number), self.folder) as path:
            records.tofile(path)
        return np.searchsorted(partition_of(keys), np.arange((1 << PARTITION_BITS) + 1))


def count_items(
    users: SortedUsers, split: Split, work: Path, workers: Workers, step: Step
) -> ItemCounts:
    """Counts all partitions."""
    folder = work / "item_counts" if users.sharded else None
    found = {}
    done = workers.map(CountPartition(users.events, split, folder), users.numbers)
    for number, counted in zip(users.numbers, done, strict=True):
        found[number] = counted
        step(1)
    if folder is None:
        return ItemCounts(None, {}, found[users.numbers[0]])
    return ItemCounts(folder, found, np.empty(0, _RECORD))


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:05}.bin"


def _table(records: Records) -> pl.DataFrame:
    columns = {name: np.ascontiguousarray(records[name]) for name in SCHEMA}
    return pl.DataFrame(columns).cast(SCHEMA)  # type: ignore[arg-type]


def _added_up(table: pl.DataFrame, records: list[Records]) -> pl.DataFrame:
    rows = pl.concat([table, _table(np.concatenate([np.empty(0, _RECORD), *records]))])
    return rows.group_by("key").agg(pl.col("events", "train_count").sum())
