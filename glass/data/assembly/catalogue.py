"""The items of a data set: those with enough training events, and their texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glass.config import DataConfig
from glass.data.assembly.gather import CollisionError, Gathered, Step
from glass.data.assembly.keys import Keys
from glass.data.assembly.parquet import Writer
from glass.data.assembly.spill import Spill
from glass.data.assembly.splits import Split
from glass.data.assembly.users import SortedUsers
from glass.data.order import TRAIN

COUNTS = {"key": pl.UInt64, "events": pl.Int64, "train_count": pl.Int64}


@dataclass
class Catalogue:
    """Items by key, once their table is written."""

    keys: Keys
    """uint64 [V] rising."""
    items: NDArray[np.int32]
    """int32 [V] item of each key."""
    num_source_items: int
    """Different items in the events of the source."""
    rare: int
    """Items of kept users' events that are not in the catalogue."""
    without_events: int
    """Items of the item file that no event names."""
    without_text: int
    repeated: int
    """Rows of the item file that describe an item again."""

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, keys: Keys) -> NDArray[np.int32]:
        """int32 [T] item of each key, -1: it is not in the catalogue."""
        order = np.argsort(keys)  # neighbouring searches touch neighbouring memory
        place = np.searchsorted(self.keys, keys[order])
        place[place == len(self.keys)] = 0
        known = self.keys[place] == keys[order]
        found = np.empty(len(keys), dtype=np.int32)
        found[order] = np.where(known, self.items[place], -1)
        return found


def count_items(users: SortedUsers, split: Split, folder: Path, step: Step) -> Spill:
    """Events and training events of each item of the kept users' events."""
    counts = Spill(folder / "item_counts", "key", _added_up)
    for number in users.events.numbers():
        events = users.events.get(number)
        trained = pl.Series(split(events) == TRAIN)
        counts.add(
            pl.DataFrame({"key": events["item"], "events": 1, "train_count": trained})
            .cast({"events": pl.Int64, "train_count": pl.Int64})
            .pipe(_added_up)
        )
        step(1)
    return counts


def make_catalogue(
    gathered: Gathered, counts: Spill, config: DataConfig, path: Path, step: Step
) -> Catalogue:
    """Writes `items.parquet`, item after item in the order of partition and raw id.

    Raises ValueError when no item has enough training events.
    """
    spills = (gathered.items.spill, counts, gathered.described)
    if any(spill.split for spill in spills):
        for spill in spills:
            spill.use_files()
    keys, size, most = [], 0, 0
    found = Catalogue(np.empty(0, np.uint64), np.empty(0, np.int32), 0, 0, 0, 0, 0)
    num_distinct = 0
    with Writer(path) as writer:
        for partition in gathered.items.spill.partitions():
            names, counted, described = (
                gathered.items.read(partition),
                _or_empty(counts.read(partition), COUNTS),
                gathered.described.read(partition),
            )
            for spill in spills:
                spill.drop(partition)
            table = _chosen(names, counted, described, config)
            most = max(most, int(counted["train_count"].max() or 0))  # type: ignore[arg-type]
            found.num_source_items += names.height
            found.rare += counted.join(table, on="key", how="anti").height
            found.without_text += int((table["text"] == "").sum())
            if described is not None:
                _check_keys(described, names)
                num_distinct += described.height
                found.without_events += described.join(names, on="key", how="anti").height
            keys.append(table["key"].to_numpy())
            number = pl.int_range(size, size + table.height, dtype=pl.Int32, eager=True)
            writer.write(table.drop("key").insert_column(0, number.alias("item_id")))
            size += table.height
            step(1)
    found.repeated = (gathered.num_described or 0) - num_distinct
    if not size:
        raise ValueError(
            f"no item has {config.min_item_events} training events (the most frequent has "
            f"{most}): lower data.min_item_events"
        )
    every = np.concatenate(keys)
    order = np.argsort(every)
    found.keys, found.items = every[order], order.astype(np.int32)
    return found


def _check_keys(described: pl.DataFrame, names: pl.DataFrame) -> None:
    """Raise CollisionError where an item of the item file has another's key."""
    alike = described.select("key", "raw_item_id").join(names, on="key")
    if (
        described["key"].n_unique() < described.height
        or (alike["raw_item_id"] != alike["name"]).any()
    ):
        raise CollisionError


def _chosen(
    names: pl.DataFrame, counted: pl.DataFrame, described: pl.DataFrame | None, config: DataConfig
) -> pl.DataFrame:
    """`key` and the columns of items.parquet but the first, in the order of raw ids."""
    enough = counted.filter(pl.col("train_count") >= max(config.min_item_events, 1))
    table = enough.join(names, on="key").select("key", "train_count", raw_item_id="name")
    if described is None:
        table = table.with_columns(title=pl.lit(""), text=pl.lit(""))
    else:
        texts = described.select("key", "raw_item_id", "title", "text")
        if config.min_item_events == 0:
            unseen = texts.join(table, on="key", how="anti").select("key", "raw_item_id")
            unseen = unseen.select("key", pl.lit(0, pl.Int64).alias("train_count"), "raw_item_id")
            table = pl.concat([table, unseen])
        table = table.join(texts.drop("raw_item_id"), on="key", how="left")
    title = pl.col("title")
    return table.sort("raw_item_id").select(
        "key",
        "raw_item_id",
        pl.when(title.fill_null("") == "").then("raw_item_id").otherwise(title).alias("title"),
        pl.col("text").fill_null(""),
        pl.col("train_count").cast(pl.Int32),
    )


def _added_up(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.group_by("key").agg(pl.col("events", "train_count").sum())


def _or_empty(rows: pl.DataFrame | None, schema: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    return pl.DataFrame(schema=schema) if rows is None else rows
