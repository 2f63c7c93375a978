from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from glass.config import DataConfig
from glass.data import Dataset, prepare
from glass.data.store import MANIFEST

Writer = Callable[..., DataConfig]
EVENTS = [
    ("b", "x", 1),
    ("b", "y", 1),
    ("b", "x", 2),
    ("b", "y", 3),
    ("b", "x", 3),
    ("b", "y", 4),
    ("a", "x", 1),
    ("a", "y", 2),
]


@pytest.fixture
def folder(table: Writer) -> Path:
    return prepare(table(EVENTS, ties="stable"))


def edit(folder: Path, name: str, **columns: list | pl.Expr) -> None:
    path = folder / name
    values = {k: pl.Series(v) if isinstance(v, list) else v for k, v in columns.items()}
    frame = pl.read_parquet(path)
    casts = {k: frame.schema[k] for k in columns}
    frame.with_columns(**values).cast(casts).write_parquet(path)


def test_arrays(folder: Path) -> None:
    dataset = Dataset.load(folder)
    assert dataset.name == "set"
    assert dataset.items.tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    assert dataset.times.tolist() == [1, 2, 1, 1, 2, 3, 3, 4]
    assert dataset.groups.tolist() == [0, 1, 0, 0, 1, 2, 2, 3]
    assert dataset.split.tolist() == [0, 2, 0, 0, 0, 1, 1, 2]
    assert dataset.user_offsets.tolist() == [0, 2, 8]
    assert dataset.train_counts.tolist() == [3, 1]
    assert (dataset.num_users, dataset.num_items, dataset.num_events) == (2, 2, 8)
    dtypes = [dataset.items, dataset.times, dataset.groups, dataset.split, dataset.user_offsets]
    assert [str(a.dtype) for a in dtypes] == ["int32", "int64", "int32", "int8", "int64"]
    assert all(a.flags.writeable for a in dtypes)  # torch.from_numpy warns otherwise
    assert dataset.train_counts.dtype == np.int64
    users, items = dataset.train_events()
    assert users.tolist() == [0, 1, 1, 1]
    assert items.tolist() == [0, 0, 1, 0]
    assert (users.dtype, items.dtype) == (np.int32, np.int32)


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", [(1, 2, 4, 5)]),  # the first groups have no history
        ("valid", [(1, 2, 5, 7)]),
        ("test", [(0, 0, 1, 2), (1, 2, 7, 8)]),
    ],
)
def test_samples(folder: Path, split: str, expected: list[tuple[int, ...]]) -> None:
    samples = Dataset.load(folder).samples(split)
    columns = (samples.users, samples.history_start, samples.history_end, samples.target_end)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected
    assert [str(c.dtype) for c in columns] == ["int32", "int64", "int64", "int64"]
    assert len(samples) == len(expected)


def test_unknown_split(folder: Path) -> None:
    with pytest.raises(ValueError, match="'dev', it has to be one of train, valid, test"):
        Dataset.load(folder).samples("dev")


@pytest.mark.parametrize("target_group", ["timestamp", "event"])
@pytest.mark.parametrize("split", ["last_n", "time"])
def test_samples_of_a_larger_set(table: Writer, target_group: str, split: str) -> None:
    random = np.random.default_rng(0)
    events = list(
        zip(
            random.integers(0, 30, 2000).tolist(),
            random.integers(0, 40, 2000).tolist(),
            random.integers(0, 50, 2000).tolist(),
            strict=True,
        )
    )
    config = table(
        events, target_group=target_group, split=split, num_test_events=5, min_item_events=20
    )
    dataset = Dataset.load(prepare(config))
    owner = dataset.event_users()
    covered = np.zeros(dataset.num_events, dtype=int)
    for k, name in enumerate(("train", "valid", "test")):
        samples = dataset.samples(name)
        assert len(samples) > 0
        assert (samples.history_end > samples.history_start).all()
        assert (samples.target_end > samples.history_end).all()
        assert (samples.history_start == dataset.user_offsets[samples.users]).all()
        last, first, end = samples.history_end - 1, samples.history_end, samples.target_end - 1
        assert (owner[last] == samples.users).all()
        assert (owner[end] == samples.users).all()
        assert (dataset.groups[last] < dataset.groups[first]).all()
        assert (dataset.groups[first] == dataset.groups[end]).all()
        assert (dataset.split[first] == k).all()
        assert (dataset.split[last] <= k).all()
        if target_group == "timestamp":
            assert (dataset.times[last] < dataset.times[first]).all()
        else:
            assert (first == end).all()
        for start, stop in zip(first, samples.target_end, strict=True):
            covered[start:stop] += 1
    assert (covered[dataset.groups > 0] == 1).all()  # every event but a first group's is a target
    assert (covered[dataset.groups == 0] == 0).all()


