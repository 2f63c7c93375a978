"""The events of the catalogue's items, written user after user."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glass.data.assembly.catalogue import Catalogue, Lookup
from glass.data.assembly.gather import Step
from glass.data.assembly.parquet import Writer
from glass.data.assembly.parts import Parts, renamed
from glass.data.assembly.splits import Split
from glass.data.assembly.users import SortedUsers
from glass.data.order import SPLITS, TRAIN, IntArray, renumber_groups
from glass.workers import Workers

ROW_GROUP_EVENTS = 1 << 18
"""Events of a row group, but for the rest of its last user: a user is never torn apart."""


def _zeros() -> dict[str, int]:
    return dict.fromkeys(SPLITS, 0)


@dataclass
class Account:
    """What the manifest says of the events of all partitions."""

    users: int = 0
    events: int = 0
    files: int = 0
    rare_events: int = 0
    orphaned_users: int = 0
    orphaned_events: int = 0
    times: list[int] = field(default_factory=list)
    """The first and the last of each partition."""
    split_events: dict[str, int] = field(default_factory=_zeros)
    split_groups: dict[str, int] = field(default_factory=_zeros)
    before: dict[str, int] = field(default_factory=_zeros)
    """Events of each split before any were left out."""
    lost: dict[str, int] = field(default_factory=_zeros)

    def add(self, other: Account) -> None:
        """Takes another partition in."""
        for name, value in vars(other).items():
            if isinstance(value, dict):
                for key, count in value.items():
                    getattr(self, name)[key] += count
            else:
                setattr(self, name, getattr(self, name) + value)

    def split(self) -> dict[str, dict[str, int]]:
        """Events and groups of each split."""
        return {
            name: {"events": self.split_events[name], "groups": self.split_groups[name]}
            for name in SPLITS
        }

    def dropped(self, catalogue: Catalogue) -> dict[str, Any]:
        """What was left out, by reason and by split."""
        by_split = {
            name: {
                "events": self.lost[name],
                "share": self.lost[name] / self.before[name] if self.before[name] else 0.0,
            }
            for name in SPLITS
        }
        return {
            "rare_items": {"items": catalogue.account.rare, "events": self.rare_events},
            "users_without_training_events": {
                "users": self.orphaned_users,
                "events": self.orphaned_events,
            },
            "by_split": by_split,
            "items_without_events": catalogue.account.without_events,
        }


@dataclass(frozen=True)
class ChooseEvents:
    """Leaves out the events of a partition whose items are not in the catalogue.

    Attributes:
        want_training: leave out users without a training event.
        every: count a partition without events as a file.
    """

    users: Parts
    names: Parts
    split: Split
    lookup: Lookup
    want_training: bool
    every: bool
    events: Parts
    kept_names: Parts

    def __call__(self, number: int) -> Account:
        events = self.users.get(number)
        split = self.split(events)
        users = events["user"].to_numpy()
        items = self.lookup.find(events["item"].to_numpy())
        listed = items >= 0
        has_training = np.zeros(int(users.max()) + 1, dtype=bool)
        has_training[users[listed & (split == TRAIN)]] = True
        kept = listed & has_training[users] if self.want_training else listed
        names, codes = np.unique(users[kept], return_inverse=True)
        groups = renumber_groups(codes, events["group"].to_numpy()[kept])
        table = pl.DataFrame(
            {
                "user_id": codes.astype(np.int32),
                "item_id": items[kept],
                "time": events["time"].to_numpy()[kept],
                "group": groups.astype(np.int32),
                "split": split[kept],
            }
        )
        self.kept_names.put(number, self.names.get(number)[pl.Series(names)])
        self.events.put(number, table)
        found = Account(users=len(names), events=table.height)
        found.files = int(table.height > 0 or self.every)
        _count_left_out(found, users, split, listed, kept)
        _count_kept(found, table)
        return found


def _count_kept(found: Account, table: pl.DataFrame) -> None:
    for label, name in enumerate(SPLITS):
        part = table.filter(pl.col("split") == label)
        found.split_events[name] = part.height
        found.split_groups[name] = part.select("user_id", "group").n_unique()
    if table.height:
        times = table["time"]
        found.times = [int(times.min()), int(times.max())]  # type: ignore[arg-type]


def _count_left_out(
    found: Account,
    users: IntArray,
    split: NDArray[np.int8],
    listed: NDArray[np.bool_],
    kept: NDArray[np.bool_],
) -> None:
    found.rare_events = int((~listed).sum())
    found.orphaned_events = int((listed & ~kept).sum())
    found.orphaned_users = len(np.unique(users)) - len(np.unique(users[kept]))
    for label, name in enumerate(SPLITS):
        inside = split == label
        found.before[name] = int(inside.sum())
        found.lost[name] = int((inside & ~kept).sum())


@dataclass(frozen=True)
class WriteEvents:
    """Writes the file of a partition; its users count on from those of the partitions before."""

    events: Parts
    folder: Path
    work: Path
    sharded: bool

    def __call__(self, part: tuple[int, int]) -> None:
        number, first_user = part
        table = self.events.get(number)
        table = table.with_columns(pl.col("user_id") + pl.lit(first_user, pl.Int32))
        path = self.folder / "interactions.parquet"
        if self.sharded:
            path = self.folder / "interactions" / f"{number:05}.parquet"
        with renamed(path, self.work) as temporary, Writer(temporary) as writer:
            writer.write(table.clear())
            for rows in _row_groups(table):
                writer.write(rows)


def _row_groups(table: pl.DataFrame) -> Iterator[pl.DataFrame]:
    users = table["user_id"].to_numpy()
    start = 0
    while start < len(users):
        last = users[min(start + ROW_GROUP_EVENTS, len(users)) - 1]
        end = int(np.searchsorted(users, last, side="right"))
        yield table[start:end]
        start = end


def write_events(
    users: SortedUsers,
    split: Split,
    catalogue: Catalogue,
    folder: Path,
    work: Path,
    workers: Workers,
    step: Step,
) -> Account:
    """Writes all partitions, user ids counting on from one to the next."""
    sharded = users.sharded
    events = Parts(work / "chosen" if sharded else None)
    names = Parts(work / "kept_users" if sharded else None)
    choose = ChooseEvents(
        users.events,
        users.names,
        split,
        catalogue.lookup,
        not users.split_given,
        not sharded,
        events,
        names,
    )
    total, files = Account(), []
    done = workers.map(choose, users.numbers)
    with Writer(folder / "users.parquet") as writer:
        for number, account in zip(users.numbers, done, strict=True):
            if account.files:
                files.append((number, total.users))
            ids = pl.int_range(total.users, total.users + account.users, dtype=pl.Int32, eager=True)
            kept = names.get(number)["name"]
            writer.write(pl.DataFrame({"user_id": ids, "raw_user_id": kept}))
            total.add(account)
            for parts in (users.events, users.names, names):
                parts.drop(number)
            step(1)
    write = WriteEvents(events, folder, work, sharded)
    for (number, _), _ in zip(files, workers.map(write, files), strict=True):
        events.drop(number)
        step(1)
    return total
