"""Where items moved, against a literal reading on a few items."""

from __future__ import annotations

import json

import numpy as np
import pytest

from glass.evaluation import describe_redistribution

CODES = np.array([[0, 0], [0, 0], [0, 1], [1, 0], [1, 0], [2, 1]], np.int32)
COUNTS = np.array([5, 3, 1, 2, 0, 4])
FIRST = np.array(
    [
        [0.8, 0.1, 0.1],
        [0.2, 0.7, 0.1],  # moved
        [0.6, 0.3, 0.1],
        [0.1, 0.8, 0.1],
        [1.0, 0.0, 0.0],  # moved, but never seen in training
        [0.3, 0.3, 0.4],
    ],
    np.float32,
)
SECOND = np.array(
    [[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.0, 1.0], [0.5, 0.5]], np.float32
)


def assignments(items: np.ndarray) -> list[np.ndarray]:
    return [FIRST[items], SECOND[items]]


def test_shares_by_item_and_by_event() -> None:
    found = describe_redistribution(CODES, assignments, COUNTS)
    assert found["items"] == 5
    assert found["moved"] == pytest.approx([1 / 5, 2 / 5])  # items 1; 3 and 5 (a tie: code 0)
    assert found["moved_any"] == pytest.approx(3 / 5)
    assert found["moved_events"] == pytest.approx([3 / 15, (2 + 4) / 15])
    assert found["own_code"] == pytest.approx(
        [(0.8 + 0.2 + 0.6 + 0.8 + 0.4) / 5, (0.9 + 0.9 + 0.8 + 0.4 + 0.5) / 5]
    )
    json.dumps(found, allow_nan=False)


def test_pairs_of_equal_sids_and_the_one_that_is_shown() -> None:
    found = describe_redistribution(CODES, assignments, COUNTS)
    assert found["pairs"]["levels"] == 2
    assert found["pairs"]["count"] == 1  # 3 and 4 share a SID, but 4 was never seen
    assert found["pairs"]["distance"] == pytest.approx([0.6, 0.0], abs=1e-6)
    example = found["example"]
    assert example["items"] == [0, 1]
    assert example["codes"] == [[0, 0], [0, 0]]
    assert example["assigned"] == [[0, 0], [1, 0]]
    assert example["levels"][0]["codes"] == [0, 1, 2]
    assert example["levels"][0]["shares"][1] == pytest.approx([0.2, 0.7, 0.1])


def test_distinct_sids_agree_on_all_levels_but_the_last() -> None:
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]], np.int32)
    found = describe_redistribution(codes, assignments, COUNTS + 1)
    assert found["pairs"]["levels"] == 1
    assert found["pairs"]["count"] == 3  # 0-1, 2-3, 4-5
    assert len(found["pairs"]["distance"]) == len(found["pairs"]["random"]) == 1


def test_nothing_in_common() -> None:
    codes = np.arange(6, dtype=np.int32)[:, None] % 3  # one level, and no equal SIDs among these
    found = describe_redistribution(
        codes, lambda items: [FIRST[items]], np.array([1, 1, 1, 0, 0, 0])
    )
    assert "pairs" not in found
    assert "example" not in found


def test_large_catalogues_are_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = describe_redistribution(CODES, assignments, COUNTS)
    monkeypatch.setattr("glass.evaluation.redistribution._BLOCK", 2)
    assert describe_redistribution(CODES, assignments, COUNTS) == whole
