"""The events of the catalogue's items, written user after user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glass.data.assembly.catalogue import Catalogue
from glass.data.assembly.gather import Step
from glass.data.assembly.parquet import Writer
from glass.data.assembly.splits import Split
from glass.data.assembly.users import SortedUsers
from glass.data.order import SPLITS, TRAIN, IntArray, renumber_groups

ROW_GROUP_EVENTS = 1 << 18
"""Events of a row group, but for the rest of its last user: a user is never torn apart."""


class EventWriter:
    """Writes `interactions`, and accounts for what is left out.

    Args:
        folder: of the data set.
        catalogue: its items; events of others are left out.
        shards: one file a partition instead of one file.
        want_training: leave out users without a training event.
    """

    def __init__(
        self, folder: Path, catalogue: Catalogue, *, shards: bool, want_training: bool
    ) -> None:
        self._folder, self._catalogue, self._shards = folder, catalogue, shards
        self._want_training = want_training
        self.num_users = self.num_events = self.num_files = 0
        self.first_time: int | None = None
        self.last_time: int | None = None
        self.split = {name: {"events": 0, "groups": 0} for name in SPLITS}
        self._before = dict.fromkeys(SPLITS, 0)
        self._lost = dict.fromkeys(SPLITS, 0)
        self._rare = 0
        self._orphaned = {"users": 0, "events": 0}

    def write(self, number: int, events: pl.DataFrame, split: NDArray[np.int8]) -> pl.Series:
        """Writes a partition; returns which of its users stay, as their numbers in it."""
        users = events["user"].to_numpy()
        items = self._catalogue.find(events["item"].to_numpy())
        listed = items >= 0
        has_training = np.zeros(int(users.max()) + 1, dtype=bool)
        has_training[users[listed & (split == TRAIN)]] = True
        kept = listed & has_training[users] if self._want_training else listed
        self._account(users, split, listed, kept)
        names, codes = np.unique(users[kept], return_inverse=True)
        groups = renumber_groups(codes, events["group"].to_numpy()[kept])
        table = pl.DataFrame(
            {
                "user_id": (codes + self.num_users).astype(np.int32),
                "item_id": items[kept],
                "time": events["time"].to_numpy()[kept],
                "group": groups.astype(np.int32),
                "split": split[kept],
            }
        )
        if table.height or not self._shards:
            self._write(number, table)
            self._count(table)
            self.num_files += 1
        self.num_users += len(names)
        return pl.Series(names)

    def dropped(self) -> dict[str, Any]:
        """What was left out, by reason and by split."""
        by_split = {
            name: {
                "events": self._lost[name],
                "share": self._lost[name] / self._before[name] if self._before[name] else 0.0,
            }
            for name in SPLITS
        }
        return {
            "rare_items": {"items": self._catalogue.rare, "events": self._rare},
            "users_without_training_events": self._orphaned,
            "by_split": by_split,
            "items_without_events": self._catalogue.without_events,
        }

    def _write(self, number: int, table: pl.DataFrame) -> None:
        path = self._folder / "interactions.parquet"
        if self._shards:
            path = self._folder / "interactions" / f"{number:05}.parquet"
            path.parent.mkdir(exist_ok=True)
        with Writer(path) as writer:
            writer.write(table.clear())
            users = table["user_id"].to_numpy()
            start = 0
            while start < len(users):
                last = users[min(start + ROW_GROUP_EVENTS, len(users)) - 1]
                end = int(np.searchsorted(users, last, side="right"))
                writer.write(table[start:end])
                start = end

    def _count(self, table: pl.DataFrame) -> None:
        self.num_events += table.height
        for label, name in enumerate(SPLITS):
            part = table.filter(pl.col("split") == label)
            self.split[name]["events"] += part.height
            self.split[name]["groups"] += part.select("user_id", "group").n_unique()
        if table.height:
            first, last = int(table["time"].min()), int(table["time"].max())  # type: ignore[arg-type]
            self.first_time = first if self.first_time is None else min(first, self.first_time)
            self.last_time = last if self.last_time is None else max(last, self.last_time)

    def _account(
        self,
        users: IntArray,
        split: NDArray[np.int8],
        listed: NDArray[np.bool_],
        kept: NDArray[np.bool_],
    ) -> None:
        self._rare += int((~listed).sum())
        self._orphaned["events"] += int((listed & ~kept).sum())
        self._orphaned["users"] += len(np.unique(users)) - len(np.unique(users[kept]))
        for label, name in enumerate(SPLITS):
            inside = split == label
            self._before[name] += int(inside.sum())
            self._lost[name] += int((inside & ~kept).sum())


def write_events(
    users: SortedUsers, split: Split, catalogue: Catalogue, folder: Path, step: Step
) -> EventWriter:
    """Writes all partitions, user ids counting on from one to the next."""
    numbers = users.events.numbers()
    want = not users.split_given
    found = EventWriter(folder, catalogue, shards=users.sharded, want_training=want)
    with Writer(folder / "users.parquet") as writer:
        for number in numbers:
            events = users.events.get(number)
            first = found.num_users
            kept = found.write(number, events, split(events))
            names = users.names.get(number)["name"][kept]
            ids = pl.int_range(first, first + len(kept), dtype=pl.Int32, eager=True)
            writer.write(pl.DataFrame({"user_id": ids, "raw_user_id": names}))
            for parts in (users.events, users.names):
                parts.drop(number)
            step(1)
    return found