def test_a_user_between_others_without_events(table: Writer) -> None:
    events = [(user, item, time) for user in "abc" for item, time in (("x", 1), ("y", 2))]
    folder = prepare(table(events))
    edit(folder, "interactions.parquet", user_id=[0, 2, 2])
    with pytest.raises(ValueError, match="a user has none"):
        Dataset.load(folder)


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("interactions.parquet", {"item_id": [0, 1, 0, 1, 0, 1, 0, 2]}, "item ids out of range"),
        ("interactions.parquet", {"item_id": [0, 1, 0, 1, 0, 1, 0, -1]}, "item ids out of range"),
        ("interactions.parquet", {"item_id": [1, 1, 0, 1, 0, 1, 0, 1]}, "train_count"),
        ("interactions.parquet", {"user_id": [0, 1, 0, 1, 1, 1, 1, 1]}, "not sorted by user"),
        ("interactions.parquet", {"user_id": [1] * 8}, "a user has none"),
        ("interactions.parquet", {"user_id": [0] * 8}, "a user has none"),
        ("interactions.parquet", {"user_id": [0, 0, 1, 1, 1, 1, 1, 5]}, "a user has none"),
        ("interactions.parquet", {"time": [1, 2, 1, 1, 2, 3, 2, 4]}, "times run backwards"),
        ("interactions.parquet", {"group": [0, 1, 0, 0, 1, 3, 3, 4]}, "group numbers have gaps"),
        ("interactions.parquet", {"group": [1, 2, 0, 0, 1, 2, 2, 3]}, "group numbers have gaps"),
        ("interactions.parquet", {"split": [0, 2, 0, 0, 0, 1, 2, 2]}, "straddles"),
        ("interactions.parquet", {"split": [0, 2, 0, 0, 1, 0, 0, 2]}, "straddles"),
        ("interactions.parquet", {"split": [0, 3, 0, 0, 0, 1, 1, 2]}, "unknown split"),
        ("interactions.parquet", {"time": [None, 2, 1, 1, 2, 3, 3, 4]}, "missing values"),
        ("items.parquet", {"item_id": [1, 0]}, "ids of the item or user table"),
        ("items.parquet", {"raw_item_id": ["x", "x"]}, "distinct raw ids"),
        ("users.parquet", {"raw_user_id": ["a", "a"]}, "distinct raw ids"),
    ],
)
def test_damaged_tables(folder: Path, name: str, columns: dict[str, list], message: str) -> None:
    edit(folder, name, **columns)
    with pytest.raises(ValueError, match=message) as caught:
        Dataset.load(folder)
    assert "prepare it again" in str(caught.value)


def test_wrong_types_and_files(folder: Path) -> None:
    path = folder / "interactions.parquet"
    whole = path.read_bytes()
    pl.read_parquet(path).cast({"item_id": pl.Int64}).write_parquet(path)
    with pytest.raises(ValueError, match="has columns"):
        Dataset.load(folder)
    path.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match="cannot be read"):
        Dataset.load(folder)
    path.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        Dataset.load(folder)


def test_manifests_that_do_not_fit(folder: Path) -> None:
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"counts": manifest["counts"] | {"events": 9}}))
    with pytest.raises(ValueError, match="the manifest counts"):
        Dataset.load(folder)
    path.write_text(json.dumps(manifest | {"format_version": 2}))
    with pytest.raises(ValueError, match="format version 2, this program reads 1"):
        Dataset.load(folder)
    path.write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        Dataset.load(folder)
    path.unlink()
    with pytest.raises(ValueError, match="glass data prepare"):
        Dataset.load(folder)


def test_round_trip_keeps_every_event(table: Writer) -> None:
    random = np.random.default_rng(1)
    events = [
        (f"u{u}", f"i,{i}".replace(",", "-"), int(t))
        for u, i, t in zip(
            random.integers(0, 9, 300),
            random.integers(0, 12, 300),
            random.integers(0, 40, 300),
            strict=True,
        )
    ]
    dataset = Dataset.load(prepare(table(events, num_test_events=0, num_valid_events=0)))
    names = dataset.item_table["raw_item_id"].to_numpy()[dataset.items]
    users = dataset.user_table["raw_user_id"].to_numpy()[dataset.event_users()]
    assert sorted(zip(users, names, dataset.times.tolist(), strict=True)) == sorted(events)
