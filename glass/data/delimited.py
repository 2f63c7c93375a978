"""Delimited text (CSV, TSV, RecBole) as string columns with row numbers."""

from __future__ import annotations

import codecs
import csv
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from glass.data.compressed import refuse_compressed
from glass.data.raw import NUM_EXAMPLES, RowReport, shortened

_BLOCK_BYTES = 16 << 20
"""Read at a time; a row may take as much."""
_HEADER_CHARACTERS = 1_000_000
WRONG_COLUMNS = "wrong number of columns"


def read_header(path: Path, delimiter: str, *, quoted: bool) -> list[str]:
    """Column names in the first line of `path`.

    Raises ValueError for a compressed or empty file, a first line that is none or too long, and
    repeated names.
    """
    try:
        refuse_compressed(path)
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            line = file.readline(_HEADER_CHARACTERS)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if problem := _problem(line, names := _parse_header(line, delimiter, quoted=quoted)):
        raise ValueError(f"{path}: the first line has to name the columns, but it {problem}")
    repeated = [shortened(name) for name, count in sorted(Counter(names).items()) if count > 1]
    if repeated:
        raise ValueError(f"{path}: the header repeats the columns {', '.join(repeated[:20])}")
    return names


def _parse_header(line: str, delimiter: str, *, quoted: bool) -> list[str]:
    try:
        if quoted:
            return next(csv.reader([line], delimiter=delimiter), [])
        return next(csv.reader([line], delimiter=delimiter, quoting=csv.QUOTE_NONE), [])
    except csv.Error:  # a name of more than 100,000 characters
        return ["\n"]


def _problem(line: str, names: list[str]) -> str | None:
    if len(line) == _HEADER_CHARACTERS:
        return f"has more than {_HEADER_CHARACTERS:,} characters; is this text, one row a line?"
    if not names:
        return "is empty"
    if any("\n" in name or "\r" in name for name in names):
        return "has a name that does not end; is a quote left open?"
    return None


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
            frame = frame.with_columns(row=pl.Series(rows, dtype=pl.Int64))
            done = int(rows[-1]) if len(rows) else done
            skipped[:] = [number for number in skipped if number > done]
            blank = pl.all_horizontal(pl.col(columns).str.strip_chars() == "")
            kept = frame.filter(~blank)
            report.blank += frame.height - kept.height
            report.rows += kept.height
            yield kept
    except (pa.ArrowException, OSError) as error:
        place = f" after row {done}" if done > 1 else ""
        reason = str(error)
        if "straddl" in reason:
            reason = (
                f"a row has more than {_BLOCK_BYTES >> 20} MB; is a quote left open, or are there "
                "no line breaks? Repair or shorten that row"
            )
        elif "skip initial" in reason:
            reason = "there is no row after the header"
        raise ValueError(f"{path}: cannot be read as delimited text{place}: {reason}") from error
    report.add(WRONG_COLUMNS, first, lines)
    report.rows += lines


def _row_numbers(done: int, count: int, skipped: list[int]) -> NDArray[np.int64]:
    """Numbers of the next `count` rows after row `done` that were not skipped."""
    jumped = np.array(skipped, dtype=np.int64)
    rows = np.arange(done + 1, done + count + len(jumped) + 1, dtype=np.int64)
    return np.delete(rows, jumped[jumped <= rows[-1]] - done - 1)[:count] if count else rows[:0]


def _as_utf8() -> Callable[[pa.Buffer], bytes]:
    """Blocks of bytes as UTF-8. pyarrow gives up on malformed rows that are not."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return lambda block: decoder.decode(block, final=not len(block)).encode()


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
            pa.TransformInputStream(file, _as_utf8()),
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
        ) as reader,
    ):
        yield from reader
