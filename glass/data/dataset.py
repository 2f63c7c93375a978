"""A prepared data set in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glass.data.array_file import read_array
from glass.data.order import SPLITS, TRAIN
from glass.data.parquet_file import read_whole
from glass.data.store import FILES, VECTORS, again, read_manifest, table_files

SCHEMAS: dict[str, dict[str, Any]] = {
    "interactions.parquet": {
        "user_id": pl.Int32,
        "item_id": pl.Int32,
        "time": pl.Int64,
        "group": pl.Int32,
        "split": pl.Int8,
    },
    "items.parquet": {
        "item_id": pl.Int32,
        "raw_item_id": pl.String,
        "title": pl.String,
        "text": pl.String,
        "train_count": pl.Int32,
    },
    "users.parquet": {"user_id": pl.Int32, "raw_user_id": pl.String},
}


@dataclass(frozen=True)
class Samples:
    """One row a target group that has a non-empty history.

    The history of row s is `items[history_start[s] : history_end[s]]`, every earlier group of the
    user, oldest first; the targets are `items[history_end[s] : target_end[s]]`.
    """

    users: NDArray[np.int32]
    """int32 [S]"""
    history_start: NDArray[np.int64]
    """int64 [S] flat position of the user's first event."""
    history_end: NDArray[np.int64]
    """int64 [S] exclusive end of the history, first target."""
    target_end: NDArray[np.int64]
    """int64 [S] exclusive end of the targets."""

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class Dataset:
    """Events of all users, one user after another, oldest first."""

    name: str
    items: NDArray[np.int32]
    """int32 [T] item of each event."""
    times: NDArray[np.int64]
    """int64 [T] seconds, or ordinal (manifest["time_unit"])."""
    groups: NDArray[np.int32]
    """int32 [T] group number within the user, from 0."""
    split: NDArray[np.int8]
    """int8 [T] 0 train, 1 validation, 2 test."""
    user_offsets: NDArray[np.int64]
    """int64 [U+1] events of user u are [user_offsets[u], user_offsets[u + 1])."""
    train_counts: NDArray[np.int64]
    """int64 [V] training events of each item."""
    item_table: pl.DataFrame
    """item_id i32, raw_item_id str, title str, text str, train_count i32; row i is item i."""
    user_table: pl.DataFrame
    """user_id i32, raw_user_id str; row u is user u."""
    manifest: dict[str, Any]
    vectors: NDArray[np.int8] | None = None
    """int8 [V, D] vectors that came with the source, zero where an item has none; on disk."""
    folder: Path | None = None
    """Where it was read from; what the manifest says may be another place."""

    @classmethod
    def load(cls, folder: str | Path) -> Dataset:
        """Read a folder that `prepare` wrote.

        Raises ValueError when it is not one or when its tables contradict each other.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        events, item_table, user_table = (_read_table(folder, name) for name in FILES)
        columns = {}
        for name in SCHEMAS["interactions.parquet"]:  # one at a time: they are most of the memory
            columns[name] = np.array(events[name].to_numpy())
            events = events.drop(name)
        users = columns.pop("user_id")
        _require(
            np.array_equal(item_table["item_id"], np.arange(item_table.height))
            and np.array_equal(user_table["user_id"], np.arange(user_table.height))
            and item_table["raw_item_id"].is_unique().all()
            and user_table["raw_user_id"].is_unique().all(),
            folder,
            "ids of the item or user table are not 0, 1, .. with distinct raw ids",
        )
        _require(
            len(users) > 0
            and users[0] == 0
            and users[-1] == user_table.height - 1
            and _is_zero_or_one(np.diff(users)),
            folder,
            "events are not sorted by user, or a user has none",
        )
        dataset = cls(
            name=str(manifest.get("config", {}).get("name", folder.name)),
            items=columns["item_id"],
            times=columns["time"],
            groups=columns["group"],
            split=columns["split"],
            user_offsets=np.searchsorted(users, np.arange(user_table.height + 1)),
            train_counts=item_table["train_count"].to_numpy().astype(np.int64),
            item_table=item_table,
            user_table=user_table,
            manifest=manifest,
            vectors=_read_vectors(folder, manifest, item_table.height),
            folder=folder,
        )
        _check(dataset, folder)
        return dataset

    @property
    def num_users(self) -> int:
        """Number of users U."""
        return len(self.user_offsets) - 1

    @property
    def num_items(self) -> int:
        """Number of items V."""
        return len(self.train_counts)

    @property
    def num_events(self) -> int:
        """Number of events T."""
        return len(self.items)

    def event_users(self) -> NDArray[np.int32]:
        """User of each event: int32 [T]."""
        return np.repeat(np.arange(self.num_users, dtype=np.int32), np.diff(self.user_offsets))

    def train_events(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(users, items) of the training events, int32 each, in the order of the data set."""
        kept = self.split == TRAIN
        return self.event_users()[kept], self.items[kept]

    def samples(self, split: str) -> Samples:
        """Target groups of "train", "valid" or "test" with a non-empty history, in order."""
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}, it has to be one of {', '.join(SPLITS)}")
        starts = self.group_starts()
        users = self.event_users()[starts]
        ends = np.append(starts[1:], self.num_events)
        first = self.user_offsets[users]
        kept = (self.split[starts] == SPLITS[split]) & (starts > first)
        return Samples(users[kept], first[kept], starts[kept], ends[kept])

    def group_starts(self) -> NDArray[np.int64]:
        """Flat position of the first event of every group, over all splits: int64 [G]."""
        new = np.ones(self.num_events, dtype=bool)
        new[1:] = self.groups[1:] != self.groups[:-1]
        new[self.user_offsets[:-1]] = True
        return np.flatnonzero(new)


