from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from glass.config import DataConfig
from glass.data import Dataset, describe, format_description, prepare, repeat_mask

EVENTS = [
    ("b", "x", 1),
    ("b", "y", 1),
    ("b", "x", 2),
    ("b", "z", 3),
    ("b", "z", 3),
    ("b", "y", 4),
    ("a", "x", 1),
    ("a", "x", 2),
    ("a", "q", 3),
    ("a", "z", 0),
    ("c", "x", 1),
]


@pytest.fixture
def dataset(table: Callable[..., DataConfig]) -> Dataset:
    return Dataset.load(prepare(table(EVENTS, ties="stable")))


def test_numbers_by_hand(dataset: Dataset) -> None:
    # a: z0 | x1 | x2 test q3 is not in the catalogue and was the only test group.
    d = describe(dataset)
    assert json.loads(json.dumps(d)) == d
    assert (d["users"], d["items"], d["events"], d["groups"]) == (2, 3, 9, 7)
    assert d["events_per_user"] == {"mean": 4.5, "p50": 4.5, "p90": pytest.approx(5.7), "max": 6.0}
    assert d["group_size"]["mean"] == pytest.approx(9 / 7)
    assert d["singleton_groups"] == pytest.approx(5 / 7)
    assert d["tie_share"] == pytest.approx(4 / 9)
    assert d["items_without_text"] == 3
    train, valid, test = (d["splits"][name] for name in ("train", "valid", "test"))
    assert (train["events"], train["samples"], train["targets"]) == (5, 2, 2)
    assert (valid["events"], valid["samples"], valid["targets"]) == (3, 2, 3)
    assert (test["events"], test["samples"], test["targets"]) == (1, 1, 1)
    assert train["repeat_share"] == 0.5  # b's x at 2, not a's x at 1
    assert valid["repeat_share"] == pytest.approx(1 / 3)  # a's x, not b's two z of one group
    assert test["repeat_share"] == 1.0  # b's y
    assert test["history_length"] == {"mean": 5.0, "p50": 5.0, "p90": 5.0, "max": 5.0}
    assert d["dropped"]["by_split"]["test"] == {"events": 1, "share": 0.5}


def test_repeats_are_of_earlier_groups(dataset: Dataset) -> None:
    assert repeat_mask(dataset).tolist() == [False, False, True] + [False] * 2 + [True] + [
        False,
        False,
        True,
    ]


def test_text_shows_what_matters(dataset: Dataset) -> None:
    text = format_description(describe(dataset))
    assert "set: 2 users, 3 items, 9 events, 7 groups" in text
    assert "1970-01-01 00:00 .. 1970-01-01 00:00" in text
    assert "dropped users with one event: 1 users, 1 events" in text
    assert "dropped test events: 1 (50.00%)" in text
    assert "malformed interactions: 0 of 11 rows" in text


def test_ordinal_times_and_empty_splits(table: Callable[..., DataConfig]) -> None:
    config = table(EVENTS, time_column=None, num_test_events=0, num_valid_events=0)
    dataset = Dataset.load(prepare(config))
    d = describe(dataset)
    assert d["time_unit"] == "ordinal"
    assert d["tie_share"] == 0.0
    assert d["splits"]["test"]["repeat_share"] == 0.0
    assert "2 .. 11" in format_description(d)
