"""A data set larger than memory comes out as one that is in memory does."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pickled import PickledWorkers
from raw_tables import Tables, tables_of

from glass.config import DataConfig
from glass.data import Dataset, prepare
from glass.data.assembly import events as events_module
from glass.data.assembly import gather, spill, steps
from glass.data.assembly.keys import PARTITION_BITS, keys_of, partition_of
from glass.data.raw import EVENT_SCHEMA, ITEM_SCHEMA, PartOfEvents, RawData, RowReport
from glass.workers import ONE_PROCESS, Workers

Event = tuple[int, int, int]


def raw_data(events: list[Event], num_described: int, chunk: int) -> RawData:
    rows = [(f"u{user}", f"i{item}", time, k) for k, (user, item, time) in enumerate(events)]
    table = [(f"i{item}", f"title {item}", "x" * (item % 3)) for item in range(num_described)]
    table += table[:2]
    frame = pl.DataFrame(rows, schema=EVENT_SCHEMA, orient="row")
    items = pl.DataFrame(table, schema=ITEM_SCHEMA, orient="row")
    tables = chunks(frame, chunk)
    return RawData(
        tables,
        chunks(items, chunk) if num_described else [],
        (RowReport("interactions"),),
        {},
        apart=lambda folder: [File(tables[k : k + 2]) for k in range(0, len(tables), 2)],
    )


@dataclasses.dataclass(frozen=True)
class File:
    """Two chunks that another process may read; its rows count from 0."""

    tables: list[pl.DataFrame]

    def __call__(self) -> PartOfEvents:
        first = min((table["row"][0] for table in self.tables if table.height), default=0)
        shifted = [table.with_columns(pl.col("row") - first) for table in self.tables]
        rows = sum(table.height for table in self.tables)
        return PartOfEvents(shifted, RowReport("interactions"), {}, lambda: rows)


def chunks(frame: pl.DataFrame, size: int) -> list[pl.DataFrame]:
    return [frame[k : k + size] for k in range(0, max(frame.height, 1), size)]


def named(tables: Tables) -> tuple[list[tuple], list[tuple]]:
    """Events and items with raw ids in the place of numbers."""
    events = tables.interactions.join(tables.items, on="item_id", maintain_order="left").join(
        tables.users, on="user_id", maintain_order="left"
    )
    columns = ("raw_user_id", "raw_item_id", "time", "group", "split")
    by_user = events.select(columns).sort("raw_user_id", maintain_order=True)
    return by_user.rows(), tables.items.drop("item_id").sort("raw_item_id").rows()


@pytest.fixture
def tiny_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "ROWS_IN_MEMORY", 10)
    monkeypatch.setattr(events_module, "ROW_GROUP_EVENTS", 7)


DRAWN: dict[str, Any] = dict(
    events=st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 7), st.integers(-4, 12)),
        min_size=12,
        max_size=60,
    ),
    config=st.builds(
        DataConfig,
        min_item_events=st.integers(0, 3),
        min_user_events=st.integers(0, 4),
        split=st.sampled_from(["last_n", "time"]),
        num_test_events=st.integers(0, 3),
        num_valid_events=st.integers(0, 3),
        test_share=st.sampled_from([0.0, 0.1, 0.3]),
        valid_share=st.sampled_from([0.0, 0.3]),
        target_group=st.sampled_from(["timestamp", "event"]),
        ties=st.sampled_from(["shuffle", "stable"]),
    ),
    num_described=st.sampled_from([0, 3, 12]),
    chunk=st.sampled_from([1, 4, 100]),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(**DRAWN)
def test_partitions_change_the_numbers_alone(
    events: list[Event],
    config: DataConfig,
    num_described: int,
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build() -> Tables | str:
        try:
            return tables_of(raw_data(events, num_described, chunk), config)
        except ValueError as error:
            return str(error)

    whole = build()
    with monkeypatch.context() as patch:
        patch.setattr(spill, "ROWS_IN_MEMORY", 5)
        patch.setattr(events_module, "ROW_GROUP_EVENTS", 7)
        parts = build()
    if isinstance(whole, str) or isinstance(parts, str):
        assert parts == whole
        return
    assert named(parts) == named(whole)
    assert dataclasses.replace(parts.assembled, shards=1) == whole.assembled


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(**DRAWN)
def test_workers_change_nothing(
    events: list[Event],
    config: DataConfig,
    num_described: int,
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(workers: Workers) -> Tables | str:
        try:
            return tables_of(raw_data(events, num_described, chunk), config, workers)
        except ValueError as error:
            return str(error)

    with monkeypatch.context() as patch:
        patch.setattr(spill, "ROWS_IN_MEMORY", 5)
        one, several = build(ONE_PROCESS), build(PickledWorkers())
    if isinstance(one, str) or isinstance(several, str):
        assert several == one
        return
    assert several.interactions.equals(one.interactions)
    assert several.items.equals(one.items)
    assert several.users.equals(one.users)
    assert several.assembled == one.assembled


def partitioned(config: DataConfig, folder: Path, num_users: int = 40) -> DataConfig:
    rng = np.random.default_rng(0)
    lines = [
        f"u{user},i{rng.zipf(1.6) % 50},{time}"
        for user in range(num_users)
        for time in range(int(rng.integers(3, 12)))
    ]
    rng.shuffle(lines)
    path = folder / "events.csv"
    path.write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    return dataclasses.replace(config, path=str(path))


@pytest.mark.usefixtures("tiny_memory")
def test_prepared_partitions_load(config: DataConfig, tmp_path: Path) -> None:
    folder = prepare(partitioned(config, tmp_path))
    assert sorted(path.name for path in folder.iterdir()) == [
        "interactions",
        "items.parquet",
        "manifest.json",
        "users.parquet",
    ]
    shards = sorted((folder / "interactions").iterdir())
    assert len(shards) > 20
    assert all(path.suffix == ".parquet" for path in shards)
    dataset = Dataset.load(folder)
    raw = dataset.user_table["raw_user_id"]
    assert dataset.num_users == 40
    # Users are in the order of their partitions, and within them of their ids.
    order = list(zip(partition_of(keys_of(raw)).tolist(), raw.to_list(), strict=True))
    assert order == sorted(order)
    numbers = [int(path.stem) for path in shards]
    assert numbers == sorted({partition for partition, _ in order})


@pytest.mark.usefixtures("tiny_memory")
def test_a_partition_without_events_has_no_file(config: DataConfig, tmp_path: Path) -> None:
    lines = [f"u{user},i{user % 3},{time}" for user in range(30) for time in range(4)]
    lines += [f"rare {user},once {user} {time},1" for user in range(30) for time in range(4)]
    path = tmp_path / "events.csv"
    path.write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    folder = prepare(dataclasses.replace(config, path=str(path), min_item_events=2))
    dataset = Dataset.load(folder)
    assert dataset.num_users == 30
    assert dataset.manifest["shards"] == len(list((folder / "interactions").iterdir())) < 31


@pytest.mark.usefixtures("tiny_memory")
def test_row_groups_hold_whole_users(config: DataConfig, tmp_path: Path) -> None:
    folder = prepare(partitioned(config, tmp_path, num_users=400))
    groups = 0
    for path in (folder / "interactions").iterdir():
        file = pq.ParquetFile(path)
        tables = [file.read_row_group(k) for k in range(file.num_row_groups)]
        users = [set(table["user_id"].to_pylist()) for table in tables]
        assert all(not one & other for one, other in itertools.combinations(users, 2))
        groups = max(groups, len(users))
    assert groups > 1


@pytest.mark.usefixtures("tiny_memory")
def test_missing_shard_is_found(config: DataConfig, tmp_path: Path) -> None:
    config = partitioned(config, tmp_path)
    folder = prepare(config)
    next((folder / "interactions").iterdir()).unlink()
    with pytest.raises(ValueError, match="is damaged"):
        Dataset.load(folder)
    Dataset.load(prepare(config))


@pytest.mark.usefixtures("tiny_memory")
def test_changing_to_another_size_leaves_no_old_tables(config: DataConfig, tmp_path: Path) -> None:
    config = partitioned(config, tmp_path)
    prepare(config)
    spill.ROWS_IN_MEMORY = 10_000  # put back by the fixture
    folder = prepare(dataclasses.replace(config, seed=1))
    assert (folder / "interactions.parquet").is_file()
    assert not (folder / "interactions").exists()
    assert not (folder / "work").exists()


class TestCollisions:
    def colliding(self, seeds: set[int]) -> Iterator[object]:
        def keys(texts: pl.Series, seed: int = 0) -> np.ndarray:
            found = keys_of(texts, seed)
            if seed in seeds:
                found[(texts == "u1").to_numpy() | (texts == "i2").to_numpy()] = 5
                found[(texts == "u2").to_numpy() | (texts == "i3").to_numpy()] = 5
            return found

        return keys  # type: ignore[return-value]

    @pytest.mark.parametrize("where", ["users", "items", "item file"])
    def test_another_seed_is_taken(self, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
        users, items = {"users": ((1, 2), (0, 1)), "items": ((0, 1), (2, 3))}.get(
            where, ((0, 1), (1, 2))
        )
        events = [(user, item, time) for user in users for item in items for time in range(3)]
        raw = raw_data(events, 4 if where == "item file" else 0, 100)
        config = DataConfig(min_item_events=0, min_user_events=1, num_test_events=1)
        expected = tables_of(raw, config)
        monkeypatch.setattr(gather, "keys_of", self.colliding({0, 1}))
        found = tables_of(raw, config)
        assert named(found) == named(expected)
        assert found.assembled == expected.assembled

    def test_keys_that_always_collide_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gather, "keys_of", self.colliding(set(range(steps.SEEDS))))
        raw = raw_data([(user, 0, time) for user in (1, 2) for time in range(3)], 0, 100)
        with pytest.raises(ValueError, match="same key"):
            tables_of(raw, DataConfig())


def test_bits_of_a_partition() -> None:
    keys = np.array([0, 2**63, 2**64 - 1], dtype=np.uint64)
    last = (1 << PARTITION_BITS) - 1
    assert partition_of(keys).tolist() == [0, (last + 1) // 2, last]
