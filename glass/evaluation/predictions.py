"""Ranked lists of a system as Parquet: `predictions/<system>.parquet`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glass.data.parquet_file import read_whole
from glass.evaluation.arrays import AnyIntArray, Int32Array

_SCHEMA = {
    "sample": pl.Int64(),
    "user": pl.Int32(),
    "sids": pl.List(pl.Int32()),
    "scores": pl.List(pl.Float32()),
    "items": pl.List(pl.Int32()),
}


@dataclass(frozen=True)
class Predictions:
    """Lists of S samples; row s belongs to sample s."""

    users: Int32Array
    """int32 [S]."""
    sids: Int32Array
    """int32 [S, W] SID indices (rows of `SidCatalogue.unique_codes`), best first, -1 = none."""
    scores: NDArray[np.float32] | None = None
    """float32 [S, W] score of each SID, if the system has one."""
    items: Int32Array | None = None
    """int32 [S, W'] items to show, if they are ranked, best first, -1 = none."""


def write_predictions(
    path: Path | str,
    users: AnyIntArray,
    sids: AnyIntArray,
    scores: NDArray[Any] | None = None,
    items: AnyIntArray | None = None,
) -> None:
    """Writes one row a sample: sample i64, user i32, and the lists sids, scores, items.

    Scores and items that are not given are null.

    Args:
        users: integer [S]; sids: integer [S, W]; scores: float [S, W]; items: integer [S, W'].

    Raises:
        ValueError: shapes that do not fit.
    """
    path = Path(path)
    num_samples = len(users)
    if sids.ndim != 2 or len(sids) != num_samples:
        raise ValueError(f"sids must be [{num_samples}, W], a list a user, got {list(sids.shape)}")
    if scores is not None and scores.shape != sids.shape:
        raise ValueError(f"scores must be one a SID, {list(sids.shape)}, got {list(scores.shape)}")
    if items is not None and (items.ndim != 2 or len(items) != num_samples):
        raise ValueError(f"items must be [{num_samples}, W'], got {list(items.shape)}")
    table = pl.DataFrame(
        {
            "sample": np.arange(num_samples),
            "user": np.asarray(users, np.int32),
            "sids": _lists(np.asarray(sids, np.int32)),
            "scores": None if scores is None else _lists(np.asarray(scores, np.float32)),
            "items": None if items is None else _lists(np.asarray(items, np.int32)),
        },
        schema=_SCHEMA,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        table.write_parquet(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_predictions(path: Path | str) -> Predictions:
    """Reads what `write_predictions` wrote; without samples the lists come back as [0, 0].

    Raises:
        ValueError: no such file, other columns, samples out of order, or lists of unequal length.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist; `glass evaluate` writes it")
    table = read_whole(path, "write the predictions again")
    if dict(table.schema) != _SCHEMA:
        raise ValueError(f"{path} has columns {dict(table.schema)}, expected {_SCHEMA}")
    if not np.array_equal(table["sample"].to_numpy(), np.arange(len(table))):
        raise ValueError(f"{path}: column sample must count 0..{len(table) - 1} in order")
    sids = _matrix(path, table["sids"])
    if sids is None:
        raise ValueError(f"{path}: column sids has empty rows; write the predictions again")
    scores, items = _matrix(path, table["scores"]), _matrix(path, table["items"])
    return Predictions(table["user"].to_numpy(), sids, scores, items)


def _lists(matrix: NDArray[Any]) -> pl.Series:
    series = pl.Series(matrix.reshape(-1))
    return series.reshape(matrix.shape).arr.to_list()


def _matrix(path: Path, column: pl.Series) -> NDArray[Any] | None:
    """[S, W] array of a list column, None where it is null throughout."""
    if len(column) and column.null_count() == len(column):
        return None
    lengths = column.list.len()
    if column.null_count() or lengths.n_unique() > 1:
        raise ValueError(f"{path}: the lists of column {column.name} differ in length")
    values = column.explode() if len(column) and lengths[0] else column.list.explode()
    return values.to_numpy().reshape(len(column), -1 if len(values) else 0)
