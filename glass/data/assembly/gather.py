"""Everything that a reader yields, with keys in the place of raw ids, partition by partition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from glass.data.assembly.keys import keys_of
from glass.data.assembly.spill import Spill
from glass.data.raw import EVENT_SCHEMA, GIVEN, ITEM_SCHEMA, RawData

Step = Callable[[int], None]
"""Told how much was done; moves a progress bar."""


class CollisionError(Exception):
    """Two raw ids have one key; other keys are made from another seed."""


class Names:
    """Raw ids by key, each once."""

    def __init__(self, folder: Path) -> None:
        self.spill = Spill(folder, "key", lambda rows: rows.unique(["key", "name"]))

    def add(self, keys: pl.Series, names: pl.Series) -> None:
        """Takes the raw id of each key."""
        self.spill.add(pl.DataFrame({"key": keys, "name": names}).unique(["key", "name"]))

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


@dataclass(frozen=True)
class Gathered:
    """All that was read; the spills of users split together, and those of items."""

    events: Spill
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
    events = Spill(folder / "events", "user")
    users, items = Names(folder / "user_names"), Names(folder / "item_names")
    described = Spill(folder / "described", "key", first_of_each)
    num_events = 0
    for chunk in raw.events:
        kept = chunk.select(*EVENT_SCHEMA, *(name for name in GIVEN if name in chunk.columns))
        user = pl.Series("user", keys_of(kept["raw_user_id"], seed))
        item = pl.Series("item", keys_of(kept["raw_item_id"], seed))
        users.add(user, kept["raw_user_id"])
        items.add(item, kept["raw_item_id"])
        events.add(kept.drop("raw_user_id", "raw_item_id").with_columns(user, item))
        num_events += kept.height
        step(kept.height)
    num_described = None
    for chunk in numbered(raw.items):
        key = pl.Series("key", keys_of(chunk["raw_item_id"], seed))
        described.add(first_of_each(chunk.with_columns(key)))
        num_described = (num_described or 0) + chunk.height
    _split_alike(events, users.spill)
    _split_alike(described, items.spill)
    return Gathered(events, described, users, items, num_events, num_described)


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


def _split_alike(*spills: Spill) -> None:
    if any(spill.split for spill in spills):
        for spill in spills:
            spill.use_files()
