"""Batches against a plain reading of the histories, sample by sample."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glass.data import Samples
from glass.data.batches import (
    Batch,
    Collator,
    concatenated_ranges,
    epoch_batches,
    sequential_batches,
)


@dataclass(frozen=True)
class Events:
    """What a collator reads of a data set."""

    items: np.ndarray
    groups: np.ndarray
    times: np.ndarray
    manifest: dict[str, str] = field(default_factory=dict)


PAST = ("rows", "short_items", "long_items", "long_offsets", "long_visits", "long_days")
Users = list[list[list[int]]]
users_strategy = st.lists(
    st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=5), min_size=2, max_size=8),
    min_size=1,
    max_size=6,
)


def flatten(users: Users) -> tuple[Events, Samples, list[tuple[list[int], list[int]]]]:
    """Events, samples of every group but each user's first, and (history, targets) of each."""
    items, groups, rows, expected = [], [], [], []
    for number, user in enumerate(users):
        first = len(items)
        for place, group in enumerate(user):
            groups += [place] * len(group)
            if place:
                rows.append((number, first, len(items), len(items) + len(group)))
                expected.append((items[first:], group))
            items = items + group
    columns = np.array(rows).T
    samples = Samples(columns[0].astype(np.int32), *columns[1:].astype(np.int64))
    visits = np.array(groups, dtype=np.int32)
    days = 3 * visits.astype(np.int64)  # a visit every three days
    return Events(np.array(items, dtype=np.int32), visits, 86_400 * days), samples, expected


def unpadded(row: torch.Tensor) -> list[int]:
    return [item for item in row.tolist() if item >= 0]


