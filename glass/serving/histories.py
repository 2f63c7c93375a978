"""Histories of all users as a model looks at them, kept current event by event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from glass.serving.history import Buckets, Ints, ItemCounts, Log, Longs, among
from glass.serving.reads import Reads
from glass_kernels.sid_tier import sid_tier_update_

_USERS_A_BLOCK = 256
_MANY = 64
"""So many new events are indexed anew rather than one by one."""
_FEW = 8
"""Up to so many, a call of the operator costs more than what it does."""


@dataclass(frozen=True)
class Snapshot:
    """One user at one moment; nothing in it changes any more."""

    short: Ints
    """Newest events, oldest first."""
    searched: int
    """Events of the searched history."""
    counted: tuple[Ints, Ints]
    """Distinct items of the whole history, rising, and how often each occurs."""
    short_times: Longs | None = None
    """Times of `short`, for a model that reads them."""
    tiers: NDArray[np.int32] | None = None
    """[K, N] of the searched history."""
    buckets: tuple[Ints, Ints] | None = None
    """Newest events of each code, and bounds [K+1]."""
    events: tuple[Ints, Longs, Longs] | None = None
    """Items, times and visits of the searched history, for a model that reads them."""
    newest: tuple[int, int] | None = None
    """Time and visit of the newest event of all, where times are kept; None: no events."""

    def has(self, items: Ints) -> NDArray[np.bool_]:
        """Which of `items` [n] are in the whole history."""
        return among(items, self.counted[0])


class User:
    """One user's part; events are numbered from the first one on."""

    __slots__ = ("buckets", "counted", "last_time", "last_visit", "log", "searched", "slot")

    def __init__(self, slot: int, timed: bool, buckets: Buckets | None) -> None:
        self.slot = slot
        self.log = Log(timed)
        self.counted = ItemCounts()
        self.buckets = buckets
        self.searched = (0, 0)
        self.last_time: int | None = None
        self.last_visit = 0


