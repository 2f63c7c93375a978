"""Parquet files written piece by piece."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import polars as pl
import pyarrow.parquet as pq

from glass.data.assembly.parts import to_arrow


class Writer:
    """A Parquet file that tables are appended to, each as row groups of its own.

    Used as a context; the file is whole when that ends.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Writer:
        return self

    def write(self, table: pl.DataFrame) -> None:
        """Appends the rows; an empty table only tells the columns."""
        arrow = to_arrow(table)
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._path, arrow.schema, compression="zstd", write_page_checksum=True
            )
        if table.height:
            self._writer.write_table(arrow)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()
