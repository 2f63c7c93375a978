"""A small data set with the attributes that evaluation uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from glass.evaluation import Targets

SPLITS = {"train": 0, "valid": 1, "test": 2}


@dataclass(frozen=True)
class TinySamples:
    users: np.ndarray
    history_start: np.ndarray
    history_end: np.ndarray
    target_end: np.ndarray


@dataclass(frozen=True)
class TinyDataset:
    items: np.ndarray
    groups: np.ndarray
    split: np.ndarray
    user_offsets: np.ndarray
    num_items: int

    @property
    def num_users(self) -> int:
        return len(self.user_offsets) - 1

    @property
    def users(self) -> np.ndarray:
        return np.repeat(np.arange(self.num_users, dtype=np.int32), np.diff(self.user_offsets))

    @property
    def train_counts(self) -> np.ndarray:
        return np.bincount(self.items[self.split == 0], minlength=self.num_items)

    def train_events(self) -> tuple[np.ndarray, np.ndarray]:
        train = self.split == 0
        return self.users[train], self.items[train]

    def samples(self, split: str) -> TinySamples:
        rows = []
        for user, (begin, end) in enumerate(
            zip(self.user_offsets[:-1], self.user_offsets[1:], strict=True)
        ):
            for group in np.unique(self.groups[begin:end]):
                events = begin + np.flatnonzero(self.groups[begin:end] == group)
                if events[0] > begin and self.split[events[0]] == SPLITS[split]:
                    rows.append((user, begin, events[0], events[-1] + 1))
        columns = np.array(rows, np.int64).reshape(-1, 4).T
        return TinySamples(columns[0].astype(np.int32), *columns[1:])


Baskets = Sequence[Sequence[tuple[str, Sequence[int]]]]


def make_dataset(users: Baskets, num_items: int) -> TinyDataset:
    """Data set from the baskets ("train" | "valid" | "test", items) of each user."""
    items = [item for baskets in users for _, basket in baskets for item in basket]
    groups = [g for baskets in users for g, (_, basket) in enumerate(baskets) for _ in basket]
    split = [SPLITS[s] for baskets in users for s, basket in baskets for _ in basket]
    lengths = [sum(len(basket) for _, basket in baskets) for baskets in users]
    return TinyDataset(
        items=np.array(items, np.int32),
        groups=np.array(groups, np.int32),
        split=np.array(split, np.int8),
        user_offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        num_items=num_items,
    )


def make_targets(
    items: Sequence[int],
    samples: Sequence[int] | None = None,
    repeat: Sequence[bool] | None = None,
    users: Sequence[int] | None = None,
    history_length: Sequence[int] | None = None,
) -> Targets:
    """Targets without a data set; by default a sample and a user each."""
    n = len(items)
    sample = np.arange(n) if samples is None else np.array(samples, np.int64)
    return Targets(
        sample=sample.astype(np.int64),
        user=(sample if users is None else np.array(users)).astype(np.int32),
        item=np.array(items, np.int32),
        repeat=np.zeros(n, bool) if repeat is None else np.array(repeat, bool),
        history_length=np.ones(n, np.int64)
        if history_length is None
        else np.array(history_length, np.int64),
    )


def random_dataset(seed: int, num_users: int = 30, num_items: int = 40) -> TinyDataset:
    """Skewed random baskets: several of each split for every user."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, num_items + 1)
    weights /= weights.sum()

    def basket() -> list[int]:
        return list(rng.choice(num_items, size=rng.integers(1, 5), p=weights))

    users = [
        [("train", basket()) for _ in range(rng.integers(2, 9))]
        + [("valid", basket()) for _ in range(2)]
        + [("test", basket()) for _ in range(2)]
        for _ in range(num_users)
    ]
    return make_dataset(users, num_items)


@pytest.fixture
def dataset_of() -> Callable[[Baskets, int], TinyDataset]:
    return make_dataset


@pytest.fixture
def targets_of() -> Callable[..., Targets]:
    return make_targets


@pytest.fixture
def random_data() -> Callable[..., TinyDataset]:
    return random_dataset
