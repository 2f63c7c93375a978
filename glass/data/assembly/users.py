"""Each user's events in order, and the users with too few of them left out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from glass.config import DataConfig
from glass.data.assembly.gather import Gathered, Names, Step
from glass.data.assembly.parts import Parts
from glass.data.assembly.spill import Rows
from glass.data.order import IntArray, event_order, group_numbers
from glass.data.raw import GIVEN
from glass.workers import Workers


class SortedUsers:
    """Users partition by partition: those of a partition sorted by raw id, their events by time.

    `events`: `user` i64 (number within the partition), `item` u64 key, `time` i64, `group` i64, and
    `GIVEN` where the format has them. `names`: `name` of user 0, 1, ...
    """

    def __init__(self, folder: Path | None) -> None:
        self.sharded = folder is not None
        """Whether there is more than one partition."""
        self.split_given = False
        """Whether the source says itself which events are training."""
        self.events = Parts(folder / "sorted" if folder else None)
        self.names = Parts(folder / "users" if folder else None)
        self.numbers: list[int] = []
        """Partitions that have users, in order."""
        self.num_users = 0
        """Different users of the source."""
        self.dropped: dict[str, Any] = {
            name: {"users": 0, "events": 0}
            for name in ("users_with_one_event", "users_with_few_events")
        }
        self._most = 0

    def count_repeats(self) -> None:
        """Tell how many events were left out as repeats of others."""
        self.dropped = {"repeated_events": {"events": 0}, **self.dropped}

    def add(self, partition: int, account: _Account) -> None:
        """Takes account of a partition that is sorted."""
        self.num_users += account.num_users
        self._most = max(self._most, account.most)
        for name, counts in account.dropped.items():
            for what, count in counts.items():
                self.dropped[name][what] += count
        if account.any_left:
            self.numbers.append(partition)
            self.split_given = account.split_given

    def require_some(self, c: DataConfig) -> None:
        """Raise ValueError when no user is left, naming the setting to change."""
        if not self.numbers:
            raise ValueError(
                f"no user has at least {max(2, c.min_user_events)} events (the most active of "
                f"{self.num_users} has {self._most}): lower data.min_user_events or add events"
            )


@dataclass(frozen=True)
class _Account:
    """What is to tell of a partition."""

    num_users: int
    most: int
    """Events of the most active user."""
    dropped: dict[str, dict[str, int]]
    any_left: bool
    split_given: bool


@dataclass(frozen=True)
class SortPartition:
    """Sorts the events of a partition and drops users with one event or fewer than wanted."""

    source: Rows
    users: Names
    events: Parts
    names: Parts
    config: DataConfig

    def __call__(self, partition: int) -> _Account | None:
        """Puts the partition's tables; None: there was nothing in it."""
        rows = self.source.read(partition)
        if rows is None:
            return None
        dropped = {}
        if self.config.drop_repeats:
            before = rows.height
            rows = rows.sort("row").unique(["user", "item", "time"], keep="first")
            dropped["repeated_events"] = {"events": before - rows.height}
        names = self.users.read(partition)
        codes = _positions(names["key"].to_numpy(), rows["user"].to_numpy())
        counts = np.bincount(codes, minlength=names.height)
        single = counts == 1
        few = (counts < self.config.min_user_events) & ~single
        dropped |= {
            name: {"users": int(mask.sum()), "events": int(counts[mask].sum())}
            for name, mask in (("users_with_one_event", single), ("users_with_few_events", few))
        }
        stays = ~(single | few)
        if stays.any():
            self._put(partition, rows, names, codes, stays)
        return _Account(
            names.height,
            int(counts.max(initial=0)),
            dropped,
            bool(stays.any()),
            "split" in rows.columns,
        )

    def _put(
        self, partition: int, rows: pl.DataFrame, names: pl.DataFrame, codes: IntArray, stays: Any
    ) -> None:
        number = np.cumsum(stays) - 1
        chosen = np.flatnonzero(stays[codes])
        users = number[codes[chosen]]
        times, source_rows = (rows[name].to_numpy()[chosen] for name in ("time", "row"))
        order = event_order(users, times, source_rows, self.config)
        users, times = users[order], times[order]
        columns = {
            "user": users,
            "item": rows["item"].to_numpy()[chosen[order]],
            "time": times,
            "group": group_numbers(users, times, self.config.target_group),
        }
        given = {name: rows[name].to_numpy()[chosen[order]] for name in GIVEN if name in rows}
        self.names.put(partition, names.select("name").filter(pl.Series(stays)))
        self.events.put(partition, pl.DataFrame({**columns, **given}))


def sort_users(
    gathered: Gathered, config: DataConfig, folder: Path, workers: Workers, step: Step
) -> SortedUsers:
    """Sorts all partitions, and frees what was gathered of users."""
    found = SortedUsers(folder if gathered.events.split else None)
    if config.drop_repeats:
        found.count_repeats()
    partitions = gathered.events.partitions()
    sort = SortPartition(gathered.events, gathered.users, found.events, found.names, config)
    for partition, account in zip(partitions, workers.map(sort, partitions), strict=True):
        for spill in (gathered.events, gathered.users.spill):
            spill.drop(partition)
        if account is not None:
            found.add(partition, account)
        step(1)
    found.require_some(config)
    return found


def _positions(among: Any, keys: Any) -> IntArray:
    """Position in `among` of each of `keys`, all of which are there."""
    order = np.argsort(among)
    found: IntArray = order[np.searchsorted(among, keys, sorter=order)]
    return found
