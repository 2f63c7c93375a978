"""A small catalogue with two kinds of items and users who prefer one of them."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@dataclass(frozen=True)
class StandInSamples:
    users: np.ndarray
    history_start: np.ndarray
    history_end: np.ndarray
    target_end: np.ndarray


@dataclass(frozen=True)
class StandIn:
    """The attributes of `glass.data.Dataset` that semantic IDs read."""

    items: np.ndarray
    split: np.ndarray
    user_offsets: np.ndarray
    train_counts: np.ndarray
    item_table: pl.DataFrame
    manifest: dict[str, Any]
    folder: Path
    name: str = "tiny"

    @property
    def num_items(self) -> int:
        return len(self.train_counts)

    def train_events(self) -> tuple[np.ndarray, np.ndarray]:
        lengths = np.diff(self.user_offsets)
        users = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        kept = self.split == 0
        return users[kept], self.items[kept]

    def samples(self, split: str) -> StandInSamples:
        """Each event is a group of its own."""
        code = {"train": 0, "valid": 1, "test": 2}[split]
        lengths = np.diff(self.user_offsets)
        users = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        start = self.user_offsets[users]
        where = np.arange(len(self.items))
        kept = (self.split == code) & (where > start)
        end = where[kept]
        return StandInSamples(users[kept], start[kept], end, end + 1)


def stand_in(
    sequences: list[list[int]], num_items: int, folder: Path, num_test: int = 2
) -> StandIn:
    """Users' item sequences, of which the last `num_test` events are test, the one before valid."""
    splits = [[0] * (len(s) - num_test - 1) + [1] + [2] * num_test for s in sequences]
    items = np.concatenate(sequences).astype(np.int32)
    split = np.concatenate(splits).astype(np.int8)
    table = pl.DataFrame(
        {
            "item_id": pl.Series(range(num_items), dtype=pl.Int32),
            "raw_item_id": [f"r{i}" for i in range(num_items)],
            "title": [f"item {i}" for i in range(num_items)],
            "text": [f"{'red' if i % 2 else 'blue'} thing {i // 3}" for i in range(num_items)],
        }
    )
    return StandIn(
        items,
        split,
        np.concatenate([[0], np.cumsum([len(s) for s in sequences])]),
        np.bincount(items[split == 0], minlength=num_items),
        table,
        {"fingerprint": "abc"},
        folder / "tiny",
    )


@pytest.fixture
def dataset(tmp_path: Path) -> StandIn:
    """40 items, 60 users of 20 events; even users prefer even items."""
    rng = np.random.default_rng(0)
    sequences = []
    for user in range(60):
        own = 2 * rng.integers(0, 20, 17) + user % 2
        sequences.append([*own.tolist(), *rng.integers(0, 40, 3).tolist()])
    data = stand_in(sequences, 40, tmp_path / "data")
    assert (data.train_counts > 0).all()
    return data


@pytest.fixture
def changed_future(dataset: StandIn) -> StandIn:
    """The same data set with other items in every validation and test event."""
    items = np.where(dataset.split == 0, dataset.items, (dataset.items + 7) % dataset.num_items)
    return replace(dataset, items=items.astype(np.int32))


class FakeEncoder:
    """Counts what it is asked; a vector depends on the text alone."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def encode(self, texts: list[str], **_: Any) -> np.ndarray:
        self.calls.append(list(texts))
        rows = [np.random.default_rng(list(t.encode())).normal(size=8) + 3 for t in texts]
        return np.array(rows, np.float32)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> FakeEncoder:
    """Replaces every sentence-transformers model."""
    fake = FakeEncoder()
    monkeypatch.setattr("glass.sid.text.load_encoder", lambda *_: fake)
    monkeypatch.setattr("glass.sid.text.find_model", lambda _: None)
    return fake


@pytest.fixture
def make() -> Callable[..., StandIn]:
    """`stand_in` for tests that need their own sequences."""
    return stand_in
