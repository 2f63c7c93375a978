"""The items of a data set: those with enough training events, and their texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glass.config import DataConfig
from glass.data.assembly.counts import ItemCounts
from glass.data.assembly.gather import CollisionError, Gathered, Names, Step
from glass.data.assembly.keys import Keys
from glass.data.assembly.parquet import Writer
from glass.data.assembly.parts import Parts
from glass.data.assembly.spill import Rows
from glass.data.shared_arrays import SharedArrays
from glass.workers import Workers


class Lookup:
    """Items by key.

    Args:
        keys: uint64 [V] rising.
        items: int32 [V] item of each key.
        folder: of files, where other processes shall see them; None: memory alone.
    """

    def __init__(self, keys: Keys, items: NDArray[np.int32], folder: Path | None = None) -> None:
        self._arrays = SharedArrays({"keys": keys, "items": items}, folder)

    def __len__(self) -> int:
        return len(self._arrays["keys"])

    def find(self, keys: Keys) -> NDArray[np.int32]:
        """int32 [T] item of each key, -1: it is not in the catalogue."""
        rising, items = self._arrays["keys"], self._arrays["items"]
        order = np.argsort(keys)  # neighbouring searches touch neighbouring memory
        place = np.searchsorted(rising, keys[order])
        place[place == len(rising)] = 0
        known = rising[place] == keys[order]
        found = np.empty(len(keys), dtype=np.int32)
        found[order] = np.where(known, items[place], -1)
        return found


@dataclass
class Account:
    """What the manifest says of the items of all partitions."""

    items: int = 0
    source_items: int = 0
    """Different items in the events of the source."""
    most: int = 0
    """Training events of the most frequent item."""
    rare: int = 0
    """Items of kept users' events that are not in the catalogue."""
    described: int = 0
    """Different items of the item file."""
    without_events: int = 0
    """Items of the item file that no event names."""
    without_text: int = 0

    def add(self, other: Account) -> None:
        """Takes another partition in."""
        for name in vars(self):
            one, two = getattr(self, name), getattr(other, name)
            setattr(self, name, max(one, two) if name == "most" else one + two)


@dataclass(frozen=True)
class Catalogue:
    """The items, once their table is written."""

    lookup: Lookup
    account: Account
    repeated: int
    """Rows of the item file that describe an item again."""


@dataclass(frozen=True)
class ChooseItems:
    """Chooses the items of a partition and joins their texts."""

    names: Names
    described: Rows
    counts: ItemCounts
    tables: Parts
    config: DataConfig

    def __call__(self, partition: int) -> Account:
        names, described = self.names.read(partition), self.described.read(partition)
        if names.is_empty() and described is None:
            return Account()
        counted = self.counts.read(partition)
        table = _chosen(names, counted, described, self.config)
        found = Account(
            items=table.height,
            source_items=names.height,
            most=int(counted["train_count"].max() or 0),  # type: ignore[arg-type]
            rare=counted.join(table, on="key", how="anti").height,
            without_text=int((table["text"] == "").sum()),
        )
        if described is not None:
            _check_keys(described, names)
            found.described = described.height
            found.without_events = described.join(names, on="key", how="anti").height
        if table.height:
            self.tables.put(partition, table)
        return found


def make_catalogue(
    gathered: Gathered,
    counts: ItemCounts,
    config: DataConfig,
    path: Path,
    work: Path,
    workers: Workers,
    step: Step,
) -> Catalogue:
    """Writes `items.parquet`, item after item in the order of partition and raw id.

    Raises ValueError when no item has enough training events.
    """
    spills = (gathered.items.spill, gathered.described)
    tables = Parts(work / "items" if gathered.items.spill.split else None)
    choose = ChooseItems(gathered.items, gathered.described, counts, tables, config)
    partitions = gathered.items.spill.partitions()
    account, keys, size = Account(), [], 0
    done = workers.map(choose, partitions)
    with Writer(path) as writer:
        for partition, part in zip(partitions, done, strict=True):
            for spill in spills:
                spill.drop(partition)
            step(1)
            account.add(part)
            if not part.items:
                continue
            table = tables.get(partition)
            keys.append(np.array(table["key"]))
            number = pl.int_range(size, size + table.height, dtype=pl.Int32, eager=True)
            writer.write(table.drop("key").insert_column(0, number.alias("item_id")))
            size += table.height
            tables.drop(partition)
    counts.drop()
    if not size:
        raise ValueError(
            f"no item has {config.min_item_events} training events (the most frequent has "
            f"{account.most}): lower data.min_item_events"
        )
    every = np.concatenate(keys)
    order = np.argsort(every)
    lookup = Lookup(
        every[order], order.astype(np.int32), work / "lookup" if workers.several else None
    )
    return Catalogue(lookup, account, (gathered.num_described or 0) - account.described)


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
