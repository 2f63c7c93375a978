"""Chosen columns of a Parquet file, with row numbers."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
from polars.exceptions import PolarsError

from glass.data.raw import RowReport, Source, require_columns


def read_parquet(
    source: Source,
    columns: Mapping[str, str],
    settings: list[tuple[str, str]],
    report: RowReport,
) -> pl.DataFrame:
    """Read columns {new name: name in the file} and `row` (i64, from 1) of one file.

    `settings` are (setting, column) for the error message of a missing column. Raises ValueError
    for a damaged file or a missing column.
    """
    try:
        available = list(pl.read_parquet_schema(source.path))
        require_columns(str(source.path), available, settings)
        frame = pl.read_parquet(source.path, columns=sorted(set(columns.values())))
    except (PolarsError, OSError) as error:
        raise ValueError(f"{source.path}: cannot be read as Parquet: {error}") from error
    report.start(source.label)
    report.rows += frame.height
    chosen = frame.select(pl.col(name).alias(new) for new, name in columns.items())
    return chosen.with_row_index("row", offset=1).with_columns(pl.col("row").cast(pl.Int64))
