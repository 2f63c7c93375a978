"""Batches from memory and from files, with worker processes and without."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from toy import SMALL

from glass import distributed
from glass.config import DataConfig, SequenceConfig, TrainConfig
from glass.data import Dataset, prepare
from glass.data.assembly import events as events_module
from glass.data.assembly import spill
from glass.data.shards import Shards
from glass.systems import TRAINED, TrainingRows
from glass.training.feed import Feed, MemoryFeed, ShardFeed, windows

CONFIG = TrainConfig(batch_size=16, max_targets=2, shuffle_events=10**9)
SEQUENCE = SequenceConfig(max_items=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set of 150 users in many files."""
    folder = tmp_path_factory.mktemp("sharded")
    rng = np.random.default_rng(0)
    lines = [
        f"u{user},i{rng.integers(0, 40)},{time // 2}"
        for user in range(150)
        for time in range(int(rng.integers(6, 20)))
    ]
    (folder / "events.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    config = DataConfig(
        name="set",
        format="table",
        path=str(folder / "events.csv"),
        folder=str(folder / "data"),
        min_item_events=1,
        num_test_events=1,
        num_valid_events=1,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill, "ROWS_IN_MEMORY", 100)
        patch.setattr(events_module, "ROW_GROUP_EVENTS", 10)
        return prepare(config)


def rows_of(system: str) -> Any:
    settings = SMALL if system == "glass" else SEQUENCE
    return partial(TRAINED[system].training_rows, settings)


def shard_feed(folder: Path, config: TrainConfig, system: str = "glass") -> ShardFeed:
    return ShardFeed(Shards.of(folder), rows_of(system), config, progress=False)


def tensors(batch: Any) -> dict[str, torch.Tensor]:
    return {name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}


def assert_same(one: Feed, other: Feed, first: int, end: int) -> None:
    steps = list(one.steps(first, end))
    assert len(steps) == end - first
    for mine, theirs in zip(steps, other.steps(first, end), strict=True):
        given, wanted = tensors(mine.batch), tensors(theirs.batch)
        assert given.keys() == wanted.keys()
        assert all(torch.equal(given[name], wanted[name]) for name in given)


def seen(feed: Feed, epoch: int, events_of: Any) -> Counter[Any]:
    """(history, targets) of all rows of an epoch."""
    found: Counter[Any] = Counter()
    for step in feed.steps(epoch * feed.per_epoch, (epoch + 1) * feed.per_epoch):
        found.update(events_of(step.batch))
    return found


def histories(batch: Any) -> list[Any]:
    long = [
        tuple(batch.long_items[start:end].tolist())
        for start, end in zip(batch.long_offsets[:-1], batch.long_offsets[1:], strict=True)
    ]
    short = [tuple(item for item in row if item >= 0) for row in batch.short_items.tolist()]
    return list(zip(long, short, strict=True))


@pytest.mark.parametrize("system", ["glass", "intrr_hstu"])
def test_one_window_is_the_data_set_in_memory(folder: Path, system: str) -> None:
    memory = MemoryFeed(rows_of(system)(Dataset.load(folder)), CONFIG)
    shards = shard_feed(folder, CONFIG, system)
    assert (shards.num_rows, shards.per_epoch) == (memory.num_rows, memory.per_epoch)
    assert shards.made_with() == memory.made_with() == {}
    assert_same(shards, memory, 0, 2 * memory.per_epoch)


