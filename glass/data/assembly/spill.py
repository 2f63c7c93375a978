"""Rows by partition, in memory while they are few and in files once they are many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
import pyarrow as pa

from glass.data.assembly.keys import PARTITION_BITS, partition_of
from glass.data.assembly.parts import to_arrow

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
    lie in the order in which they came. Once all is written other processes can read it.

    Args:
        folder: of its files, one spill's own; made when it is needed.
        key: column whose highest bits are the partition.
        combine: makes fewer rows of those of a partition that belong together; it may be applied
            to parts of them first.
    """

    def __init__(self, folder: Path, key: str, combine: Combine | None = None) -> None:
        self._folder, self._key = folder, key
        self._combine = combine
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
        assert not self._buffer, "use_files() comes before the first read"
        path = self._path(partition)
        if not path.exists():
            return None
        tables = []
        with pa.memory_map(str(path)) as file:
            while file.tell() < file.size():  # a stream was appended each time
                tables.append(pa.ipc.open_stream(file).read_all())
        return self._combined(pl.DataFrame(pa.concat_tables(tables)).rechunk())

    def drop(self, partition: int) -> None:
        """Frees what a partition takes; it is not read again."""
        if self.split:
            self._path(partition).unlink(missing_ok=True)
        else:
            self._buffer = []

    def _path(self, partition: int) -> Path:
        return self._folder / f"{partition:05}.arrow"

    def _combined(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows if self._combine is None else self._combine(rows)

    def _take(self, *, keep: bool = False) -> pl.DataFrame:
        rows = self._combined(pl.concat(self._buffer))
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


class Rows(Protocol):
    """What can be read partition by partition."""

    @property
    def split(self) -> bool:
        """Whether there is more than one partition."""
        ...

    def partitions(self) -> range:
        """Numbers of the partitions."""
        ...

    def read(self, partition: int) -> pl.DataFrame | None:
        """The rows of a partition; None where there are none."""
        ...

    def drop(self, partition: int) -> None:
        """Frees what a partition takes; it is not read again."""
        ...


@dataclass(frozen=True)
class Joined:
    """Spills in files, each of a part of the source, read as one.

    Attributes:
        spills: in the order of the source.
        shifts: what is added to columns of each, such as the rows of the source before it.
        combine: as in `Spill`.
    """

    spills: Sequence[Spill]
    shifts: Sequence[dict[str, int]]
    combine: Combine | None = None
    split: bool = True

    def partitions(self) -> range:
        """See `Spill`."""
        return range(1 << PARTITION_BITS)

    def read(self, partition: int) -> pl.DataFrame | None:
        """See `Spill`."""
        tables = [
            rows.with_columns(pl.col(name) + shift for name, shift in shifts.items())
            for spill, shifts in zip(self.spills, self.shifts, strict=True)
            if (rows := spill.read(partition)) is not None
        ]
        if not tables:
            return None
        rows = pl.concat(tables)
        return rows if self.combine is None else self.combine(rows)

    def drop(self, partition: int) -> None:
        """See `Spill`."""
        for spill in self.spills:
            spill.drop(partition)
