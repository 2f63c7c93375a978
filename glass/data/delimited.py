"""Delimited text (CSV, TSV, RecBole) as string columns with row numbers."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

from glass.data.raw import RowReport

_BLOCK_BYTES = 16 << 20
WRONG_COLUMNS = "wrong number of columns"


def read_header(path: Path, delimiter: str, *, quoted: bool) -> list[str]:
    """Column names in the first line of `path`.

    Raises ValueError for an empty file, text that is not UTF-8 and repeated names.
    """

    def parse(lines: Iterable[str]) -> list[str]:
        if quoted:
            return next(csv.reader(lines, delimiter=delimiter), [])
        return next(csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE), [])

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = parse(file)
    except UnicodeDecodeError:
        # Only the header matters here; a bad byte further down the buffer is the rows' business.
        line = path.read_bytes().split(b"\n", 1)[0].decode("utf-8-sig", errors="replace")
        names = parse([line])
    if not names:
        raise ValueError(f"{path}: the first line has to name the columns, but it is empty")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{path}: the header repeats the columns {', '.join(repeated)}")
    return names


def read_delimited(
    path: Path,
    columns: list[str],
    report: RowReport,
    *,
    names: list[str],
    delimiter: str,
    quoted: bool,
) -> pl.DataFrame:
    """Read `columns` of a file whose header is `names`.

    Returns a frame with the columns (str, "" for an empty value) and `row` (i64). Rows with a wrong
    number of values go to `report` (as many as the lines they span, so that a stray quote that
    swallows lines is seen), and so do blank rows, apart from the malformed ones.
    """
    skipped: list[tuple[int, int]] = []

    def skip(bad: pa_csv.InvalidRow) -> str:
        skipped.append((bad.number, bad.text.count("\n") + 1))
        return "skip"

    try:
        try:
            table = _parse(path, columns, names, delimiter, quoted, skip)
        except pa.ArrowInvalid:
            text = path.read_bytes()
            if _is_utf8(text):
                raise
            # Bad bytes become U+FFFD, which the id checks report row by row.
            skipped.clear()
            repaired = pa.BufferReader(text.decode("utf-8", errors="replace").encode())
            table = _parse(repaired, columns, names, delimiter, quoted, skip)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: cannot be read as delimited text: {error}") from error

    bad = np.array([number for number, _ in skipped], dtype=np.int64)
    lines = sum(count for _, count in skipped)
    report.add(WRONG_COLUMNS, bad.tolist(), lines)
    report.rows += table.num_rows + lines
    rows = np.arange(2, table.num_rows + len(bad) + 2, dtype=np.int64)
    frame = pl.DataFrame(table).with_columns(row=pl.Series(np.delete(rows, bad - 2)))
    blank = pl.all_horizontal(pl.col(columns).str.strip_chars() == "")
    kept = frame.filter(~blank)
    report.blank += frame.height - kept.height
    report.rows -= frame.height - kept.height
    return kept


def _parse(
    source: Path | pa.BufferReader,
    columns: list[str],
    names: list[str],
    delimiter: str,
    quoted: bool,
    skip: object,
) -> pa.Table:
    quote_char = '"' if quoted else False
    return pa_csv.read_csv(
        source,
        # One thread: otherwise pyarrow cannot number the rows that it skips.
        read_options=pa_csv.ReadOptions(
            use_threads=False, block_size=_BLOCK_BYTES, column_names=names, skip_rows=1
        ),
        parse_options=pa_csv.ParseOptions(
            delimiter=delimiter,
            quote_char=quote_char,
            double_quote=quoted,
            newlines_in_values=quoted,
            ignore_empty_lines=False,
            invalid_row_handler=skip,
        ),
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.string()),
            include_columns=columns,
            strings_can_be_null=False,
        ),
    )


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
