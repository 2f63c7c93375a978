"""Windows predict every training group once, from what came before it and nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from toy import random_dataset, toy_dataset

from glass.data.sequences import SequenceBatch, SequenceCollator, WindowCollator, Windows

DATASET = random_dataset(12, seed=3)


def predictions(batch: SequenceBatch) -> list[tuple[list[int], list[int]]]:
    """(what the state has read, its targets) of every state."""
    found = []
    for state, owner, targets in zip(batch.states, batch.owners, batch.targets, strict=True):
        read = batch.items[batch.offsets[owner] : state + 1]
        found.append((read.tolist(), targets[targets >= 0].tolist()))
    return found


@pytest.mark.parametrize("max_items", [1, 2, 5, 8, 100])
def test_windows_predict_every_training_group_once(max_items: int) -> None:
    samples = DATASET.samples("train")
    windows = Windows.of(DATASET, max_items)
    batch = WindowCollator(DATASET, windows)(np.arange(len(windows)))
    assert batch.longest == windows.lengths.max() <= max_items
    assert batch.lengths.tolist() == windows.lengths.tolist()
    found = predictions(batch)
    assert len(found) == len(samples)
    shortest = max_items - max(1, max_items // 2) + 1
    for row, (read, targets) in enumerate(found):
        start, end = samples.history_start[row], samples.history_end[row]
        history = DATASET.items[start:end].tolist()
        assert targets == DATASET.items[end : samples.target_end[row]].tolist()
        assert read == history[len(history) - len(read) :]
        assert len(read) >= min(len(history), shortest)
        if len(history) <= max_items:
            assert read == history


def test_windows_read_no_held_out_event() -> None:
    windows = Windows.of(DATASET, 4)
    batch = WindowCollator(DATASET, windows)(np.arange(len(windows)))
    held_out = DATASET.split != 0
    for start, stop in zip(windows.start, windows.stop, strict=True):
        assert not held_out[start:stop].any()
    kept = set(DATASET.items[~held_out].tolist())
    assert set(batch.targets.flatten().tolist()) - {-1} <= kept


def test_a_window_of_any_rows_is_the_same() -> None:
    windows = Windows.of(DATASET, 4)
    collate = WindowCollator(DATASET, windows)
    together = predictions(collate(np.array([3, 0, 5])))
    alone = [pair for row in (3, 0, 5) for pair in predictions(collate(np.array([row])))]
    assert together == alone


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_histories_are_the_newest_events_of_the_samples(split: str) -> None:
    samples = DATASET.samples(split)
    batch = SequenceCollator(DATASET, samples, max_items=5)(np.arange(len(samples)))
    assert batch.owners.tolist() == list(range(len(samples)))
    for row, (read, targets) in enumerate(predictions(batch)):
        start, end = samples.history_start[row], samples.history_end[row]
        assert read == DATASET.items[max(start, end - 5) : end].tolist()
        assert targets == DATASET.items[end : samples.target_end[row]].tolist()


def test_targets_of_large_groups_are_drawn() -> None:
    dataset = toy_dataset([[[1], [2, 3, 4, 5], [6], [7], [8]]])
    collate = WindowCollator(dataset, Windows.of(dataset, 10))
    seen = set()
    for seed in range(20):
        batch = collate(np.array([0]), max_targets=2, rng=np.random.default_rng(seed))
        assert batch.targets.shape == (2, 2)
        assert set(batch.targets[1].tolist()) == {-1, 6}
        seen.update(batch.targets[0].tolist())
    assert seen == {2, 3, 4, 5}


def test_times_are_seconds_or_zeros() -> None:
    windows = Windows.of(DATASET, 4)
    rows = np.array([2, 7])
    batch = WindowCollator(DATASET, windows)(rows)
    expected = [DATASET.times[windows.start[r] : windows.stop[r]] for r in rows]
    assert batch.times.tolist() == np.concatenate(expected).tolist()
    ordinal = dataclasses.replace(DATASET, manifest={"time_unit": "ordinal"})
    assert not WindowCollator(ordinal, windows)(rows).times.any()


def test_parts_and_empty_histories() -> None:
    items = torch.arange(10, 16)
    offsets = torch.tensor([0, 2, 2, 6])
    batch = SequenceBatch.of_histories(items, offsets, items + 100)
    assert batch.states.tolist() == [1, -1, 5]
    assert (len(batch), batch.longest) == (3, 4)
    part = batch.part(torch.tensor([2, 1]))
    assert part.items.tolist() == [12, 13, 14, 15]
    assert part.times.tolist() == [112, 113, 114, 115]
    assert part.states.tolist() == [3, -1]
    assert part.rows.tolist() == [2, 1]
    assert part.lengths.tolist() == [4, 0]
    assert part.longest == 4
    nobody = batch.part(torch.zeros(0, dtype=torch.int64))
    assert (len(nobody), nobody.longest, len(nobody.states)) == (0, 0, 0)


def test_a_window_needs_an_event() -> None:
    with pytest.raises(ValueError, match="max_items must be at least 1, was 0"):
        Windows.of(DATASET, 0)