class Histories:
    """Events of users, and what the model's modules have made of them.

    Not safe to call from several threads at once, but a `Snapshot` is safe for ever.

    Args:
        reads: what is kept: SID-Tier counts, buckets of the hard search, times and visits.
        max_history: newest events of a user that count; None: all.

    Raises ValueError for a `max_history` below 1.
    """

    def __init__(self, reads: Reads, *, max_history: int | None = None) -> None:
        if max_history is not None and max_history < 1:
            raise ValueError(f"max_history is {max_history}; it must be at least 1, or None")
        self.max_history = max_history
        self.reads = reads
        self.tiers = reads.tiers
        self._table: NDArray[np.uint8] | None = None
        if self.tiers is not None:
            self._first_tiers = np.arange(self.tiers.num_codes) * self.tiers.num_tiers
            self._table = None if self.tiers.table is None else self.tiers.table.numpy()
        self._users: list[User] = []
        self._counts: list[NDArray[np.int32]] = []  # [_USERS_A_BLOCK, K, N] each

    def __len__(self) -> int:
        return len(self._users)

    def add_user(self) -> int:
        """Row of a new user without events."""
        row = len(self._users)
        found = self.reads.buckets
        buckets = None if found is None else Buckets(found.num_codes, found.most)
        if self.tiers is not None and row % _USERS_A_BLOCK == 0:
            shape = (_USERS_A_BLOCK, self.tiers.num_codes, self.tiers.num_tiers)
            self._counts.append(np.zeros(shape, np.int32))
        self._users.append(User(row, self.reads.timed, buckets))
        return row

    # --- events

    def last(self, row: int) -> tuple[int | None, int]:
        """Time (None: not known) and visit number of the newest event of a user."""
        user = self._users[row]
        return user.last_time, user.last_visit

    def observe(
        self, row: int, items: Ints, times: Longs | None = None, visits: Longs | None = None
    ) -> None:
        """Adds events of a user, oldest first.

        Args:
            row: the user.
            items: [E] item ids, in range.
            times, visits: [E], not falling; for a model that reads events alone.
        """
        if not len(items):
            return
        user = self._users[row]
        log, before, old_first = user.log, user.searched, user.log.first
        log.append(items, times, visits)
        if self.reads.timed:
            assert times is not None
            assert visits is not None
            user.last_time, user.last_visit = int(times[-1]), int(visits[-1])
        old_end = log.end - len(items)
        first = log.first if self.max_history is None else max(0, log.end - self.max_history)
        user.searched = self._searched(first, log.end)
        self._count_items(user, (old_first, old_end), (first, log.end))
        self._update_searched(user, before, user.searched)
        log.first = first

    def _searched(self, first: int, end: int) -> tuple[int, int]:
        return (first, max(first, end - self.reads.short_length) if self.reads.older else end)

    def _count_items(self, user: User, old: tuple[int, int], new: tuple[int, int]) -> None:
        if new[1] - old[1] >= _MANY:
            user.counted.set(user.log.items(*new))
            return
        # Added before removed: an event may come and go in one call.
        for item in user.log.items(old[1], new[1]).tolist():
            user.counted.add(item)
        for item in user.log.items(old[0], new[0]).tolist():
            user.counted.remove(item)

    def _update_searched(self, user: User, old: tuple[int, int], new: tuple[int, int]) -> None:
        """The searched history moves on; `new` does not begin or end before `old`."""
        came = user.log.items(max(old[1], new[0]), new[1])
        went = user.log.items(old[0], min(new[0], old[1]))
        self._count_tiers(user, came, remove=False)
        self._count_tiers(user, went, remove=True)
        if user.buckets is None:
            return
        assert self.reads.buckets is not None
        sid1 = self.reads.buckets.sid1
        if len(came) >= _MANY:
            items = user.log.items(*new)
            user.buckets.set(items, sid1[items])
            return
        for code in sid1[went].tolist():
            user.buckets.drop_oldest(code)
        for item, code in zip(came.tolist(), sid1[came].tolist(), strict=True):
            user.buckets.add(item, code)

    def _count_tiers(self, user: User, items: Ints, *, remove: bool) -> None:
        if self.tiers is None or not len(items):
            return
        block, slot = divmod(user.slot, _USERS_A_BLOCK)
        if len(items) <= _FEW and self._table is not None:
            counts = self._counts[block][slot].reshape(-1)
            for item in items.tolist():  # a code has one tier, so that no count occurs twice
                counts[self._first_tiers + self._table[item]] += -1 if remove else 1
            return
        table, rows = self.tiers.rows(torch.from_numpy(items))
        users = torch.full((len(items),), slot, dtype=torch.int32)
        block_counts = torch.from_numpy(self._counts[block])
        sid_tier_update_(block_counts, users, rows, table, remove=remove)

    # --- what a request sees

    def snapshot(self, row: int) -> Snapshot:
        """The user as of now."""
        user = self._users[row]
        log, searched = user.log, user.searched
        tiers = None
        if self.tiers is not None:
            block, slot = divmod(user.slot, _USERS_A_BLOCK)
            tiers = self._counts[block][slot].copy()
        short = (max(log.first, log.end - self.reads.short_length), log.end)
        events = None
        if self.reads.searched_events:
            events = (log.items(*searched), log.times(*searched), log.visits(*searched))
        return Snapshot(
            short=log.items(*short),
            searched=searched[1] - searched[0],
            counted=user.counted.copy(),
            short_times=log.times(*short) if self.reads.short_times else None,
            tiers=tiers,
            buckets=None if user.buckets is None else user.buckets.copy(),
            events=events,
            newest=None if user.last_time is None else (user.last_time, user.last_visit),
        )

    def nobody(self) -> Snapshot:
        """Somebody without events."""
        none, longs = np.zeros(0, np.int32), np.zeros(0, np.int64)
        tiers = None
        if self.tiers is not None:
            tiers = np.zeros((self.tiers.num_codes, self.tiers.num_tiers), np.int32)
        found = self.reads.buckets
        return Snapshot(
            short=none,
            searched=0,
            counted=(none, none),
            short_times=longs if self.reads.short_times else None,
            tiers=tiers,
            buckets=None if found is None else (none, np.zeros(found.num_codes + 1, np.int32)),
            events=(none, longs, longs) if self.reads.searched_events else None,
        )

    def events(self, rows: Sequence[int]) -> list[tuple[Ints, Longs | None, Longs | None]]:
        """Items, times and visits of all kept events of users; safe for ever."""
        found: list[tuple[Ints, Longs | None, Longs | None]] = []
        for row in rows:
            log = self._users[row].log
            held = (log.first, log.end)
            timed = (log.times(*held), log.visits(*held)) if self.reads.timed else (None, None)
            found.append((log.items(*held), *timed))
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers; not of the Python objects around them."""
        held = sum(user.log.nbytes + user.counted.nbytes for user in self._users)
        held += sum(user.buckets.nbytes for user in self._users if user.buckets is not None)
        return held + sum(block.nbytes for block in self._counts)
