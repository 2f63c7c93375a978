"""Files in the schema of TAOBAO-MM, of any size, with interests and popularity planted in them.

- Items fall into topics. An item's vector is its topic's direction and noise, so that a quantiser's
  first level finds the topics; its category is the topic's.
- Popularity within a topic, and of topics, is Zipf's with exponent 1.
- A user has a few long-term topics, with unequal weights, and one topic of the newest events. A
  share of every history is of anything.
- A click is of the user's topics more often than chance; a row without one is of anything.
- Only a share of the items has a vector, as in the release (14.6 % of the ids of the histories).

Test histories go on where those of training end, and lose as many of the oldest events.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from glass.data.order import tie_keys
from glass.data.store import remove_stale

WIDTH = 128
ITEMS_A_USER = 35e6 / 6.9e6
"""Items and users of the release."""
BLOCK_EVENTS = 4_000_000
"""Events that are in memory at a time."""
_LIST, _LABEL = pa.list_(pa.int64()), pa.list_(pa.int8())
_PROFILE = tuple(f"130_{k}" for k in range(1, 6))
SAMPLES = pa.schema([("label_0", _LABEL), ("129_1", pa.int64()), ("205", pa.int64())])
USERS = pa.schema(
    [
        ("129_1", pa.int64()),
        *((name, pa.int64()) for name in _PROFILE),
        ("150_2_180", _LIST),
        ("151_2_180", _LIST),
    ]
)
ITEMS = pa.schema([(name, pa.int64()) for name in ("205", "206", "213", "214")])
VECTORS = pa.schema([("205", pa.int64()), ("205_c", pa.list_(pa.int8()))])
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SynthSizes:
    """How much is made, and how much of it follows the plan."""

    users: int
    items: int
    """Different items at most."""
    topics: int = 64
    history: int = 1000
    """Events of the longest history; a tenth of the users have fewer."""
    train_rows: int = 11
    """Rows of a user in train_samples, on average (76 M rows of 6.9 M users)."""
    test_rows: int = 2
    coverage: float = 0.146
    """Share of the items that have a vector."""
    interest: float = 0.8
    """Share of a history that is of the user's topics."""
    clicked: float = 0.3
    """Share of the rows with a click."""
    seed: int = 0

    @classmethod
    def of(cls, users: int, **changes: Any) -> SynthSizes:
        """Sizes in the proportions of the release."""
        sizes = {"users": users, "items": max(1_000, round(users * ITEMS_A_USER)), **changes}
        return cls(**sizes)

    def check(self) -> None:
        """Raise ValueError for sizes of which nothing can be made."""
        for name in ("users", "items", "topics", "history", "train_rows", "test_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("coverage", "interest", "clicked"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in (0, 1]")
        if self.items < self.topics:
            raise ValueError(f"items is {self.items}; it must be at least topics, {self.topics}")


