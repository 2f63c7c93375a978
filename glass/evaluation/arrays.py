"""Array operations that the metrics and the baselines share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

BoolArray: TypeAlias = NDArray[np.bool_]
Int32Array: TypeAlias = NDArray[np.int32]
Int64Array: TypeAlias = NDArray[np.int64]
FloatArray: TypeAlias = NDArray[np.float64]
AnyIntArray: TypeAlias = NDArray[np.integer[Any]]

MAX_CELLS = 1 << 21
"""Largest intermediate array of a chunk: 16 MiB of int64 or float64."""


def first_occurrences(lists: AnyIntArray) -> BoolArray:
    """Marks the first occurrence of each number >= 0 in its row.

    Args:
        lists: integer [S, W].

    Returns:
        bool [S, W]; False at repetitions and at negative numbers.
    """
    by_value = np.argsort(lists, axis=1, kind="stable")
    values = np.take_along_axis(lists, by_value, axis=1)
    is_first = values >= 0
    is_first[:, 1:] &= values[:, 1:] != values[:, :-1]
    mask = np.empty_like(is_first)
    np.put_along_axis(mask, by_value, is_first, axis=1)
    return mask


def keep_marked(lists: AnyIntArray, mask: BoolArray, width: int) -> Int32Array:
    """Moves the marked entries of each row to its front and pads with -1.

    Args:
        lists: integer [S, W].
        mask: bool [S, W], the entries that stay.
        width: columns of the result; later marked entries are dropped.

    Returns:
        int32 [S, width].
    """
    place = np.cumsum(mask, axis=1) - 1
    row, column = np.nonzero(mask & (place < width))
    kept = np.full((len(lists), width), -1, np.int32)
    kept[row, place[row, column]] = lists[row, column]
    return kept


def top_columns(scores: NDArray[Any], width: int) -> Int64Array:
    """The `width` largest entries of each row, best first; ties go to the lower column.

    `np.argpartition` picks among ties as it likes; here the result is a function of the scores.

    Args:
        scores: number [S, C] without NaN.
        width: at most C.

    Returns:
        int64 [S, width] columns.
    """
    rows, columns = scores.shape
    if width >= columns:
        return np.argsort(-scores, axis=1, kind="stable")
    threshold = np.partition(scores, columns - width, axis=1)[:, columns - width, None]
    taken = scores > threshold
    tied = scores == threshold
    free = width - np.count_nonzero(taken, axis=1)[:, None]
    taken |= tied & (np.cumsum(tied, axis=1, dtype=np.int32) <= free)
    chosen = np.nonzero(taken)[1].reshape(rows, width)
    order = np.argsort(-np.take_along_axis(scores, chosen, axis=1), axis=1, kind="stable")
    return np.take_along_axis(chosen, order, axis=1)


def row_chunks(num_rows: int, cells_per_row: int) -> Iterator[slice]:
    """Slices of rows with at most `MAX_CELLS` cells each (at least one row)."""
    step = max(1, MAX_CELLS // max(1, cells_per_row))
    for begin in range(0, num_rows, step):
        yield slice(begin, min(begin + step, num_rows))


def ragged_chunks(lengths: AnyIntArray) -> Iterator[slice]:
    """Slices of ragged rows that hold about `MAX_CELLS` elements each (at least one row)."""
    ends = np.cumsum(lengths, dtype=np.int64)
    begin = 0
    while begin < len(lengths):
        before = int(ends[begin - 1]) if begin else 0
        end = int(np.searchsorted(ends, before + MAX_CELLS, side="right"))
        end = max(end, begin + 1)
        yield slice(begin, end)
        begin = end


def ragged_positions(start: AnyIntArray, end: AnyIntArray) -> tuple[Int64Array, Int64Array]:
    """Row and flat position of every element of the ranges [start, end).

    Args:
        start: integer [S]; end: integer [S], not below `start`.

    Returns:
        (int64 [T] row, int64 [T] position), rows one after another.
    """
    lengths = np.asarray(end, np.int64) - start
    row = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
    within = np.arange(len(row), dtype=np.int64) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return row, within + np.asarray(start, np.int64)[row]
