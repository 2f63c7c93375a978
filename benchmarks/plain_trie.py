"""Tries as others build them: in NumPy, whole columns at a time, without a loop over items."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

Arrays = tuple[list[Any], list[Any]]
"""Offsets and codes of each level, int32; the last level leads from the leaves to the items."""


def by_lexsort(sids: Tensor, sizes: tuple[int, ...]) -> Arrays:
    """Sort the rows, mark where a prefix changes, number what is marked by a running sum.

    The idea of STATIC (arXiv 2602.22647): a trie in compressed sparse rows of its sorted SIDs.
    """
    table = sids.numpy()
    order = np.lexsort(table.T[::-1])
    rows = table[order]
    changes = np.zeros(len(rows), dtype=bool)
    changes[0] = True
    parents = np.zeros(len(rows), dtype=np.int32)
    offsets, codes = [], []
    for column in rows.T:
        changes[1:] |= column[1:] != column[:-1]
        first = np.flatnonzero(changes)
        counts = np.bincount(parents[first])
        offsets.append(np.concatenate(([0], np.cumsum(counts))).astype(np.int32))
        codes.append(column[first].astype(np.int32))
        parents = np.cumsum(changes) - 1
    offsets.append(np.append(first, len(rows)).astype(np.int32))
    codes.append(order.astype(np.int32))
    return offsets, codes


def by_packed_keys(sids: Tensor, sizes: tuple[int, ...]) -> Arrays:
    """One 64-bit key an item, sorted; each level's nodes are the distinct beginnings of keys.

    NumPy sorts 64-bit keys with vector instructions where the machine has them.
    """
    assert np.prod([float(size) for size in sizes]) < 2.0**62
    key = np.zeros(len(sids), dtype=np.int64)
    for column, size in zip(sids.numpy().T, sizes, strict=True):
        key = key * size + column
    order = np.argsort(key, kind="stable")
    offsets, codes = [], []
    beginning = key[order]
    starts = [np.append(np.flatnonzero(np.diff(beginning, prepend=-1)), len(key))]
    for size in reversed(sizes):
        distinct = beginning[starts[-1][:-1]]
        codes.append((distinct % size).astype(np.int32))
        beginning = beginning // size
        starts.append(np.append(np.flatnonzero(np.diff(beginning, prepend=-1)), len(key)))
    for children, parents in pairwise(starts):
        offsets.append(np.searchsorted(children, parents).astype(np.int32))
    return (
        [*offsets[::-1], starts[0].astype(np.int32)],
        [*codes[::-1], order.astype(np.int32)],
    )