def _read_table(folder: Path, name: str) -> pl.DataFrame:
    tables = []
    for path in table_files(folder, name):
        table = read_whole(path, again(folder))
        if dict(table.schema) != SCHEMAS[name]:
            raise ValueError(
                f"{path} has columns {dict(table.schema)}, not {SCHEMAS[name]}: {again(folder)}"
            )
        if any(table.null_count().row(0)):
            raise ValueError(f"{path} has missing values: {again(folder)}")
        tables.append(table)
    return pl.concat(tables)


def _read_vectors(
    folder: Path, manifest: dict[str, Any], num_items: int
) -> NDArray[np.int8] | None:
    if not manifest.get("vectors"):
        return None
    path = folder / VECTORS
    try:
        vectors = read_array(path)
    except ValueError as error:
        raise ValueError(f"{error}; {again(folder)}") from error
    shape = (num_items, manifest["vectors"].get("width"))
    _require(
        vectors.shape == shape and vectors.dtype == np.int8,
        folder,
        f"{path.name} is {vectors.dtype} {list(vectors.shape)}, not int8 {list(shape)}",
    )
    return vectors


def _is_zero_or_one(steps: NDArray[np.int32]) -> bool:
    """np.isin would take 18 bytes a step."""
    return bool(steps.min(initial=0) >= 0 and steps.max(initial=0) <= 1)


def _require(holds: bool, folder: Path, problem: str) -> None:
    if not holds:
        raise ValueError(f"{folder} is damaged: {problem}; {again(folder)}")


def _check(dataset: Dataset, folder: Path) -> None:
    """Check ranges, order and agreement of the tables; the caller has checked the users."""
    items, split = dataset.items, dataset.split
    same_user = np.ones(dataset.num_events - 1, dtype=bool)
    same_user[dataset.user_offsets[1:-1] - 1] = False
    step = np.diff(dataset.groups)
    _require(
        bool(((items >= 0) & (items < dataset.num_items)).all()), folder, "item ids out of range"
    )
    times = dataset.times  # differences could overflow
    _require(bool((times[1:] >= times[:-1])[same_user].all()), folder, "times run backwards")
    span = int(times.max()) - int(times.min())
    _require(span < 2**63, folder, "times are too far from each other")
    _require(
        bool((dataset.groups[dataset.user_offsets[:-1]] == 0).all())
        and _is_zero_or_one(step[same_user]),
        folder,
        "group numbers have gaps",
    )
    _require(bool(np.isin(split, list(SPLITS.values())).all()), folder, "unknown split")
    _require(
        bool((np.diff(split)[same_user] >= 0).all())
        and bool((np.diff(split)[same_user & (step == 0)] == 0).all()),
        folder,
        "a group straddles splits, or training comes after validation or test",
    )
    counts = np.bincount(items[split == TRAIN], minlength=dataset.num_items)
    _require(
        np.array_equal(counts, dataset.train_counts), folder, "train_count does not fit the events"
    )
    recorded = dataset.manifest.get("counts", {})
    actual = (dataset.num_users, dataset.num_items, dataset.num_events)
    _require(
        tuple(recorded.get(name) for name in ("users", "items", "events")) == actual,
        folder,
        f"the manifest counts {recorded}, the tables {actual}",
    )
