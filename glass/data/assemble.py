"""From raw events and items to the tables of a prepared data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from glass.config import DataConfig
from glass.data.order import (
    SPLITS,
    TRAIN,
    IntArray,
    assign_splits,
    event_order,
    group_numbers,
    renumber_groups,
)
from glass.data.raw import RawData

Column = NDArray[Any]


@dataclass(frozen=True)
class Tables:
    """Tables of docs/architecture.md and what was left out on the way."""

    interactions: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame
    dropped: dict[str, Any]


@dataclass
class _Events:
    """Columns of sorted events, selected together."""

    users: IntArray
    items: IntArray
    times: IntArray
    rows: IntArray

    def select(self, index: Column) -> _Events:
        return _Events(self.users[index], self.items[index], self.times[index], self.rows[index])


def assemble(raw: RawData, config: DataConfig) -> Tables:
    """Filter users, sort, group, split, then filter items by their training events.

    Groups and splits come from all events of the users that stay. An item needs
    `min_item_events` training events; with 0, the item file's items stay without any. Users
    without a training event left are dropped too. So nothing in the result depends on
    which items the validation and test events hold, except those events.

    Raises ValueError when nothing is left, naming the setting to change.
    """
    user_names, user_codes = _encode(raw.events["raw_user_id"])
    item_names, item_codes = _encode(raw.events["raw_item_id"])
    events = _Events(
        user_codes, item_codes, raw.events["time"].to_numpy(), raw.events["row"].to_numpy()
    )
    dropped: dict[str, Any] = {"rows": raw.dropped}
    events = _drop_users(events, len(user_names), config, dropped)
    events = events.select(event_order(events.users, events.times, events.rows, config))
    groups = group_numbers(events.users, events.times, config.target_group)
    split = assign_splits(events.users, events.times, groups, config)
    _require_training(split, config)

    train_counts = np.bincount(events.items[split == TRAIN], minlength=len(item_names))
    items, item_of_code = _catalogue(raw, item_names, train_counts, config)
    listed = item_of_code[events.items] >= 0
    has_training = np.zeros(len(user_names), dtype=bool)
    has_training[events.users[listed & (split == TRAIN)]] = True
    kept = listed & has_training[events.users]
    _count_dropped(events, split, listed, kept, dropped)
    eventless = ~raw.items["raw_item_id"].is_in(item_names.implode())
    dropped["items_without_events"] = int(eventless.sum())

    events, groups, split = events.select(kept), groups[kept], split[kept]
    codes, users = np.unique(events.users, return_inverse=True)
    interactions = pl.DataFrame(
        {
            "user_id": users.astype(np.int32),
            "item_id": item_of_code[events.items].astype(np.int32),
            "time": events.times,
            "group": renumber_groups(users, groups).astype(np.int32),
            "split": split,
        }
    )
    user_table = pl.DataFrame(
        {"user_id": np.arange(len(codes), dtype=np.int32), "raw_user_id": user_names[codes]}
    )
    return Tables(interactions, items, user_table, dropped)


def _encode(names: pl.Series) -> tuple[pl.Series, IntArray]:
    """Sorted distinct names and each row's position among them."""
    distinct = names.unique().sort()
    lookup = pl.DataFrame({"name": distinct}).with_row_index("code")
    codes = names.to_frame("name").join(lookup, on="name", how="left", maintain_order="left")
    return distinct, codes["code"].to_numpy().astype(np.int64)


def _drop_users(
    events: _Events, num_users: int, config: DataConfig, dropped: dict[str, Any]
) -> _Events:
    counts = np.bincount(events.users, minlength=num_users)
    single = counts == 1
    few = (counts < config.min_user_events) & ~single
    for name, mask in (("users_with_one_event", single), ("users_with_few_events", few)):
        dropped[name] = {"users": int(mask.sum()), "events": int(counts[mask].sum())}
    kept = ~(single | few)
    if not kept.any():
        raise ValueError(
            f"no user has at least {max(2, config.min_user_events)} events (the most active of "
            f"{num_users} has {counts.max(initial=0)}): lower data.min_user_events or add events"
        )
    return events.select(kept[events.users])


def _require_training(split: NDArray[np.int8], config: DataConfig) -> None:
    if not (split == TRAIN).any():
        raise ValueError(
            f"data.split={config.split!r} leaves no training event: most events share the newest "
            "time; lower data.test_share and data.valid_share, or use data.split='last_n'"
        )


def _catalogue(
    raw: RawData, names: pl.Series, train_counts: IntArray, config: DataConfig
) -> tuple[pl.DataFrame, IntArray]:
    """The item table, in the order of raw ids, and the item of each name's code (-1: none)."""
    counted = pl.DataFrame({"raw_item_id": names, "train_count": train_counts})
    counted = counted.filter(pl.col("train_count") >= max(config.min_item_events, 1))
    if config.min_item_events == 0:
        unseen = raw.items.select("raw_item_id").join(counted, on="raw_item_id", how="anti")
        counted = pl.concat([counted, unseen.with_columns(train_count=pl.lit(0, pl.Int64))])
    if counted.is_empty():
        raise ValueError(
            f"no item has {config.min_item_events} training events (the most frequent has "
            f"{train_counts.max(initial=0)}): lower data.min_item_events"
        )
    described = counted.sort("raw_item_id").join(
        raw.items, on="raw_item_id", how="left", maintain_order="left"
    )
    title = pl.col("title")
    items = described.select(
        pl.int_range(pl.len(), dtype=pl.Int32).alias("item_id"),
        "raw_item_id",
        pl.when(title.fill_null("") == "").then("raw_item_id").otherwise(title).alias("title"),
        pl.col("text").fill_null(""),
        pl.col("train_count").cast(pl.Int32),
    )
    codes = pl.DataFrame({"raw_item_id": names}).join(
        items.select("raw_item_id", "item_id"), on="raw_item_id", how="left", maintain_order="left"
    )
    return items, codes["item_id"].fill_null(-1).to_numpy().astype(np.int64)


def _count_dropped(
    events: _Events,
    split: NDArray[np.int8],
    listed: NDArray[np.bool_],
    kept: NDArray[np.bool_],
    dropped: dict[str, Any],
) -> None:
    rare = ~listed
    dropped["rare_items"] = {
        "items": len(np.unique(events.items[rare])),
        "events": int(rare.sum()),
    }
    orphaned = listed & ~kept
    dropped["users_without_training_events"] = {
        "users": len(np.unique(events.users)) - len(np.unique(events.users[kept])),
        "events": int(orphaned.sum()),
    }
    dropped["by_split"] = {}
    for name, label in SPLITS.items():
        before, lost = int((split == label).sum()), int(((split == label) & ~kept).sum())
        dropped["by_split"][name] = {"events": lost, "share": lost / before if before else 0.0}
