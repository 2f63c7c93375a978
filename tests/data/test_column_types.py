"""Parquet columns of every type in the place of every column of a table."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import attempt
from raw_tables import read
from reader_files import CASES, settings, write

LEAST, MOST = -(2**63), 2**63 - 1


def column(values: list[Any], kind: pa.DataType) -> pa.Array:
    return pa.array([*values, None, *values, None], kind)


NUMBERS = [1, 2]
TYPES: dict[str, pa.Array] = {
    "bool": column([True, False], pa.bool_()),
    "int8": column(NUMBERS, pa.int8()),
    "uint64": column([2**63, 2**64 - 1], pa.uint64()),
    "half": column(NUMBERS, pa.float16()),
    "double": column([1e300, float("nan")], pa.float64()),
    "binary": column([b"\xff", b"1"], pa.binary()),
    "fixed binary": column([b"\xff", b"1"], pa.binary(1)),
    "uuid": column([b"a" * 16, b"\xff" * 16], pa.uuid()),
    "json": column(["1", "{}"], pa.json_()),
    "view": column(["1", "x"], pa.string_view()),
    "large": column(["1", "x"], pa.large_string()),
    "dictionary": column(["1", "x"], pa.string()).dictionary_encode(),
    "dictionary of bytes": column([b"1", b"\xff"], pa.binary()).dictionary_encode(),
    "list": column([[1], []], pa.list_(pa.int64())),
    "list of texts": column([["a"], ["b", None]], pa.list_(pa.string())),
    "array": column([[1, 2], [3, 4]], pa.list_(pa.int8(), 2)),
    "struct": column([{"a": 1}, {"a": None}], pa.struct({"a": pa.int64()})),
    "map": column([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
    "decimal": column([Decimal("1.5"), Decimal(-2)], pa.decimal128(38, 10)),
    "wide decimal": column([Decimal(10) ** 50, Decimal(1)], pa.decimal256(60, 2)),
    "date": column([0, 2**31 - 1, -(2**31)], pa.date32()),
    "date of milliseconds": column([0, 86_400_000], pa.date64()),
    "time": column(NUMBERS, pa.time32("s")),
    "duration": column([MOST, LEAST], pa.duration("us")),
    "moment": column([MOST, LEAST + 1, 0], pa.timestamp("ms")),
    "fine moment": column([MOST, LEAST + 1, 0], pa.timestamp("ns")),
    "moment of a zone": column([MOST, LEAST + 1, 0], pa.timestamp("us", "Europe/Berlin")),
    "moment of an offset": column([0, 5], pa.timestamp("us", "+02:00")),
    "moment of no zone": column([0, 5], pa.timestamp("us", "Mars/Phobos")),
    "null": pa.nulls(6),
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    "place",
    ["e user_id", "e item_id", "e timestamp", "e rating", "i item_id", "i name", "i kind"],
)
def test_columns_of_any_type(kind: str, place: str, tmp_path: Path) -> None:
    """Clean rows, all accounted for, or a ValueError with file, column and type."""
    write(tmp_path, CASES["table parquet"])
    file, name = place.split()
    path = tmp_path / f"{file}.parquet"
    values = TYPES[kind]
    table = pq.read_table(path)
    table = pa.concat_tables([table, table])[: len(values)]
    config = settings("table parquet", tmp_path)
    if name == "rating":
        table = table.append_column(name, [[1] * len(values)])
        config = dataclasses.replace(config, rating_column=name, min_rating=0.0)
    pq.write_table(table.set_column(table.column_names.index(name), name, values), path)
    raw, refusal = attempt(lambda: read(config))
    if raw is None:
        inner = name.removesuffix("_id").replace("timestamp", "time")
        assert refusal.split(": column")[0].endswith(path.name)
        assert f"'{inner}' has type" in refusal or f"'{name}' has type" in refusal
        return
    report = raw.reports[file == "i"]
    left_out = report.malformed + (raw.dropped.get("below_min_rating", 0) if file == "e" else 0)
    found = raw.events.height if file == "e" else raw.items.height + raw.dropped["repeated_items"]
    assert report.rows == len(table) == found + left_out
    assert raw.events.null_count().row(0) == (0, 0, 0, 0)
    assert raw.items.null_count().row(0) == (0, 0, 0)
