"""Chosen columns of a Parquet file, with row numbers, in tables of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.exceptions import PolarsError

from glass.data.raw import RowReport, Source, require_columns

ROWS = 1 << 20
"""Rows of a table."""


def read_parquet(
    source: Source,
    columns: Mapping[str, str],
    settings: list[tuple[str, str]],
    report: RowReport,
    rows: int = ROWS,
) -> Iterator[pl.DataFrame]:
    """Tables of the columns {new name: name in the file} and `row` (i64, from 1) of one file.

    `settings` are (setting, column) for the error message of a missing column. Raises ValueError
    for a damaged file or a missing column.
    """
    before = 0
    try:
        with pq.ParquetFile(source.path) as file:
            require_columns(str(source.path), file.schema_arrow.names, settings)
            report.start(source.label)
            wanted = sorted(set(columns.values()))
            for batch in file.iter_batches(batch_size=rows, columns=wanted):
                frame = pl.DataFrame(pa.Table.from_batches([batch]))
                report.rows += frame.height
                chosen = frame.select(pl.col(name).alias(new) for new, name in columns.items())
                number = pl.int_range(before + 1, before + frame.height + 1, dtype=pl.Int64)
                yield chosen.select(number.alias("row"), pl.all())
                before += frame.height
    except (PolarsError, pa.ArrowException, OSError) as error:
        place = f" after row {before}" if before else ""
        raise ValueError(f"{source.path}: cannot be read as Parquet{place}: {error}") from error
