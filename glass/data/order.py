"""Order of events, groups and splits. Everything here works on whole columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from glass.config import DataConfig

IntArray = NDArray[np.int64]
Chunks = Callable[[], Iterator[IntArray]]
_BINS = 1 << 16
TRAIN, VALID, TEST = 0, 1, 2
SPLITS = {"train": TRAIN, "valid": VALID, "test": TEST}


def tie_keys(rows: IntArray, seed: int) -> NDArray[np.uint64]:
    """Pseudo-random key of each source row: uint64 [T], from seed and row number alone.

    A shuffle of the ties by drawing would move events whenever another row comes or goes; a hash
    (the finaliser of splitmix64) keeps every event where it is whatever happens to the others.
    """
    start = (seed * 0xD1342543DE82EF95 + 0x9E3779B97F4A7C15) % 2**64
    with np.errstate(over="ignore"):
        return mixed(rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start))


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64, a bijection: every bit of a value moves every bit of its own."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return found


def event_order(users: IntArray, times: IntArray, rows: IntArray, config: DataConfig) -> IntArray:
    """Positions that sort events by user, time, tie order: int64 [T]."""
    ties = tie_keys(rows, config.seed) if config.ties == "shuffle" else rows
    return np.lexsort((rows, ties, times, users))


def group_numbers(users: IntArray, times: IntArray, target_group: str) -> IntArray:
    """Number of each sorted event's group within its user: int64 [T], from 0 without gaps."""
    new_user = _changes(users)
    new_group = new_user | _changes(times)
    if target_group == "event":
        new_group = np.ones(len(users), dtype=bool)
    running = np.cumsum(new_group) - 1
    return running - _carried(running, new_user)


def renumber_groups(users: IntArray, groups: IntArray) -> IntArray:
    """Group numbers from 0 without gaps, after events have been left out."""
    return group_numbers(users, groups, "timestamp")


def assign_splits(
    users: IntArray, times: IntArray, groups: IntArray, config: DataConfig
) -> NDArray[np.int8]:
    """Split of each sorted event: int8 [T]; whole groups, train before validation before test.

    `last_n`: a user's first group is always train, so that validation and test have a history. Of
    the other groups the newest are test until they hold `num_test_events`, then those before are
    validation until they hold `num_valid_events`; a user with too few events has fewer validation
    events first, then fewer test events.

    `time`: test is every event from the time on at which the newest `test_share` of the events
    begin, validation likewise with `valid_share` of the events before the test ones. Events at the
    cut itself belong to the newer side, so a share is reached or passed.
    """
    if not len(users):
        return np.zeros(0, dtype=np.int8)
    if config.split == "time":
        cuts = time_cuts(lambda: iter((times,)), config.test_share, config.valid_share)
        return split_at(times, cuts)
    return _split_last(users, groups, config.num_test_events, config.num_valid_events)


def _split_last(
    users: IntArray, groups: IntArray, num_test: int, num_valid: int
) -> NDArray[np.int8]:
    starts = np.flatnonzero(_changes(users) | _changes(groups))
    sizes = np.diff(np.append(starts, len(users)))
    new_user = _changes(users[starts])
    user = np.cumsum(new_user) - 1
    per_user = np.bincount(user, weights=sizes).astype(np.int64)
    until = np.cumsum(sizes)
    newer = np.cumsum(per_user)[user] - until  # events in newer groups of the user
    test = ~new_user & (newer < num_test)
    num_in_test = np.bincount(user, weights=sizes * test).astype(np.int64)
    valid = ~new_user & ~test & (newer - num_in_test[user] < num_valid)
    split = np.where(test, TEST, np.where(valid, VALID, TRAIN)).astype(np.int8)
    return np.repeat(split, sizes)


def time_cuts(
    chunks: Chunks, test_share: float, valid_share: float
) -> tuple[int | None, int | None]:
    """First time of the test events, and of the validation events; None: there are none.

    Args:
        chunks: begins to yield all times, in any order, some at a time.
        test_share: of all events.
        valid_share: of those before the test events.
    """
    left = sum(len(part) for part in chunks())
    cuts: list[int | None] = []
    for share in (test_share, valid_share):
        count = int(share * left + 1e-9)  # 0.29 * 100 is 28.999..
        if count == 0:
            cuts.append(None)
            continue
        cut = nth_smallest(chunks, left - count, below=cuts[0] if cuts else None)
        cuts.append(cut)
        left = sum(int((part < cut).sum()) for part in chunks())
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


def _changes(values: IntArray) -> NDArray[np.bool_]:
    """True where a value differs from the one before, and at the first."""
    changed = np.ones(len(values), dtype=bool)
    changed[1:] = values[1:] != values[:-1]
    return changed


def _carried(values: IntArray, at: NDArray[np.bool_]) -> IntArray:
    """The value at the last True of `at`, carried forward; `at` begins with True."""
    return values[at][np.cumsum(at) - 1] if len(values) else values
