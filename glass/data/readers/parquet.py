"""Chosen columns of a Parquet file, with row numbers, in tables of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import polars as pl

from glass.data.parquet_file import ROWS, column_names, read_tables
from glass.data.raw import RowReport, Source, require_columns


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
    require_columns(str(source.path), column_names(source.path), settings)
    report.start(source.label)
    before = 0
    for frame in read_tables(source.path, list(columns.values()), rows):
        report.rows += frame.height
        chosen = frame.select(pl.col(name).alias(new) for new, name in columns.items())
        number = pl.int_range(before + 1, before + frame.height + 1, dtype=pl.Int64)
        yield chosen.select(number.alias("row"), pl.all())
        before += frame.height
