"""The benchmarks of whole steps: what they fit, carry on and read from the preparation."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import cost_model, preparation
from benchmarks.output import Row, number

EVENTS = [1e5, 3e5, 9e5]


def rows() -> list[Row]:
    """Steps of a second and 10 us, 20 us, .. a unit; half of the preparation is reading."""
    found: list[Row] = []
    for size in EVENTS:
        for k, step in enumerate(cost_model.STEPS):
            units = size / 10**k
            seconds = 1 + (k + 1) * 1e-5 * units
            row: Row = {"users": size / 100, "step": step.title, "unit": step.unit}
            row |= {"units": units, "seconds": seconds, "read s": seconds / 2}
            row |= {"peak MB": 500 + 50e-6 * size, "disk MB": 2e-6 * units}
            found.append(row)
    return found


def test_a_line_is_found_again_and_is_never_negative() -> None:
    assert cost_model.line([1, 2, 4], [5, 7, 11]) == pytest.approx((3, 2))
    assert cost_model.line([1, 2, 4], [0.9, 2.1, 4.3])[0] == 0
    assert cost_model.line([1, 2, 4], [3, 2, 1])[1] == 0


def test_model_and_extrapolation() -> None:
    for k, row in enumerate(cost_model.model(rows(), EVENTS)):
        assert row["s / million units"] == pytest.approx((k + 1) * 10)
        assert row["s / million events"] == pytest.approx((k + 1) * 10 / 10**k)
        assert row["largest: predicted s"] == pytest.approx(row["measured s"])
    largest = {"users": 9_000.0, "events": 9e5, "items": 9e4, "samples": 9e3, "tests": 9e2}
    found = cost_model.extrapolate(rows(), EVENTS, largest)
    release = [row for row in found if row["EXTRAPOLATED"] == "release"]
    prepare, sids, train, _ = release
    events = 6.9e6 * 100
    hours = (1 + 1e-5 * events) / 3600
    assert prepare["h, 1 machine"] == pytest.approx(hours)
    assert prepare["h, 8"] == pytest.approx(hours / 2 + hours / 16)  # the reading is not shared
    assert prepare["GB of memory"] is None
    assert sids["h, 8"] == pytest.approx(sids["h, 1 machine"])
    assert number(train["h, 8"]) == pytest.approx(number(train["h, 1 machine"]) / 8)
    more = 50e-6 * (events - 9e5) + cost_model.VECTOR_BYTES / 1e6 * (35.5e6 - 9e4)
    assert number(sids["GB of memory"]) == pytest.approx((500 + 50e-6 * 9e5 + more) / 1e3)
    assert sids["GB of disk"] == pytest.approx(2e-6 * 35.5e6 / 1e3)


def test_preparation_tells_its_steps(tmp_path: Path) -> None:
    row = preparation.measure(20_000, tmp_path)
    assert row["users"] == 200
    steps = [number(row[f"{step} s"]) for step in ("read", "sort", "count", "items", "write")]
    assert number(row["seconds"]) > 0
    assert 0 <= sum(steps) <= number(row["seconds"]) + 0.3
    assert list(tmp_path.iterdir()) == []
