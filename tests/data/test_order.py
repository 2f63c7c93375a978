from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glass.config import DataConfig
from glass.data.order import (
    assign_splits,
    event_order,
    group_numbers,
    renumber_groups,
    tie_keys,
)


def last_n(sizes: list[int], num_test: int, num_valid: int) -> list[int]:
    """Split of each group of one user whose groups have these sizes, oldest first."""
    times = np.repeat(np.arange(len(sizes)), sizes)
    users = np.zeros(len(times), dtype=np.int64)
    config = DataConfig(num_test_events=num_test, num_valid_events=num_valid)
    split = assign_splits(users, times, times, config)
    return [int(split[times == k][0]) for k in range(len(sizes))]


@pytest.mark.parametrize(
    ("sizes", "num_test", "num_valid", "expected"),
    [
        ([1, 1, 1, 1, 1], 2, 1, [0, 0, 1, 2, 2]),
        ([5, 2, 2, 2, 1], 2, 2, [0, 0, 1, 2, 2]),  # 2 + 1 reach 2 test events
        ([5, 5, 5], 1, 1, [0, 1, 2]),
        ([5, 5], 1, 1, [0, 2]),  # too few groups: train first, then test
        ([5], 1, 1, [0]),
        ([1, 1, 1], 10, 10, [0, 2, 2]),
        ([3, 3, 3], 0, 3, [0, 0, 1]),
        ([3, 3, 3], 3, 0, [0, 0, 2]),
        ([3, 3, 3], 0, 0, [0, 0, 0]),
    ],
)
def test_last_n_takes_whole_groups(
    sizes: list[int], num_test: int, num_valid: int, expected: list[int]
) -> None:
    assert last_n(sizes, num_test, num_valid) == expected


def test_last_n_counts_each_user_alone() -> None:
    users = np.array([0, 0, 0, 1, 1, 1, 1, 2])
    groups = np.array([0, 1, 2, 0, 1, 1, 2, 0])
    config = DataConfig(num_test_events=1, num_valid_events=1)
    split = assign_splits(users, groups, groups, config)
    assert split.tolist() == [0, 1, 2, 0, 1, 1, 2, 0]
    assert split.dtype == np.int8


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=8), min_size=1, max_size=4),
    st.integers(0, 8),
    st.integers(0, 8),
)
def test_last_n_against_counting_by_hand(
    users: list[list[int]], num_test: int, num_valid: int
) -> None:
    user, group, expected = [], [], []
    for u, sizes in enumerate(users):
        labels = [0] * len(sizes)
        position = len(sizes) - 1
        for label, wanted in ((2, num_test), (1, num_valid)):
            taken = 0
            while position > 0 and taken < wanted:
                labels[position] = label
                taken += sizes[position]
                position -= 1
        user += [u] * sum(sizes)
        group += np.repeat(np.arange(len(sizes)), sizes).tolist()
        expected += np.repeat(labels, sizes).tolist()
    config = DataConfig(num_test_events=num_test, num_valid_events=num_valid)
    split = assign_splits(np.array(user), np.array(group), np.array(group), config)
    assert split.tolist() == expected


def by_time(times: list[int], test_share: float, valid_share: float) -> list[int]:
    config = DataConfig(split="time", test_share=test_share, valid_share=valid_share)
    column = np.array(times)
    return assign_splits(column * 0, column, column, config).tolist()


def test_time_cuts_at_shares_of_all_events() -> None:
    assert by_time(list(range(10)), 0.2, 0.25) == [0] * 6 + [1] * 2 + [2] * 2
    assert by_time(list(range(10)), 0.0, 0.2) == [0] * 8 + [1] * 2
    assert by_time(list(range(10)), 0.2, 0.0) == [0] * 8 + [2] * 2
    # Events at the cut go to the newer side together.
    assert by_time([0, 1, 2, 2, 2, 3], 0.34, 0.5) == [0, 1, 2, 2, 2, 2]
    assert by_time([5, 5, 5], 0.5, 0.1) == [2, 2, 2]
    assert by_time([], 0.5, 0.1) == []


def test_groups_are_timestamps_or_events() -> None:
    users = np.array([0, 0, 0, 1, 1, 2])
    times = np.array([1, 1, 4, 4, 5, 5])
    assert group_numbers(users, times, "timestamp").tolist() == [0, 0, 1, 0, 1, 0]
    assert group_numbers(users, times, "event").tolist() == [0, 1, 2, 0, 1, 0]
    assert group_numbers(users[:0], times[:0], "timestamp").tolist() == []
    assert renumber_groups(np.array([0, 0, 0, 1, 1]), np.array([1, 1, 4, 0, 3])).tolist() == [
        0,
        0,
        1,
        0,
        1,
    ]


def test_shuffled_ties_depend_on_seed_and_row_alone() -> None:
    users = np.zeros(60, dtype=np.int64)
    times = np.repeat([3, 1], 30)
    rows = np.arange(100, 160)
    order = event_order(users, times, rows, DataConfig(seed=1))
    assert sorted(order[:30]) == list(range(30, 60))
    assert order[:30].tolist() != list(range(30, 60))
    assert (order == event_order(users, times, rows, DataConfig(seed=1))).all()
    assert (order != event_order(users, times, rows, DataConfig(seed=2))).any()
    # Events that come, go or stand elsewhere in memory move nobody.
    kept = np.arange(0, 60, 3)[::-1]
    again = kept[event_order(users[kept], times[kept], rows[kept], DataConfig(seed=1))]
    assert again.tolist() == [k for k in order if k in kept]


def test_stable_ties_keep_the_file_order() -> None:
    rows = np.array([4, 2, 9, 7])
    order = event_order(np.zeros(4, int), np.array([1, 1, 0, 1]), rows, DataConfig(ties="stable"))
    assert order.tolist() == [2, 1, 0, 3]


def test_tie_keys_shuffle_evenly() -> None:
    # Of two tied rows either comes first about equally often, whatever their distance.
    for distance in (1, 2, 64):
        rows = np.arange(20_000)
        first = tie_keys(rows, 0) < tie_keys(rows + distance, 0)
        assert abs(first.mean() - 0.5) < 0.02
    assert len(np.unique(tie_keys(np.arange(10_000), 5))) == 10_000