@settings(max_examples=60, deadline=None)
@given(
    users_strategy,
    st.integers(1, 6),
    st.sampled_from(["older", "all"]),
    st.booleans(),
    st.none() | st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_batch_holds_exactly_the_samples(users, short_length, long_history, pad_left, most, rand):
    events, samples, expected = flatten(users)
    collate = Collator(
        events, samples, short_length=short_length, long_history=long_history, pad_left=pad_left
    )
    rows = np.array(rand.choices(range(len(expected)), k=rand.randint(1, 8)))
    batch = collate(rows, max_targets=most, rng=np.random.default_rng(rand.randint(0, 9)))

    assert len(batch) == len(rows)
    assert batch.rows.tolist() == rows.tolist()
    lengths = []
    for place, row in enumerate(rows):
        history, targets = expected[row]
        short = history[-short_length:]
        lengths.append(len(short))
        padding = [-1] * (batch.short_items.shape[1] - len(short))
        line = padding + short if pad_left else short + padding
        assert batch.short_items[place].tolist() == line
        start, stop = batch.long_offsets[place : place + 2].tolist()
        older = history[: len(history) - len(short)] if long_history == "older" else history
        assert batch.long_items[start:stop].tolist() == older
        found = unpadded(batch.targets[place])
        if most is None or len(targets) <= most:
            assert sorted(found) == sorted(targets)
        else:
            assert len(found) == most
            rest = list(targets)
            for item in found:
                rest.remove(item)  # fails for an item drawn more often than it is there
        # Padding comes after the targets.
        assert batch.targets[place].tolist()[: len(found)] == found
    assert batch.short_items.shape[1] == max(lengths)
    assert batch.padded == (min(lengths) < max(lengths))
    assert batch.long_offsets[0] == 0
    assert batch.long_offsets[-1] == len(batch.long_items)
    for tensor in (batch.rows, batch.short_items, batch.long_items, batch.targets):
        assert tensor.dtype == batch.long_offsets.dtype == torch.int64


def test_worked_example() -> None:
    events, samples, _ = flatten([[[1, 2], [3], [4, 5]], [[6], [7]]])
    collate = Collator(events, samples, short_length=2)
    batch = collate(np.array([1, 2]))
    assert batch.short_items.tolist() == [[2, 3], [-1, 6]]
    assert batch.long_items.tolist() == [1]
    assert batch.long_offsets.tolist() == [0, 1, 1]
    assert batch.targets.tolist() == [[4, 5], [7, -1]]
    assert batch.padded
    right = Collator(events, samples, short_length=2, long_history="all", pad_left=False)
    batch = right(np.array([1, 2]))
    assert batch.short_items.tolist() == [[2, 3], [6, -1]]
    assert batch.long_items.tolist() == [1, 2, 3, 6]


@settings(max_examples=40, deadline=None)
@given(users_strategy, st.integers(1, 5), st.booleans(), st.data())
def test_items_at_or_after_the_target_reach_nothing_but_the_targets(
    users: Users, short_length: int, pad_left: bool, data: st.DataObject
) -> None:
    events, samples, _ = flatten(users)
    row = data.draw(st.integers(0, len(samples.users) - 1))
    end = int(samples.history_end[row])
    user_stop = int(samples.target_end[samples.users == samples.users[row]].max())
    changed = events.items.copy()
    changed[end:user_stop] += 100
    for long_history in ("older", "all"):
        one, two = (
            Collator(
                replace(events, items=items),
                samples,
                short_length=short_length,
                long_history=long_history,
                pad_left=pad_left,
            )(np.array([row]))
            for items in (events.items, changed)
        )
        for name in PAST:
            assert torch.equal(getattr(one, name), getattr(two, name)), name
        assert one.padded == two.padded
        assert torch.equal(one.targets + 100, two.targets)


@pytest.mark.parametrize("long_history", ["older", "all"])
def test_visits_and_days_look_back_from_the_newest_event(long_history: str) -> None:
    events, samples, _ = flatten([[[1, 2], [3], [4, 5]], [[6], [7], [8]]])
    rows = np.array([1, 3])  # targets 4, 5 and 8
    batch = Collator(events, samples, short_length=1, long_history=long_history)(rows)
    newest = [] if long_history == "older" else [1]
    assert batch.long_visits.tolist() == [2, 2, *newest, 2, *newest]
    assert batch.long_days.tolist() == [3, 3, *[n - 1 for n in newest], 3, *[n - 1 for n in newest]]
    # The times at and after the target, and those of data without a clock, say nothing.
    later = np.where(np.arange(8) >= np.where(np.arange(8) < 5, 3, 7), 9_000_000, events.times)
    moved = Collator(replace(events, times=later), samples, short_length=1)(rows)
    same = Collator(events, samples, short_length=1)(rows)
    assert torch.equal(moved.long_days, same.long_days)
    ordinal = replace(events, manifest={"time_unit": "ordinal"})
    assert not Collator(ordinal, samples, short_length=1)(rows).long_days.any()
    assert batch.long_days.dtype == torch.float32


def test_other_users_reach_nothing() -> None:
    users = [[[1], [2], [3]], [[4], [5], [6]], [[7], [8], [9]]]
    other = [[[11], [12], [13]], [[4], [5], [6]], [[17], [18], [19]]]
    batches = []
    for each in (users, other):
        events, samples, _ = flatten(each)
        batches.append(Collator(events, samples, short_length=1)(np.array([2, 3])))
    for name in (*PAST[1:], "targets"):
        assert torch.equal(getattr(batches[0], name), getattr(batches[1], name))


def test_targets_are_a_uniform_draw_without_replacement() -> None:
    events, samples, _ = flatten([[[0], list(range(1, 7))]])
    collate = Collator(events, samples, short_length=1)
    rng = np.random.default_rng(0)
    drawn = [
        collate(np.array([0]), max_targets=2, rng=rng).targets[0].tolist() for _ in range(3000)
    ]
    counts = np.bincount(np.ravel(drawn), minlength=7)
    assert counts[0] == 0
    assert all(len(set(pair)) == 2 for pair in drawn)
    # Each of six items in a third of the draws; five standard deviations.
    assert np.abs(counts[1:] - 1000).max() < 5 * (3000 * (1 / 3) * (2 / 3)) ** 0.5


def test_draw_of_targets_is_a_function_of_the_generator() -> None:
    events, samples, _ = flatten([[[0], list(range(1, 30))]])
    collate = Collator(events, samples, short_length=1)
    one, two, three = (
        collate(np.array([0]), max_targets=5, rng=np.random.default_rng(seed)).targets
        for seed in (3, 3, 4)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_batch_on_a_device_keeps_everything() -> None:
    events, samples, _ = flatten([[[1], [2]]])
    batch = Collator(events, samples, short_length=1)(np.array([0]))
    moved = batch.to("meta")
    assert isinstance(moved, Batch)
    assert moved.long_items.device.type == moved.targets.device.type == "meta"
    assert moved.padded == batch.padded


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 5)), max_size=8))
def test_concatenated_ranges(ranges: list[tuple[int, int]]) -> None:
    starts = np.array([start for start, _ in ranges], dtype=np.int64)
    lengths = np.array([length for _, length in ranges], dtype=np.int64)
    expected = [i for start, length in ranges for i in range(start, start + length)]
    assert concatenated_ranges(starts, lengths).tolist() == expected


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=200),
    st.integers(1, 9),
    st.integers(0, 3),
    st.integers(1, 4),
)
def test_epoch_is_a_permutation_in_full_batches_sorted_by_length(
    lengths: list[int], batch_size: int, epoch: int, pool: int
) -> None:
    array = np.array(lengths)
    batches = epoch_batches(array, batch_size, seed=1, epoch=epoch, pool=pool)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    sizes = sorted(map(len, batches))
    rest = len(lengths) % batch_size
    assert sizes == ([rest] if rest else []) + [batch_size] * (len(lengths) // batch_size)
    for batch in batches:
        assert (np.diff(array[batch]) >= 0).all()
    again = epoch_batches(array, batch_size, seed=1, epoch=epoch, pool=pool)
    assert all(np.array_equal(one, two) for one, two in zip(batches, again, strict=True))


def test_epochs_and_seeds_differ_and_batches_have_like_lengths() -> None:
    lengths = np.random.default_rng(0).integers(1, 51, 4096)
    first = epoch_batches(lengths, 32, seed=0, epoch=0)
    for other in (
        epoch_batches(lengths, 32, seed=0, epoch=1),
        epoch_batches(lengths, 32, seed=1, epoch=0),
    ):
        assert not np.array_equal(np.concatenate(first), np.concatenate(other))
    spread = [int(np.ptp(lengths[batch])) for batch in first]
    assert max(spread) <= 3  # 64 batches a pool over 50 lengths
    order = [int(lengths[batch].mean()) for batch in first]
    assert order != sorted(order)


def test_sequential_batches_are_all_rows_in_order() -> None:
    batches = list(sequential_batches(7, 3))
    assert [batch.tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(sequential_batches(0, 3)) == []


@pytest.mark.parametrize("most", [1, 3])
def test_training_groups_keep_all_rows(most: int) -> None:
    """No sample loses its last target by the draw."""
    events, samples, expected = flatten([[[1], [2], [3, 4, 5, 6]], [[7], [8, 9]]])
    batch = Collator(events, samples, short_length=2)(
        np.arange(3), max_targets=most, rng=np.random.default_rng(0)
    )
    counts = (batch.targets >= 0).sum(1).tolist()
    assert counts == [min(most, len(targets)) for _, targets in expected]
