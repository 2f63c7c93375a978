"""Parquet as polars tables. Whatever is wrong with a file is a ValueError that names it.

pyarrow reads it: of some damage polars panics. But pyarrow checks neither texts nor offsets, which
polars relies on, so every column is checked before it is handed over. And it dies when it is asked
about a column of a damaged footer, so only rows and sizes of whole groups are. Texts are read as
dictionaries: otherwise a long text that a small file repeats would fill the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from polars.exceptions import PolarsError

from glass.data.cleaning import decoded_text
from glass.data.compressed import refuse_compressed

ROWS = 1 << 20
"""Rows of a table."""
MAX_ROWS_PER_BYTE = 1_000
"""Rows that a file may claim for each of its bytes. A column of one value alone comes to 600 with
the pages of today's writers; users, items and times together to 4, if all repeat a lot."""
MAX_GROWTH = 1_000
"""Times that texts may take more memory than the file has of them, above `UNJUDGED` bytes."""
UNJUDGED = 1 << 30
_TABLE_BYTES = 256 << 20
"""Of a table, about: rows with long texts come in smaller tables."""
_DAMAGE = (pa.ArrowException, PolarsError, OSError, UnicodeDecodeError)
_REMEDY = "get it again, or write it anew"


def column_names(path: Path) -> list[str]:
    """Names of the outermost columns; ValueError for a file that is no Parquet."""
    try:
        refuse_compressed(path)
        names: list[str] = pq.read_schema(path).names
    except _DAMAGE as error:
        raise _unreadable(path, 0, error, _REMEDY) from error
    return names


def num_rows(path: Path) -> int:
    """Rows that a file says it has; ValueError for a file that is no Parquet."""
    try:
        count: int = pq.read_metadata(path).num_rows
    except _DAMAGE as error:
        raise _unreadable(path, 0, error, _REMEDY) from error
    return count


def read_tables(
    path: Path,
    columns: Sequence[str] | None = None,
    rows: int = ROWS,
    remedy: str = _REMEDY,
) -> Iterator[pl.DataFrame]:
    """Tables of at most `rows` rows of the columns; None: of all.

    Raises:
        ValueError: the file is damaged (the message has the last row before that, and `remedy`),
            claims more rows or longer texts than its size can hold, or has a type that polars
            does not know.
    """
    done = 0
    try:
        metadata = pq.read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
        wanted = schema.names if columns is None else sorted(set(columns))
        _check_claims(path, metadata)
        texts = [field.name for field in schema if _is_text(field.type) and field.name in wanted]
        with pq.ParquetFile(
            path, metadata=metadata, read_dictionary=texts, page_checksum_verification=True
        ) as file:
            fitting = metadata.num_rows * _TABLE_BYTES // max(_unpacked(metadata), 1)
            size = max(1, min(rows, fitting))
            for groups in _groups(metadata, size):
                for batch in file.iter_batches(batch_size=size, row_groups=groups, columns=wanted):
                    for part in _parts(path, done, batch):
                        yield pl.DataFrame([_series(path, name, part) for name in wanted])
                        done += part.num_rows
    except _DAMAGE as error:
        raise _unreadable(path, done, error, remedy) from error


def read_whole(path: Path, remedy: str = _REMEDY) -> pl.DataFrame:
    """All of a file; ValueError as `read_tables`."""
    tables = list(read_tables(path, remedy=remedy))
    if tables:
        return pl.concat(tables)
    return pl.DataFrame(pq.read_schema(path).empty_table())


def _unreadable(path: Path, done: int, error: BaseException, remedy: str) -> ValueError:
    place = f" after row {done}" if done else ""
    reason = " ".join(str(error).split())
    return ValueError(f"{path}: cannot be read as Parquet{place}: {reason}; {remedy}")


def _unpacked(metadata: pq.FileMetaData) -> int:
    """Bytes of all pages, by the footer."""
    return sum(metadata.row_group(k).total_byte_size for k in range(metadata.num_row_groups))


def _groups(metadata: pq.FileMetaData, rows: int) -> Iterator[list[int]]:
    """Row groups that make a table: pyarrow keeps the pages of all that it is asked for at once."""
    groups: list[int] = []
    count = 0
    for number in range(metadata.num_row_groups):
        size = metadata.row_group(number).num_rows
        if groups and count + size > rows:
            yield groups
            groups, count = [], 0
        groups.append(number)
        count += size
    if groups:
        yield groups


def _check_claims(path: Path, metadata: pq.FileMetaData) -> None:
    """Refuses a small file whose footer claims more than one could wait for or hold in memory."""
    size, rows, unpacked = path.stat().st_size, metadata.num_rows, _unpacked(metadata)
    if rows > MAX_ROWS_PER_BYTE * size:
        raise ValueError(
            f"{path} claims {rows:,} rows in {size:,} bytes, more than {MAX_ROWS_PER_BYTE:,} a "
            "byte, which no data set has: it is damaged, or made to fill the memory"
        )
    if unpacked > max(UNJUDGED, MAX_GROWTH * size):
        raise ValueError(
            f"{path} has {size:,} bytes and unpacks to {unpacked:,}, more than {MAX_GROWTH:,} "
            "times as many: it is damaged, or made to fill the memory"
        )


def _parts(path: Path, done: int, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in pieces whose texts are of bounded size."""
    total, longest = 0, 1
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if not pa.types.is_dictionary(column.type) or not _is_text(column.type.value_type):
            continue
        lengths = pc.binary_length(column.dictionary)
        used = pc.sum(lengths.take(column.indices)).as_py() or 0
        if used > max(UNJUDGED, MAX_GROWTH * (pc.sum(lengths).as_py() or 0)):
            raise ValueError(
                f"{path}: after row {done} column {name!r} repeats long texts until they take "
                f"{used:,} bytes: it is damaged, or made to fill the memory; leave the column out"
            )
        total, longest = total + used, max(longest, pc.max(lengths).as_py() or 0)
    rows = batch.num_rows if total <= _TABLE_BYTES else max(1, _TABLE_BYTES // longest)
    for start in range(0, batch.num_rows, max(rows, 1)):
        yield batch.slice(start, rows)


def _series(path: Path, name: str, batch: pa.RecordBatch) -> pl.Series:
    """A checked column; texts with bytes that are not UTF-8 have U+FFFD in their place."""
    places = batch.schema.get_all_field_indices(name)
    if len(places) != 1:
        raise ValueError(f"{path}: {len(places)} columns are called {name!r}; rename or drop them")
    array: Any = batch.column(places[0])
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    kind = array.type
    if pa.types.is_dictionary(kind) and _is_text(kind.value_type):
        array = array.dictionary.take(array.indices)
        kind = array.type
    if _is_text(kind):
        array = array.cast(pa.large_binary())
    array.validate(full=True)
    if pa.types.is_decimal256(kind):
        raise ValueError(_unknown(path, name, kind))
    try:
        column = pl.Series(name, pl.from_arrow(array))
    except PolarsError as error:
        raise ValueError(_unknown(path, name, kind)) from error
    return decoded_text(column) if _is_text(kind) else column


def _is_text(kind: pa.DataType) -> bool:
    return str(kind) in ("string", "large_string", "string_view")


def _unknown(path: Path, name: str, kind: pa.DataType) -> str:
    return (
        f"{path}: column {name!r} has type {kind}, which cannot be read; write it as text or as "
        "numbers of 64 bits, or leave it out"
    )
