"""Counts of items, of every partition of items from every partition of users."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from glass.data.assembly import counts
from glass.data.assembly.counts import CountPartition, ItemCounts
from glass.data.assembly.keys import PARTITION_BITS
from glass.data.assembly.parts import Parts
from glass.data.order import TEST, TRAIN

EDGES = [0, 1, (1 << 56) - 1, 1 << 56, (1 << 57) - 1, (255 << 56) - 1, 255 << 56, (1 << 64) - 1]


@pytest.mark.parametrize("at_a_time", [1, 1_000])
@pytest.mark.parametrize("in_files", [False, True])
def test_counts_are_those_of_all_events(
    in_files: bool, at_a_time: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "ROWS_ADDED_UP", at_a_time)
    rng = np.random.default_rng(0)
    folder = tmp_path / "counts" if in_files else None
    events = Parts(tmp_path / "events" if in_files else None)
    truth: dict[int, list[int]] = {}
    numbers = [3, 200] if in_files else [0]
    for number in numbers:
        keys = rng.choice(np.array(EDGES, dtype=np.uint64), 60)
        split = rng.choice([TRAIN, TEST], 60)
        events.put(number, pl.DataFrame({"item": keys, "split": split}))
        for key, label in zip(keys.tolist(), split.tolist(), strict=True):
            count = truth.setdefault(key, [0, 0])
            count[0] += 1
            count[1] += label == TRAIN
    count = CountPartition(events, lambda table: table["split"].to_numpy(), folder)
    done: dict[int, Any] = {number: count(number) for number in numbers}
    found = (
        ItemCounts(folder, done, np.empty(0, counts._RECORD))
        if in_files
        else ItemCounts(None, {}, done[0])
    )
    read: dict[int, list[int]] = {}
    for partition in range(1 << PARTITION_BITS) if in_files else [0]:
        for key, *own in found.read(partition).rows():
            assert key not in read
            assert not in_files or key >> (64 - PARTITION_BITS) == partition
            read[key] = own
    assert read == truth
    found.drop()
    assert not in_files or not list((tmp_path / "counts").iterdir())