def test_every_row_once_an_epoch_whatever_the_windows(folder: Path) -> None:
    config = dataclasses.replace(CONFIG, shuffle_events=300)
    feed = shard_feed(folder, config)
    assert feed.made_with() != {}
    rows = rows_of("glass")(Dataset.load(folder))
    all_rows = Counter(histories(rows.collate(np.arange(len(rows)))))
    orders = []
    for epoch in range(2):
        assert seen(feed, epoch, histories) == all_rows
        first = [
            step.batch.short_items.tolist()
            for step in feed.steps(epoch * feed.per_epoch, epoch * feed.per_epoch + 3)
        ]
        orders.append(first)
    assert orders[0] != orders[1]
    assert feed.per_epoch >= -(-len(rows) // config.batch_size)


def test_windows_are_bounded_and_hold_every_row_group_once(folder: Path) -> None:
    shards = Shards.of(folder)
    assert len(shards) > 50
    found = windows(shards.num_events, 300, seed=0)
    assert sorted(np.concatenate(found).tolist()) == list(range(len(shards)))
    sizes = [int(shards.num_events[window].sum()) for window in found]
    assert len(found) > 3
    assert max(sizes) <= 300 + int(shards.num_events.max())
    again, other = (windows(shards.num_events, 300, seed=seed) for seed in (0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(found, other, strict=False))
    # A window draws from all files, not from neighbours.
    spread = [np.ptp(shards.files[window]) for window in found]
    assert min(spread) > len(set(shards.files.tolist())) // 3
    large = windows(np.array([5, 5]), 1, seed=0)  # row groups above the bound
    assert sorted(part.tolist() for part in large) == [[0], [1]]


@pytest.mark.parametrize("most", [300, 10**9])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_the_same_batches(folder: Path, most: int, workers: int) -> None:
    config = dataclasses.replace(CONFIG, shuffle_events=most)
    alone = shard_feed(folder, config)
    helped = shard_feed(folder, dataclasses.replace(config, workers=workers))
    assert_same(helped, alone, 3, alone.per_epoch + 5)


def test_goes_on_at_any_step(folder: Path) -> None:
    config = dataclasses.replace(CONFIG, shuffle_events=300)
    whole = [tensors(step.batch) for step in shard_feed(folder, config).steps(0, 40)]
    for first in (1, 17, 39):
        rest = [tensors(step.batch) for step in shard_feed(folder, config).steps(first, 40)]
        for given, wanted in zip(rest, whole[first:], strict=True):
            assert all(torch.equal(given[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_a_batch(folder: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = shard_feed(folder, CONFIG)
    whole = feed.step(2).batch
    monkeypatch.setattr(distributed, "count", lambda: count)
    parts = []
    for rank in range(count):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(feed.step(2))
    assert all(part.counts for part in parts)
    rows = [row for part in parts for row in part.batch.rows.tolist()]
    assert sorted(rows) == sorted(whole.rows.tolist())
    monkeypatch.setattr(distributed, "count", lambda: 99)
    monkeypatch.setattr(distributed, "rank", lambda: 98)
    alien = feed.step(2)
    assert not alien.counts
    assert alien.batch.rows.tolist() == whole.rows[:1].tolist()


class Remembering:
    """A collator that tells of the process it works in."""

    def __init__(self, ballast: np.ndarray) -> None:
        self.ballast = ballast

    def __call__(self, rows: np.ndarray, **_: Any) -> dict[str, int]:
        total = int(self.ballast[rows[0] :: 4096].sum())  # touches every page
        used = psutil.Process().memory_full_info().uss
        return {"pid": os.getpid(), "bytes": used, "total": total}


def test_workers_share_the_data() -> None:
    ballast = np.ones(400 << 20, dtype=np.uint8)
    rows = TrainingRows(np.ones(64, dtype=np.int64), Remembering(ballast))
    feed = MemoryFeed(rows, TrainConfig(batch_size=4, workers=2))
    told = [step.batch for step in feed.steps(0, 16)]
    assert len({each["pid"] for each in told}) == 2
    assert os.getpid() not in {each["pid"] for each in told}
    assert max(each["bytes"] for each in told) < 200 << 20


class Dying:
    def __call__(self, rows: np.ndarray, **_: Any) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0


def test_a_killed_worker_ends_with_a_message() -> None:
    rows = TrainingRows(np.ones(8, dtype=np.int64), Dying())
    feed = MemoryFeed(rows, TrainConfig(batch_size=4, workers=1))
    with pytest.raises(ValueError, match=r"was ended .*lower train.workers"):
        list(feed.steps(0, 2))


def test_damaged_shards_are_named(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    path = sorted((copy / "interactions").iterdir())[3]
    content = path.read_bytes()
    shards = Shards.of(copy)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=path.name):
        shards.load(np.arange(len(shards)))
    with pytest.raises(ValueError, match=path.name):
        Shards.of(copy)
