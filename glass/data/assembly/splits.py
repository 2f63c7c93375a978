"""Splits of a partition's events: from its users alone, or at times that hold for all users."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glass.config import DataConfig
from glass.data.assembly.users import SortedUsers
from glass.data.order import TEST, TRAIN, VALID, IntArray, assign_splits

Split = Callable[[pl.DataFrame], NDArray[np.int8]]
"""int8 [T] split of each event of a partition's table."""
_BINS = 1 << 16
Chunks = Callable[[], Iterator[IntArray]]


def make_split(users: SortedUsers, config: DataConfig) -> Split:
    """How events are split; a source that says it itself is believed."""
    if users.split_given:
        return lambda events: events["split"].to_numpy()
    if config.split == "time":
        cuts = time_cuts(users, config.test_share, config.valid_share)
        return lambda events: split_at(events["time"].to_numpy(), cuts)

    def by_user(events: pl.DataFrame) -> NDArray[np.int8]:
        users, times, groups = (events[name].to_numpy() for name in ("user", "time", "group"))
        return assign_splits(users, times, groups, config)

    return by_user


def time_cuts(
    users: SortedUsers, test_share: float, valid_share: float
) -> tuple[int | None, int | None]:
    """First time of the test events, and of the validation events; None: there are none.

    As in `glass.data.order`, where the times are few enough to be sorted.
    """
    parts = users.events

    def times() -> Iterator[IntArray]:
        for number in parts.numbers():
            yield parts.get(number)["time"].to_numpy()

    left = sum(len(part) for part in times())
    cuts: list[int | None] = []
    for share in (test_share, valid_share):
        count = int(share * left + 1e-9)  # 0.29 * 100 is 28.999..
        if count == 0:
            cuts.append(None)
            continue
        below = cuts[0] if cuts else None
        cut = nth_smallest(times, left - count, below)
        cuts.append(cut)
        left = sum(int((part < cut).sum()) for part in times())
    return cuts[0], cuts[1]


def split_at(times: IntArray, cuts: tuple[int | None, int | None]) -> NDArray[np.int8]:
    """Events from a cut on are test, or validation."""
    split = np.full(len(times), TRAIN, dtype=np.int8)
    for cut, label in zip(reversed(cuts), (VALID, TEST), strict=True):
        if cut is not None:
            split[times >= cut] = label
    return split


def nth_smallest(chunks: Chunks, n: int, below: int | None = None) -> int:
    """The value at place n (from 0) of all values below `below`, sorted.

    Counts values in equal bins and goes on within the bin that holds the place, until that is one
    value wide: two or three passes over the chunks, and memory for the bins alone.
    """
    smallest = min(int(part.min()) for part in chunks() if len(part))
    largest = max(int(part.max()) for part in chunks() if len(part))
    largest = largest if below is None else min(largest, below - 1)
    while smallest < largest:
        width = -(-(largest - smallest + 1) // _BINS)
        counts = np.zeros(_BINS, dtype=np.int64)
        for part in chunks():
            inside = part[(part >= smallest) & (part <= largest)]
            counts += np.bincount((inside - smallest) // width, minlength=_BINS)
        upto = np.cumsum(counts)
        bin_ = int(np.searchsorted(upto, n, side="right"))
        n -= int(upto[bin_ - 1]) if bin_ else 0
        smallest, largest = (
            smallest + bin_ * width,
            min(largest, smallest + (bin_ + 1) * width - 1),
        )
    return smallest
