"""Delimited text (CSV, TSV, RecBole) as string columns with row numbers."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
from numpy.typing import NDArray
from polars.exceptions import ComputeError

from glass.data.raw import NUM_EXAMPLES, RowReport

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
) -> Iterator[pl.DataFrame]:
    """Read `columns` of a file whose header is `names`, some megabytes at a time.

    Yields tables with the columns (str, "" for an empty value) and `row` (i64). Rows with a wrong
    number of values go to `report` (as many as the lines they span, so that a stray quote that
    swallows lines is seen), and so do blank rows, apart from the malformed ones. Bytes that are not
    UTF-8 become U+FFFD, which the id checks report row by row.

    Raises ValueError for a file that is no delimited text.
    """
    skipped: list[int] = []  # rows that the tables so far have not passed
    first: list[int] = []
    lines = 0

    def skip(bad: pa_csv.InvalidRow) -> str:
        nonlocal lines
        skipped.append(bad.number)
        first.extend([bad.number] if len(first) < NUM_EXAMPLES else [])
        lines += bad.text.count("\n") + 1
        return "skip"

    done = 1  # the header
    try:
        for batch in _parse(path, columns, names, delimiter, quoted, skip):
            rows = _row_numbers(done, batch.num_rows, skipped)
            frame = pl.DataFrame(pa.Table.from_batches([batch]))
            frame = frame.select(_decoded(frame[name]) for name in columns)
            frame = frame.with_columns(row=pl.Series(rows, dtype=pl.Int64))
            done = int(rows[-1]) if len(rows) else done
            skipped[:] = [number for number in skipped if number > done]
            blank = pl.all_horizontal(pl.col(columns).str.strip_chars() == "")
            kept = frame.filter(~blank)
            report.blank += frame.height - kept.height
            report.rows += kept.height
            yield kept
    except pa.ArrowInvalid as error:
        place = f" after row {done}" if done > 1 else ""
        raise ValueError(f"{path}: cannot be read as delimited text{place}: {error}") from error
    report.add(WRONG_COLUMNS, first, lines)
    report.rows += lines


def _row_numbers(done: int, count: int, skipped: list[int]) -> NDArray[np.int64]:
    """Numbers of the next `count` rows after row `done` that were not skipped."""
    jumped = np.array(skipped, dtype=np.int64)
    rows = np.arange(done + 1, done + count + len(jumped) + 1, dtype=np.int64)
    return np.delete(rows, jumped[jumped <= rows[-1]] - done - 1)[:count] if count else rows[:0]


def _decoded(values: pl.Series) -> pl.Series:
    """Bytes as text."""
    try:
        text: pl.Series = values.cast(pl.String)
    except ComputeError:
        texts = [value.decode("utf-8", "replace") for value in values]
        text = pl.Series(values.name, texts, dtype=pl.String)
    return text


def _parse(
    path: Path,
    columns: list[str],
    names: list[str],
    delimiter: str,
    quoted: bool,
    skip: object,
) -> Iterator[pa.RecordBatch]:
    quote_char = '"' if quoted else False
    # A stream, not a path: pyarrow would unpack what ends in .gz without a bound.
    with (
        pa.OSFile(str(path)) as file,
        pa_csv.open_csv(
            file,
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
                column_types=dict.fromkeys(columns, pa.binary()),
                include_columns=columns,
                strings_can_be_null=False,
            ),
        ) as reader,
    ):
        yield from reader
