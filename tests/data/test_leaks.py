"""Nothing that is fitted, and no history, depends on what comes later."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import polars as pl
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from raw_tables import Tables, tables_of

from glass.config import DataConfig
from glass.data.order import assign_splits, event_order, group_numbers
from glass.data.raw import EVENT_SCHEMA, ITEM_SCHEMA, RawData

NEW_ITEM = 99
Events = list[tuple[int, int, int]]  # user, item, time

events_strategy = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 9)), min_size=8, max_size=40
)
config_strategy = st.builds(
    DataConfig,
    min_item_events=st.integers(1, 3),
    min_user_events=st.just(2),
    split=st.sampled_from(["last_n", "time"]),
    num_test_events=st.integers(1, 4),
    num_valid_events=st.integers(0, 4),
    test_share=st.sampled_from([0.1, 0.3]),
    valid_share=st.sampled_from([0.0, 0.3]),
    target_group=st.sampled_from(["timestamp", "event"]),
    ties=st.sampled_from(["shuffle", "stable"]),
    seed=st.integers(0, 3),
)


def raw_data(events: Events, items: range = range(0)) -> RawData:
    rows = [(f"u{user}", f"i{item}", time, k) for k, (user, item, time) in enumerate(events)]
    table = [(f"i{item}", "", "") for item in items]
    return RawData(
        [pl.DataFrame(rows, schema=EVENT_SCHEMA, orient="row")],
        [pl.DataFrame(table, schema=ITEM_SCHEMA, orient="row")],
        (),
        {},
    )


def build(events: Events, config: DataConfig, items: range = range(0)) -> Tables | None:
    try:
        return tables_of(raw_data(events, items), config)
    except ValueError:
        return None  # nothing left after the filters


def splits(events: Events, config: DataConfig) -> np.ndarray:
    """Split of each raw event; users with one event count as split 0."""
    users, _, times = (np.array(column) for column in zip(*events, strict=True))
    rows = np.arange(len(events))
    kept = rows[np.bincount(users, minlength=4)[users] >= 2]
    order = kept[event_order(users[kept], times[kept], rows[kept], config)]
    groups = group_numbers(users[order], times[order], config.target_group)
    result = np.zeros(len(events), dtype=np.int8)
    result[order] = assign_splits(users[order], times[order], groups, config)
    return result


def sequences(tables: Tables) -> dict[str, list[tuple]]:
    """{user: (item, time, group, split) in order}."""
    named = tables.interactions.join(tables.items, on="item_id", maintain_order="left").join(
        tables.users, on="user_id", maintain_order="left"
    )
    parts = named.partition_by("raw_user_id", as_dict=True, maintain_order=True)
    return {
        str(user): part.select("raw_item_id", "time", "group", "split").rows()
        for (user,), part in parts.items()
    }


def replace(events: Events, row: int, item: int, time: int) -> Events:
    changed = list(events)
    changed[row] = (events[row][0], item, time)
    return changed


@settings(max_examples=50, deadline=None)
@given(events_strategy, config_strategy, st.data())
def test_items_of_later_events_change_nothing_but_themselves(
    events: Events, config: DataConfig, data: st.DataObject
) -> None:
    held_out = np.flatnonzero(splits(events, config) > 0)
    assume(len(held_out))
    row = int(data.draw(st.sampled_from(held_out.tolist())))
    user, _, time = events[row]
    without = build(replace(events, row, NEW_ITEM, time), config)
    assume(without is not None)
    expected = sequences(without)
    for item in data.draw(st.sets(st.integers(0, 5), min_size=2, max_size=2)):
        tables = build(replace(events, row, item, time), config)
        assert tables is not None
        assert tables.items.equals(without.items)  # catalogue and train_count
        assert tables.users.equals(without.users)
        found = sequences(tables)
        mine, other = found.pop(f"u{user}", []), dict(expected).pop(f"u{user}", [])
        assert found == {name: seq for name, seq in expected.items() if name != f"u{user}"}
        earlier = sum(event[1] < time for event in other)
        assert mine[:earlier] == other[:earlier]
        plain = [(event[0], event[1], event[3]) for event in mine]
        plain_other = [(event[0], event[1], event[3]) for event in other]
        assert plain == plain_other or any(
            plain[:k] + plain[k + 1 :] == plain_other for k in range(len(plain))
        )


@settings(max_examples=60, deadline=None)
@given(events_strategy, config_strategy, st.integers(1, 20), st.data())
def test_delaying_what_comes_later_changes_nothing_else(
    events: Events, config: DataConfig, delay: int, data: st.DataObject
) -> None:
    held_out = np.flatnonzero(splits(events, config) > 0)
    assume(len(held_out))
    row = int(data.draw(st.sampled_from(held_out.tolist())))
    user, _, start = events[row]
    # A cut at a time is common to all users, so there everybody's later events are delayed.
    delayed = [
        (u, i, t + delay if t >= start and (u == user or config.split == "time") else t)
        for u, i, t in events
    ]
    before, after = build(events, config), build(delayed, config)
    assume(before is not None)
    assert after is not None
    assert after.items.equals(before.items)
    assert after.users.equals(before.users)
    untimed = ["user_id", "item_id", "group", "split"]
    assert after.interactions.select(untimed).equals(before.interactions.select(untimed))


@settings(max_examples=60, deadline=None)
@given(events_strategy, config_strategy, st.integers(0, 5), st.integers(1, 9), st.data())
def test_history_ignores_any_later_event(
    events: Events, config: DataConfig, item: int, delay: int, data: st.DataObject
) -> None:
    config = dataclasses.replace(config, split="last_n", min_item_events=0)
    row = int(data.draw(st.integers(0, len(events) - 1)))
    user, _, time = events[row]
    before = build(events, config, range(6))
    assume(before is not None)
    after = build(replace(events, row, item, time + delay), config, range(6))
    assert after is not None
    old, new = sequences(before).get(f"u{user}", []), sequences(after).get(f"u{user}", [])
    earlier = sum(event[1] < time for event in old)
    assert [e[:3] for e in new[:earlier]] == [e[:3] for e in old[:earlier]]


@settings(max_examples=60, deadline=None)
@given(events_strategy, config_strategy)
def test_groups_stay_whole_and_in_order(events: Events, config: DataConfig) -> None:
    tables = build(events, config)
    assume(tables is not None)
    for sequence in sequences(tables).values():
        _, times, groups, labels = (list(column) for column in zip(*sequence, strict=True))
        assert times == sorted(times)
        assert labels == sorted(labels)
        assert labels[0] == 0
        assert sorted(set(groups)) == list(range(len(set(groups))))
        assert len(set(zip(groups, labels, strict=True))) == len(set(groups))
        if config.target_group == "timestamp":
            assert len(set(zip(groups, times, strict=True))) == len(set(groups)) == len(set(times))
        else:
            assert groups == list(range(len(groups)))
    training = tables.interactions.filter(pl.col("split") == 0)
    counts = np.bincount(training["item_id"], minlength=tables.items.height)
    assert counts.tolist() == tables.items["train_count"].to_list()
    assert counts.min() >= 1
    if config.split == "time":
        newest = [tables.interactions.filter(split=k)["time"].max() for k in range(3)]
        oldest = [tables.interactions.filter(split=k)["time"].min() for k in range(3)]
        known = [k for k in range(3) if newest[k] is not None]
        assert all(newest[a] < oldest[b] for a, b in itertools.pairwise(known))
