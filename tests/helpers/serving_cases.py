"""Recommenders over the toy catalogue, and the batch that the same histories give."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from toy import NUM_ITEMS, SIZES, SMALL, collator, toy_dataset, toy_model, toy_sids

from glass.config import ModelConfig
from glass.data import Samples
from glass.data.batches import Batch
from glass.serving import Recommender
from glass.serving.items import ItemTable, ServingSettings
from glass_kernels import SidTrie

GLASS = dataclasses.replace(SMALL, dropout=0.0, long_history="all")
CONFIGS = {
    "older": dataclasses.replace(GLASS, long_history="older"),
    "all": GLASS,
    "tier first": dataclasses.replace(GLASS, tier_token_last=False, search_max_items=2),
    "copying": dataclasses.replace(GLASS, copy_head=True),
    "tiger": dataclasses.replace(GLASS, use_sid_tier=False, use_hard_search=False),
}
TRAIN_COUNTS = np.arange(NUM_ITEMS, dtype=np.int64) % 7

History = Sequence[tuple[int, int]]
"""(item, time) of each event."""


def raw(item: int) -> str:
    return f"i{item}"


def items_of(listed: Sequence[Any]) -> list[int]:
    return [int(item.raw_item_id[1:]) for item in listed]


def item_table(num_items: int = NUM_ITEMS, **settings: Any) -> ItemTable:
    numbers = range(num_items)
    return ItemTable(
        tuple(map(raw, numbers)),
        tuple(f"Thing {number}" for number in numbers),
        np.arange(num_items, dtype=np.int64) % 7,
        ServingSettings(**{"beam_width": 6, **settings}),
    )


def toy_recommender(
    config: ModelConfig = GLASS, *, settings: dict[str, Any] | None = None, **options: Any
) -> Recommender:
    trie = SidTrie.build(torch.from_numpy(toy_sids().codes), SIZES)
    model = toy_model(config).eval()
    return Recommender(model, trie, item_table(**(settings or {})), **options)


def full_batch(histories: Sequence[History], config: ModelConfig) -> Batch:
    """Of the whole histories, as a data set and the collator of training make it."""
    by_time = [[list(group) for _, group in groupby(history, lambda e: e[1])]
               for history in histories]  # fmt: skip
    dataset = toy_dataset([[[item for item, _ in group] for group in user] for user in by_time])
    times = [time for history in histories for _, time in history]
    dataset = dataclasses.replace(dataset, times=np.array(times, np.int64))
    start, end = dataset.user_offsets[:-1], dataset.user_offsets[1:]
    samples = Samples(np.arange(len(histories), dtype=np.int32), start, end, end)
    return collator(dataset, samples, config)(np.arange(len(histories)))
