"""A table for each partition, where other processes can read it; files that are whole or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import polars as pl
import pyarrow as pa


class Parts:
    """A table for each partition, in memory or in files as the spill was that they came from.

    Other processes can put and get those in files; a table takes its name once it is whole.

    Args:
        folder: of the files; None keeps the tables in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._tables: dict[int, pl.DataFrame] = {}

    def put(self, number: int, table: pl.DataFrame) -> None:
        """Keeps the table of a partition."""
        if self._folder is None:
            self._tables[number] = table
            return
        arrow = to_arrow(table)
        with (
            renamed(self._path(number), self._folder) as path,
            pa.ipc.new_file(str(path), arrow.schema) as file,
        ):
            file.write_table(arrow)

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


@contextmanager
def renamed(path: Path, folder: Path) -> Iterator[Path]:
    """A name in `folder` of the same file system, for a file that becomes `path` once it is whole.

    No other process has that name, on any machine: two may do the same part at once.
    """
    for parent in (path.parent, folder):
        parent.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{path.name}.{uuid4().hex}"
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def to_arrow(table: pl.DataFrame) -> pa.Table:
    """The table with Arrow's oldest types, which every reader of Arrow and Parquet knows."""
    return table.to_arrow(compat_level=pl.CompatLevel.oldest())