def write_taobao_mm(folder: Path, sizes: SynthSizes, *, progress: bool = True) -> Path:
    """Writes the six files into `folder`, which appears when all are whole.

    Memory is bounded by `BLOCK_EVENTS`, whatever the number of users. The same sizes give the same
    rows.

    Raises:
        ValueError: sizes of which nothing can be made, or a folder that holds something else.
        OSError: the folder cannot be written.
    """
    sizes.check()
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists already: remove it or name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(folder)
    temporary = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    temporary.mkdir()
    try:
        _write_items(temporary, sizes)
        block = max(1, BLOCK_EVENTS // (2 * sizes.history))
        starts = range(0, sizes.users, block)
        with _Files(temporary) as files:
            for first in tqdm(starts, desc=folder.name, unit="block", disable=not progress):
                number = np.arange(first, min(first + block, sizes.users))
                rng = np.random.default_rng([sizes.seed, 1, first])
                for name, table in _user_tables(number, sizes, rng):
                    files.write(name, table)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


class _Files:
    """Parquet files by name, each with a row group a table."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, pq.ParquetWriter] = {}

    def write(self, name: str, table: pa.Table) -> None:
        if name not in self._writers:
            path = self._folder / f"{name}.parquet"
            self._writers[name] = pq.ParquetWriter(path, table.schema)
        self._writers[name].write_table(table)

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.close()


def _write_items(folder: Path, sizes: SynthSizes) -> None:
    directions = np.random.default_rng([sizes.seed, 0]).standard_normal((sizes.topics, WIDTH))
    with _Files(folder) as files:
        for first in range(0, sizes.items, 200_000):
            number = np.arange(first, min(first + 200_000, sizes.items))
            ids, topic = hashed(number, sizes.seed), number % sizes.topics
            category = hashed(topic, sizes.seed + 1)
            extra = [hashed(number // 100, sizes.seed + 2), hashed(number // 1000, sizes.seed + 3)]
            files.write("item_features", pa.table([ids, category, *extra], schema=ITEMS))
            known = has_vector(number, sizes)
            rng = np.random.default_rng([sizes.seed, 2, first])
            noise = rng.standard_normal((int(known.sum()), WIDTH)) * 0.8
            vectors = directions[topic[known]] + noise
            vectors *= 123 / np.linalg.norm(vectors, axis=1, keepdims=True)  # 123 / 127 = .967
            whole = np.clip(np.rint(vectors), -128, 127).astype(np.int8)
            table = pa.table([pa.array(ids[known]), _lists(whole, pa.int8())], schema=VECTORS)
            files.write("scl_embedding_int8_p90", table)


def _user_tables(
    users: Ints, sizes: SynthSizes, rng: np.random.Generator
) -> Iterator[tuple[str, pa.Table]]:
    count = len(users)
    interests = _draw_topics(rng, (count, 4), sizes)
    weights = rng.dirichlet([1.0, 0.7, 0.5, 0.3], count).cumsum(1)
    extra = max(1, sizes.history // 20)  # newer events that the test histories have
    items = _histories(interests, weights, sizes.history + extra, sizes, rng)
    length = np.full(count, sizes.history)
    short = rng.random(count) < 0.1
    length[short] = rng.integers(1, sizes.history + 1, int(short.sum()))
    ids = hashed(users, sizes.seed + 4)
    profile = [hashed(rng.integers(0, 50, count), sizes.seed + 5 + k) for k in range(5)]
    rows = {"train": sizes.train_rows, "test": sizes.test_rows}
    for split, end in (("train", sizes.history), ("test", sizes.history + extra)):
        lists = [items[k, end - n : end] for k, n in enumerate(length.tolist())]
        flat = np.concatenate(lists)
        offsets = pa.array(np.concatenate(([0], length.cumsum())).astype(np.int32))
        history = pa.ListArray.from_arrays(offsets, hashed(flat, sizes.seed))
        categories = hashed(flat % sizes.topics, sizes.seed + 1)
        category = pa.ListArray.from_arrays(offsets, categories)
        columns = [ids, *profile, history, category]
        yield f"{split}_user_features", pa.table(columns, schema=USERS)

        user = np.repeat(np.arange(count), rng.poisson(rows[split], count))
        clicked = rng.random(len(user)) < sizes.clicked
        topic = _of_user(interests[user], weights[user], len(user), rng)
        anything = ~clicked | (rng.random(len(user)) > sizes.interest)
        topic[anything] = _draw_topics(rng, int(anything.sum()), sizes)
        target = _with_vectors(_draw_items(topic, sizes, rng), sizes)
        labels = np.stack([~clicked, clicked], axis=1).astype(np.int8)
        samples = [_lists(labels, pa.int8()), ids[user], hashed(target, sizes.seed)]
        yield f"{split}_samples", pa.table(samples, schema=SAMPLES)


def _histories(
    interests: Ints,
    weights: NDArray[np.float64],
    length: int,
    sizes: SynthSizes,
    rng: np.random.Generator,
) -> Ints:
    """int64 [users, length] items, oldest first."""
    count = len(interests)
    user = np.repeat(np.arange(count), length)
    topic = _of_user(interests[user], weights[user], len(user), rng).reshape(count, length)
    anything = rng.random((count, length)) > sizes.interest
    topic[anything] = _draw_topics(rng, int(anything.sum()), sizes)
    lately = rng.random((count, length)) < 0.5
    lately[:, : -max(1, length // 20)] = False
    topic = np.where(lately, interests[:, :1], topic)
    return _draw_items(topic.ravel(), sizes, rng).reshape(count, length)


def _of_user(
    interests: Ints, weights: NDArray[np.float64], count: int, rng: np.random.Generator
) -> Ints:
    """A topic of each row, by the weights of that row."""
    chosen = (rng.random((count, 1)) > weights[:, :-1]).sum(1)
    topics: Ints = np.take_along_axis(interests, chosen[:, None], 1)[:, 0]
    return topics


def _draw_topics(rng: np.random.Generator, shape: Any, sizes: SynthSizes) -> Ints:
    return _zipf(rng.random(shape), np.int64(sizes.topics))


def _draw_items(topic: Ints, sizes: SynthSizes, rng: np.random.Generator) -> Ints:
    """An item of each topic; item i is the (i // topics)-th most popular of topic i % topics."""
    in_topic = (sizes.items - topic + sizes.topics - 1) // sizes.topics
    items: Ints = _zipf(rng.random(len(topic)), in_topic) * sizes.topics + topic
    return items


def _zipf(uniform: NDArray[np.float64], count: Any) -> Ints:
    """Rank from 0 below `count` with a chance of about 1 / (1 + rank)."""
    ranks: Ints = np.minimum((np.power(count + 1.0, uniform) - 1).astype(np.int64), count - 1)
    return ranks


def _with_vectors(items: Ints, sizes: SynthSizes) -> Ints:
    """The same items, or the next of their topic that have a vector: targets are known items."""
    for _ in range(200):
        without = ~has_vector(items, sizes)
        if not without.any():
            break
        further = items + sizes.topics
        further = np.where(further < sizes.items, further, items % sizes.topics)
        items = np.where(without, further, items)
    return items


def has_vector(items: Ints, sizes: SynthSizes) -> NDArray[np.bool_]:
    """bool [T] whether each item, by number, has a vector."""
    part = hashed(items, sizes.seed + 20).view(np.uint64) >> np.uint64(11)
    known: NDArray[np.bool_] = part < np.uint64(sizes.coverage * 2**53)
    return known


def hashed(numbers: Ints, seed: int) -> Ints:
    """Signed 64-bit ids of numbers, each its own."""
    ids: Ints = tie_keys(numbers, seed).view(np.int64)
    return ids


def _lists(values: NDArray[Any], kind: pa.DataType) -> pa.ListArray:
    rows, width = values.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(values.ravel(), type=kind))
