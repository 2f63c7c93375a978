"""Each user's events in order, and the users with too few of them left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from glass.config import DataConfig
from glass.data.assembly.gather import Gathered, Step
from glass.data.assembly.spill import Parts
from glass.data.order import IntArray, event_order, group_numbers
from glass.data.raw import GIVEN


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
        self.num_users = 0
        """Different users of the source."""
        self.dropped: dict[str, Any] = {
            name: {"users": 0, "events": 0}
            for name in ("users_with_one_event", "users_with_few_events")
        }
        self._most = 0

    def add(self, partition: int, rows: pl.DataFrame, names: pl.DataFrame, c: DataConfig) -> None:
        """Sorts the events of a partition and drops users with one event or fewer than wanted."""
        codes = _positions(names["key"].to_numpy(), rows["user"].to_numpy())
        counts = np.bincount(codes, minlength=names.height)
        self.num_users += names.height
        self._most = max(self._most, int(counts.max(initial=0)))
        single = counts == 1
        few = (counts < c.min_user_events) & ~single
        for mask, account in zip((single, few), self.dropped.values(), strict=True):
            account["users"] += int(mask.sum())
            account["events"] += int(counts[mask].sum())
        stays = ~(single | few)
        if not stays.any():
            return
        number = np.cumsum(stays) - 1
        chosen = np.flatnonzero(stays[codes])
        users = number[codes[chosen]]
        times, source_rows = (rows[name].to_numpy()[chosen] for name in ("time", "row"))
        order = event_order(users, times, source_rows, c)
        users, times = users[order], times[order]
        columns = {
            "user": users,
            "item": rows["item"].to_numpy()[chosen[order]],
            "time": times,
            "group": group_numbers(users, times, c.target_group),
        }
        self.split_given = "split" in rows.columns
        given = {name: rows[name].to_numpy()[chosen[order]] for name in GIVEN if name in rows}
        self.events.put(partition, pl.DataFrame({**columns, **given}))
        self.names.put(partition, names.select("name").filter(pl.Series(stays)))

    def require_some(self, c: DataConfig) -> None:
        """Raise ValueError when no user is left, naming the setting to change."""
        if not self.events.numbers():
            raise ValueError(
                f"no user has at least {max(2, c.min_user_events)} events (the most active of "
                f"{self.num_users} has {self._most}): lower data.min_user_events or add events"
            )


def sort_users(gathered: Gathered, config: DataConfig, folder: Path, step: Step) -> SortedUsers:
    """Sorts all partitions, and frees what was gathered of users."""
    found = SortedUsers(folder if gathered.events.split else None)
    for partition in gathered.events.partitions():
        rows, names = gathered.events.read(partition), gathered.users.read(partition)
        for spill in (gathered.events, gathered.users.spill):
            spill.drop(partition)
        if rows is not None:
            found.add(partition, rows, names, config)
        step(1)
    found.require_some(config)
    return found


def _positions(among: Any, keys: Any) -> IntArray:
    """Position in `among` of each of `keys`, all of which are there."""
    order = np.argsort(among)
    found: IntArray = order[np.searchsorted(among, keys, sorter=order)]
    return found
