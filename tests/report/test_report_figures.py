"""Figures hold the data they are given, and are legible in both colour schemes."""

from __future__ import annotations

import re

import numpy as np
import pytest

from glass.report import figures, figures_data
from glass.report.svg import COLORS, style_of
from glass.report.verdict import Comparison


def line_points(svg: str, gid: str) -> np.ndarray:
    """[n, 2] page coordinates of the line called `gid`."""
    path = re.search(rf'id="[a-z0-9-]*{gid}"> ?<path d="([^"]+)"', svg)
    assert path is not None
    numbers = re.findall(r"-?\d+(?:\.\d+)?", path.group(1))
    return np.array(numbers, dtype=float).reshape(-1, 2)


def bar_boxes(svg: str, variable: str) -> list[tuple[float, float]]:
    """(width, height) of every rectangle filled with a colour of the style sheet."""
    boxes = []
    for d in re.findall(
        rf'<path d="([^"]+)" clip-path="[^"]*" style="fill: var\(--{variable}\)', svg
    ):
        xy = np.array(re.findall(r"-?\d+(?:\.\d+)?", d), dtype=float).reshape(-1, 2)
        boxes.append(tuple(np.ptp(xy, axis=0)))
    return boxes


def test_history_line_is_an_affine_picture_of_the_values() -> None:
    values = [0.1, 0.3, 0.2, 0.4]
    svg = figures.by_history({"bins": list("abcd"), "systems": {"glass": values}})
    assert svg is not None
    x, y = line_points(svg, "data-0").T
    assert np.allclose(np.diff(x), np.diff(x)[0], atol=1e-3)
    # The page's y axis points down.
    scale = (y[1] - y[0]) / (values[1] - values[0])
    assert scale < 0
    assert np.allclose(y - y[0], scale * (np.array(values) - values[0]), atol=1e-3)


def test_tier_bars_have_the_heights_of_the_shares() -> None:
    svg = figures_data.tier_occupancy([0.1, 0.2, 0.7], [])
    assert svg is not None
    heights = [height for _, height in bar_boxes(svg, "s0")]
    assert np.allclose(np.array(heights) / sum(heights), [0.1, 0.2, 0.7], atol=1e-4)
    assert "70.0 %" in svg


def test_bucket_histogram_counts_by_doubling_sizes() -> None:
    svg = figures_data.bucket_sizes({"all": [0, 1, 1, 2, 3, 3, 4, 7]})
    assert svg is not None
    heights = np.array([height for _, height in bar_boxes(svg, "s0")][:4])
    # Bins 0, 1, 2-3, 4-7 hold 1, 2, 3, 2 of 8.
    assert np.allclose(heights / heights.sum(), np.array([1, 2, 3, 2]) / 8, atol=1e-4)
    assert "median 2" in svg


def test_bucket_histogram_of_empty_buckets_only() -> None:
    assert figures_data.bucket_sizes({"all": [0, 0]}) is not None


def test_long_log_is_thinned_to_means() -> None:
    rows = [{"step": i, "loss": float(i)} for i in range(10_000)]
    svg = figures.training({"glass": rows}, "loss", "Loss")
    assert svg is not None
    x, y = line_points(svg, "data-0").T
    # A straight line stays straight; matplotlib may drop collinear points.
    assert len(x) <= 240
    slope = (y[-1] - y[0]) / (x[-1] - x[0])
    assert np.allclose(y - y[0], slope * (x - x[0]), atol=1e-2)


def test_validation_rows_are_found_among_others() -> None:
    rows = [
        {"epoch": 1, "loss": 3.0},
        {"epoch": 2, "valid_ndcg@20": 0.1},
        {"epoch": 3, "loss": None},
    ]
    svg = figures.training({"tiger": rows}, "valid_ndcg@20", "NDCG")
    assert svg is not None
    assert len(line_points(svg, "data-0")) == 1
    assert "Epoch" in svg
    assert figures.training({"tiger": rows[:1]}, "valid_ndcg@20", "NDCG") is None


def test_forest_marks_wins_losses_and_ties() -> None:
    found = [
        Comparison("glass", "a", "ndcg@10", 0.02, 0.01, 0.03, None),
        Comparison("glass", "b", "ndcg@10", -0.02, -0.03, -0.01, None),
        Comparison("glass", "c", "ndcg@10", 0.0, -0.01, 0.01, None),
    ]
    svg = figures.forest(found, "ndcg@10")
    assert svg is not None
    for variable in ("good", "bad", "muted"):
        assert f"stroke: var(--{variable}); stroke-width: 2.2" in svg
    assert figures.forest(found, "hit@10") is None


def test_rank_progression_bars() -> None:
    svg = figures.rank_progression({"tiger": {"crp_2": 1.0}, "glass": {"crp_2": 0.5}, "x": {}})
    assert svg is not None
    (tiger,), (glass,) = (
        [h for w, h in bar_boxes(svg, color) if w > 20 and h > 20] for color in ("s1", "s0")
    )
    assert tiger / glass == pytest.approx(2.0, abs=1e-3)
    assert figures.rank_progression({"own_frequency": {}}) is None


def test_gate_leaves_out_what_had_no_retrieval() -> None:
    gates = {
        "glass": {"length": [0, 1, 2, 4], "mean_gate": [0.0, 0.5, 0.6, 0.7], "count": [9, 3, 2, 1]}
    }
    svg = figures.gate_by_length(gates)
    assert svg is not None
    assert len(line_points(svg, "data-0")) == 3
    (sentence,) = figures.gate_trends(gates)
    assert "rises" in sentence
    assert "0.50 at 1 and 0.70 at 4" in sentence


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([0.5, 0.4, 0.3], "falls"),
        ([0.5, 0.5, 0.5], "no clear trend"),
        ([0.5, 0.6, 0.5], "no clear"),
    ],
)
def test_gate_trend_is_told_as_it_is(values: list[float], word: str) -> None:
    gates = {"glass": {"length": [1, 2, 3], "mean_gate": values, "count": [5, 5, 5]}}
    assert word in figures.gate_trends(gates)[0]


def test_colours_are_variables_of_the_page() -> None:
    svg = figures.by_history({"bins": ["a"], "systems": {"glass": [0.1], "tiger": [0.2]}})
    assert svg is not None
    assert not any(color in svg for color in COLORS.values())
    # What is left of fixed colours is nothing that is drawn.
    assert not re.search(r"(fill|stroke): #", svg)
    assert "var(--s0)" in svg
    assert "var(--s1)" in svg


def test_systems_differ_by_more_than_colour() -> None:
    systems = ["glass", "tiger", "own_frequency", "item_knn", "popularity", "recent_frequency"]
    systems += ["dualgr", "hstu"]
    styles = [style_of(s, systems) for s in systems]
    assert len({s.color for s in styles}) == len(systems)
    assert len({s.marker for s in styles}) == len(systems)


@pytest.mark.parametrize("empty", [None, {}, {"bins": [], "systems": {}}])
def test_nothing_to_draw(empty: dict[str, list[float]] | None) -> None:
    assert figures.by_history(empty or {}) is None
    assert figures_data.bucket_sizes(empty) is None
    assert figures_data.tier_occupancy([], []) is None
    assert figures_data.code_usage([]) is None
    assert figures.gate_by_length({}) is None
    assert figures.training({}, "loss", "Loss") is None
