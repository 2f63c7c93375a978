"""Rows by partition, in memory while they are few and in files once they are many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from glass.data.assembly.keys import PARTITION_BITS, partition_of

ROWS_IN_MEMORY = 4_000_000
"""Rows that a spill keeps in memory as a whole."""
ROWS_AT_A_TIME = 1_000_000
"""Rows that it gathers before it writes them, once there are more."""
_COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4")
Combine = Callable[[pl.DataFrame], pl.DataFrame]


class Spill:
    """Rows that are added in any order and read partition by partition.

    While there are at most `ROWS_IN_MEMORY` they stay in memory, as one partition: a small data set
    never touches the disk. With more, each partition has a file below `folder`, in which its rows
    lie in the order in which they came.

    Args:
        folder: of its files, one spill's own; made when it is needed.
        key: column whose highest bits are the partition.
        combine: makes fewer rows of those of a partition that belong together; it may be applied
            to parts of them first.
    """

    def __init__(self, folder: Path, key: str, combine: Combine | None = None) -> None:
        self._folder, self._key = folder, key
        self._combine: Combine = combine or (lambda rows: rows)
        self._buffer: list[pl.DataFrame] = []
        self._buffered = 0
        self.split = False
        """Whether there is more than one partition."""

    def add(self, rows: pl.DataFrame) -> None:
        """Takes rows, all with the same columns."""
        if rows.is_empty() and self._buffer:
            return
        self._buffer.append(rows)
        self._buffered += rows.height
        most = min(ROWS_AT_A_TIME, ROWS_IN_MEMORY) if self.split else ROWS_IN_MEMORY
        if self._buffered <= most:
            return
        rows = self._take()
        if self.split or rows.height > ROWS_IN_MEMORY // 2:
            self._write(rows)
        else:  # what was combined away makes room for as much again
            self._buffer, self._buffered = [rows], rows.height

    def use_files(self) -> None:
        """Splits into partitions from now on: spills that are read side by side must agree."""
        if not self.split:
            self.split = True
            if self._buffer:
                self._write(self._take())

    def partitions(self) -> range:
        """Numbers of the partitions; one alone while all is in memory."""
        return range(1 << PARTITION_BITS) if self.split else range(1)

    def read(self, partition: int) -> pl.DataFrame | None:
        """The rows of a partition, combined; None where none were ever added."""
        if not self.split:
            return self._take(keep=True) if self._buffer else None
        if self._buffer:
            self._write(self._take())
        path = self._path(partition)
        if not path.exists():
            return None
        tables = []
        with pa.memory_map(str(path)) as file:
            while file.tell() < file.size():  # a stream was appended each time
                tables.append(pa.ipc.open_stream(file).read_all())
        frame = pl.DataFrame(pa.concat_tables(tables)).rechunk()
        return self._combine(frame)

    def drop(self, partition: int) -> None:
        """Frees what a partition takes; it is not read again."""
        if self.split:
            self._path(partition).unlink(missing_ok=True)
        else:
            self._buffer = []

    def _path(self, partition: int) -> Path:
        return self._folder / f"{partition:05}.arrow"

    def _take(self, *, keep: bool = False) -> pl.DataFrame:
        rows = self._combine(pl.concat(self._buffer))
        self._buffer = [rows] if keep else []
        self._buffered = rows.height if keep else 0
        return rows

    def _write(self, rows: pl.DataFrame) -> None:
        self.split = True
        self._folder.mkdir(parents=True, exist_ok=True)
        partition = partition_of(rows[self._key].to_numpy())
        order = np.argsort(partition, kind="stable")
        ends = np.cumsum(np.bincount(partition, minlength=1 << PARTITION_BITS))
        table = to_arrow(rows[order])
        start = 0
        for number, end in enumerate(ends.tolist()):
            if end > start:
                with (
                    self._path(number).open("ab") as file,
                    pa.ipc.new_stream(file, table.schema, options=_COMPRESSED) as stream,
                ):
                    stream.write_table(table.slice(start, end - start))
            start = end


class Parts:
    """A table for each partition, in memory or in files as the spill was that they came from.

    Args:
        folder: of the files; None keeps the tables in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._tables: dict[int, pl.DataFrame] = {}
        self._numbers: set[int] = set()

    def put(self, number: int, table: pl.DataFrame) -> None:
        """Keeps the table of a partition."""
        self._numbers.add(number)
        if self._folder is None:
            self._tables[number] = table
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with pa.ipc.new_file(str(self._path(number)), (arrow := to_arrow(table)).schema) as file:
            file.write_table(arrow)

    def numbers(self) -> list[int]:
        """Partitions that have a table, in order."""
        return sorted(self._numbers)

    def get(self, number: int) -> pl.DataFrame:
        """The table of a partition."""
        if self._folder is None:
            return self._tables[number]
        with pa.memory_map(str(self._path(number))) as file:
            return pl.DataFrame(pa.ipc.open_file(file).read_all())

    def drop(self, number: int) -> None:
        """Frees what a partition takes; it is not read again."""
        if self._folder is None:
            del self._tables[number]
        else:
            self._path(number).unlink()

    def _path(self, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{number:05}.arrow"


def to_arrow(table: pl.DataFrame) -> pa.Table:
    """The table with Arrow's oldest types, which every reader of Arrow and Parquet knows."""
    return table.to_arrow(compat_level=pl.CompatLevel.oldest())
