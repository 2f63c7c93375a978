"""Everything that a reader yields, with keys in the place of raw ids, partition by partition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from glass.data.assembly.keys import keys_of
from glass.data.assembly.spill import Rows, Spill
from glass.data.raw import EVENT_SCHEMA, GIVEN, ITEM_SCHEMA, RawData

Step = Callable[[int], None]
"""Told how much was done; moves a progress bar."""


class CollisionError(Exception):
    """Two raw ids have one key; other keys are made from another seed."""


class Names:
    """Raw ids by key, each once."""

    def __init__(self, spill: Rows) -> None:
        self.spill = spill

    def read(self, partition: int) -> pl.DataFrame:
        """`key`, `name` of a partition, sorted by name.

        Raises CollisionError when two names have one key.
        """
        rows = self.spill.read(partition)
        if rows is None:
            return pl.DataFrame(schema={"key": pl.UInt64, "name": pl.String})
        if rows["key"].n_unique() < rows.height:
            raise CollisionError
        return rows.sort("name")


class Gathering:
    """Takes events as they are read.

    Args:
        folder: of what does not fit into memory.
        seed: of the keys.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._seed = seed
        self.events = Spill(folder / "events", "user")
        self.users = Spill(folder / "user_names", "key", distinct)
        self.items = Spill(folder / "item_names", "key", distinct)
        self.num_events = 0

    def add(self, chunk: pl.DataFrame) -> None:
        """Takes a table of events as `RawData` has them."""
        kept = chunk.select(*EVENT_SCHEMA, *(name for name in GIVEN if name in chunk.columns))
        user = pl.Series("user", keys_of(kept["raw_user_id"], self._seed))
        item = pl.Series("item", keys_of(kept["raw_item_id"], self._seed))
        for spill, keys, names in (
            (self.users, user, kept["raw_user_id"]),
            (self.items, item, kept["raw_item_id"]),
        ):
            spill.add(distinct(pl.DataFrame({"key": keys, "name": names})))
        self.events.add(kept.drop("raw_user_id", "raw_item_id").with_columns(user, item))
        self.num_events += kept.height

    def split_alike(self, *others: Spill) -> None:
        """After the last row: once anything has partitions all of it has."""
        spills = (self.events, self.users, self.items, *others)
        if any(spill.split for spill in spills):
            for spill in spills:
                spill.use_files()


def distinct(names: pl.DataFrame) -> pl.DataFrame:
    """Each name once; two of one key both stay."""
    return names.unique(["key", "name"])


@dataclass(frozen=True)
class Gathered:
    """All that was read; either all of it has partitions, or nothing has."""

    events: Rows
    """`user` u64, `item` u64, `time` i64, `row` i64, and `GIVEN` where the format has them."""
    described: Spill
    """`key` u64, `row` i64, `raw_item_id`, `title`, `text` of the item file's items, each once."""
    users: Names
    items: Names
    num_events: int
    num_described: int | None
    """Rows of the item file; None: there is none."""


def gather(raw: RawData, folder: Path, seed: int, step: Step) -> Gathered:
    """Reads all of `raw`; `seed` is that of the keys."""
    found = Gathering(folder, seed)
    for chunk in raw.events:
        found.add(chunk)
        step(chunk.height)
    described, num_described = describe(raw.items, folder, seed)
    found.split_alike(described)
    users, items = Names(found.users), Names(found.items)
    return Gathered(found.events, described, users, items, found.num_events, num_described)


def describe(tables: Iterable[pl.DataFrame], folder: Path, seed: int) -> tuple[Spill, int | None]:
    """The item file's items, and its rows; None: there is none."""
    described = Spill(folder / "described", "key", first_of_each)
    num_described = None
    for chunk in numbered(tables):
        key = pl.Series("key", keys_of(chunk["raw_item_id"], seed))
        described.add(first_of_each(chunk.with_columns(key)))
        num_described = (num_described or 0) + chunk.height
    return described, num_described


def first_of_each(rows: pl.DataFrame) -> pl.DataFrame:
    """The first row of each item, by its number."""
    return rows.sort("row").unique(["key", "raw_item_id"], keep="first", maintain_order=True)


def numbered(chunks: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Chunks of the item file with `row`, the number of the item in it."""
    before = 0
    for chunk in chunks:
        rows: Any = pl.int_range(before, before + chunk.height, dtype=pl.Int64, eager=True)
        yield chunk.select(*ITEM_SCHEMA).with_columns(rows.alias("row"))
        before += chunk.height
