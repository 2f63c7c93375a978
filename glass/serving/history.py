"""What is kept of one user's events: the log, the counts of items, the newest by first code.

A log is only ever written behind its end or moved into a new buffer, so what a reader took from it
stays as it was. Buckets and counts change in place: a reader copies them.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Number = TypeVar("Number", bound=np.generic)

_LEAST = 8
"""Room of a new buffer."""


def _moved(old: NDArray[Number], room: int, size: int) -> NDArray[Number]:
    new = np.empty(room, old.dtype)
    new[:size] = old[:size]
    return new


def among(items: Ints, held: Ints) -> NDArray[np.bool_]:
    """Whether each of `items` is in `held`, which rises."""
    if not len(held):
        return np.zeros(len(items), bool)
    place = np.minimum(held.searchsorted(items), len(held) - 1)
    found: NDArray[np.bool_] = held[place] == items
    return found


class Log:
    """Items of the newest events, oldest first; times and visits too for a model that reads them.

    Events are numbered from the user's first on, also those that were dropped.
    """

    def __init__(self, timed: bool) -> None:
        self._items = np.empty(0, np.int32)
        self._times = np.empty(0, np.int64)
        self._visits = np.empty(0, np.int64)
        self._timed = timed
        self._base = 0
        self.first = 0
        """Number of the oldest event that is kept."""
        self.end = 0
        """Events so far."""

    def append(self, items: Ints, times: Longs | None, visits: Longs | None) -> None:
        """Adds events; times (seconds) and visit numbers [E] for a timed log."""
        begin, end = self.end - self._base, self.end - self._base + len(items)
        if end > len(self._items):
            begin, end = self._make_room(len(items))
        self._items[begin:end] = items
        if self._timed:
            assert times is not None
            assert visits is not None
            self._times[begin:end], self._visits[begin:end] = times, visits
        self.end += len(items)

    def _make_room(self, more: int) -> tuple[int, int]:
        # New buffers, without what was dropped: readers of the old ones are not disturbed.
        held = slice(self.first - self._base, self.end - self._base)
        size = held.stop - held.start
        room = max(_LEAST, size + more + (size + more) // 2)
        self._items = _moved(self._items[held], room, size)
        if self._timed:
            self._times = _moved(self._times[held], room, size)
            self._visits = _moved(self._visits[held], room, size)
        self._base = self.first
        return size, size + more

    def items(self, begin: int, end: int) -> Ints:
        """Items of the events numbered begin .. end - 1; a view that will not change."""
        return self._items[begin - self._base : end - self._base]

    def times(self, begin: int, end: int) -> Longs:
        """Their times, of a timed log."""
        return self._times[begin - self._base : end - self._base]

    def visits(self, begin: int, end: int) -> Longs:
        """Their visit numbers, of a timed log."""
        return self._visits[begin - self._base : end - self._base]

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return self._items.nbytes + self._times.nbytes + self._visits.nbytes


class ItemCounts:
    """How often each item occurs, in rising order of the items."""

    def __init__(self) -> None:
        self._items = np.empty(0, np.int32)
        self._counts = np.empty(0, np.int32)
        self._size = 0

    def set(self, items: Ints) -> None:
        """Counts these items alone."""
        distinct, counts = np.unique(items, return_counts=True)
        self._items, self._counts = distinct.astype(np.int32), counts.astype(np.int32)
        self._size = len(distinct)

    def add(self, item: int) -> None:
        """One more."""
        place, size = self._place(item), self._size
        if place < size and self._items[place] == item:
            self._counts[place] += 1
            return
        if size == len(self._items):
            room = max(_LEAST, size + size // 2)
            self._items = _moved(self._items, room, size)
            self._counts = _moved(self._counts, room, size)
        for held, value in ((self._items, item), (self._counts, 1)):
            held[place + 1 : size + 1] = held[place:size]
            held[place] = value
        self._size += 1

    def remove(self, item: int) -> None:
        """One less of an item that is counted."""
        place, size = self._place(item), self._size
        self._counts[place] -= 1
        if self._counts[place] == 0:
            for held in (self._items, self._counts):
                held[place : size - 1] = held[place + 1 : size]
            self._size -= 1

    def _place(self, item: int) -> int:
        return int(self._items[: self._size].searchsorted(item))

    def copy(self) -> tuple[Ints, Ints]:
        """(items, counts) of now."""
        return self._items[: self._size].copy(), self._counts[: self._size].copy()

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return self._items.nbytes + self._counts.nbytes


class Buckets:
    """The newest M events of each first code: all that a hard search can find.

    However long the history, there are no more than K * M of them, and a new event moves no more.
    Totals count all events of a code, so that the one that a sliding window drops is known to be
    among the newest or not.

    Args:
        num_codes: K.
        most: M, `search_max_items`.
    """

    def __init__(self, num_codes: int, most: int) -> None:
        self._most = most
        self._items = np.empty(0, np.int32)
        self._bounds = np.zeros(num_codes + 1, np.int32)
        self._totals = np.zeros(num_codes, np.int32)

    def set(self, items: Ints, codes: NDArray[np.integer]) -> None:
        """Holds these events alone, oldest first, with their first codes."""
        num_codes = len(self._totals)
        totals = np.bincount(codes, minlength=num_codes)
        order = np.argsort(codes.astype(np.uint16), kind="stable")  # of 16 bits: a radix sort
        newer = totals.cumsum()[codes[order]] - np.arange(len(order)) - 1  # in its bucket
        self._items = items[order[newer < self._most]]
        self._totals[:] = totals
        self._bounds[1:] = np.minimum(totals, self._most).cumsum()

    def add(self, item: int, code: int) -> None:
        """A new event."""
        begin, end, size = (int(self._bounds[at]) for at in (code, code + 1, -1))
        self._totals[code] += 1
        if end - begin == self._most:
            self._items[begin : end - 1] = self._items[begin + 1 : end]
            self._items[end - 1] = item
            return
        if size == len(self._items):
            self._items = _moved(self._items, max(_LEAST, size + size // 2), size)
        self._items[end + 1 : size + 1] = self._items[end:size]
        self._items[end] = item
        self._bounds[code + 1 :] += 1

    def drop_oldest(self, code: int) -> None:
        """The oldest event of a code is no longer searched."""
        begin, end, size = (int(self._bounds[at]) for at in (code, code + 1, -1))
        self._totals[code] -= 1
        if end - begin > self._totals[code]:
            self._items[begin : size - 1] = self._items[begin + 1 : size]
            self._bounds[code + 1 :] -= 1

    def copy(self) -> tuple[Ints, Ints]:
        """(items bucket after bucket, oldest first; bounds [K+1]) of now."""
        return self._items[: self._bounds[-1]].copy(), self._bounds.copy()

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return self._items.nbytes + self._bounds.nbytes + self._totals.nbytes
