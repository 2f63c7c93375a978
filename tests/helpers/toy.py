"""Small data sets, SID tables, models and batches for the tests of models and training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import torch

from glass.config import ModelConfig
from glass.data import Dataset, Samples
from glass.data.batches import Batch, Collator
from glass.models import Glass
from glass.sid import SidTable

SIZES = (5, 4, 3)
NUM_ITEMS = 40
SMALL = ModelConfig(
    d_model=16,
    num_heads=2,
    head_dim=4,
    d_ff=24,
    num_encoder_layers=2,
    num_decoder_layers=2,
    dropout=0.1,
    short_length=4,
    search_max_items=5,
    num_neighbours=2,
    search_min_items=4,
)

Groups = Sequence[Sequence[int]]


def toy_dataset(users: Sequence[Groups], num_items: int = NUM_ITEMS, held_out: int = 1) -> Dataset:
    """Users as lists of groups of items; the newest groups are test, those before validation."""
    items, groups, split = [], [], []
    for user in users:
        for number, group in enumerate(user):
            left = len(user) - number
            label = 2 if left <= held_out else 1 if left <= 2 * held_out else 0
            items += list(group)
            groups += [number] * len(group)
            split += [label] * len(group)
    lengths = [sum(map(len, user)) for user in users]
    kept = np.array(items)[np.array(split) == 0]
    return Dataset(
        name="toy",
        items=np.array(items, dtype=np.int32),
        times=np.arange(len(items), dtype=np.int64),
        groups=np.array(groups, dtype=np.int32),
        split=np.array(split, dtype=np.int8),
        user_offsets=np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
        train_counts=np.bincount(kept, minlength=num_items).astype(np.int64),
        item_table=pl.DataFrame({"item_id": np.arange(num_items, dtype=np.int32)}),
        user_table=pl.DataFrame({"user_id": np.arange(len(users), dtype=np.int32)}),
        manifest={},
    )


def random_dataset(num_users: int = 12, seed: int = 0, **settings: Any) -> Dataset:
    """Users with 4 to 16 groups of 1 to 3 items."""
    rng = np.random.default_rng(seed)
    users = [
        [rng.integers(0, NUM_ITEMS, rng.integers(1, 4)).tolist() for _ in range(length)]
        for length in rng.integers(4, 17, num_users)
    ]
    return toy_dataset(users, **settings)


def toy_sids(
    num_items: int = NUM_ITEMS, sizes: tuple[int, ...] = SIZES, dim: int = 6, seed: int = 0
) -> SidTable:
    """Random codes, some shared; item (0, 0, ..) and the last code of every level occur."""
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, num_items) for size in sizes], axis=1)
    codes[0], codes[1] = 0, np.array(sizes) - 1
    vectors = rng.normal(size=(num_items, dim))
    return SidTable(codes.astype(np.int32), sizes, vectors.astype(np.float32))


def toy_model(
    config: ModelConfig = SMALL,
    seed: int = 0,
    sids: SidTable | None = None,
    dataset: Dataset | None = None,
) -> Glass:
    """A model of `toy_sids`; by default item 2 is bought twice and item 3 once in training."""
    torch.manual_seed(seed)
    dataset = dataset or toy_dataset([[[2], [2], [3], [4], [5]]])
    return Glass.from_data(config, sids or toy_sids(), dataset)


def toy_batch(
    histories: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    config: ModelConfig = SMALL,
    *,
    pad_left: bool | None = None,
) -> Batch:
    """One sample a history (every event its own group) with its target group."""
    users = [[*([item] for item in h), t] for h, t in zip(histories, targets, strict=True)]
    dataset = toy_dataset(users)
    start, stop = dataset.user_offsets[:-1], dataset.user_offsets[1:]
    end = start + [len(history) for history in histories]
    samples = Samples(np.arange(len(users), dtype=np.int32), start, end, stop)
    return collator(dataset, samples, config, pad_left)(np.arange(len(users)))


def collator(
    dataset: Dataset, samples: Samples, config: ModelConfig = SMALL, pad_left: bool | None = None
) -> Collator:
    """The collator that belongs to `config`."""
    return Collator(
        dataset,
        samples,
        short_length=config.short_length,
        long_history=config.long_history,
        pad_left=config.tier_token_last if pad_left is None else pad_left,
    )


def random_histories(count: int, lengths: tuple[int, int], seed: int = 0) -> list[list[int]]:
    """Histories of lengths[0] to lengths[1] - 1 random items."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, NUM_ITEMS, n).tolist() for n in rng.integers(*lengths, count)]
