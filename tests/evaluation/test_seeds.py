"""Means over seeds, their interval and their spread."""

from __future__ import annotations

import numpy as np
import pytest

from glass.evaluation import RankMetrics, bootstrap_ci, paired_bootstrap
from glass.evaluation.seeds import difference_over_seeds, over_seeds, summary_over_seeds

USERS = np.array([0, 0, 1, 2, 2, 2, 3])


def _metrics(seed: int) -> RankMetrics:
    rank = np.random.default_rng(seed).integers(0, 6, len(USERS))
    return RankMetrics((1, 5), rank, rank, np.ones_like(rank))


def test_one_seed_is_the_plain_interval() -> None:
    values = _metrics(0).per_target("ndcg@5")
    found = over_seeds([values], USERS, 50, 3)
    assert (found.mean, found.low, found.high) == pytest.approx(bootstrap_ci(values, USERS, 50, 3))
    assert found.deviation is None
    assert found.per_seed == (found.mean,)


def test_several_seeds_are_averaged_per_target() -> None:
    values = [_metrics(seed).per_target("hit@5") for seed in range(3)]
    found = over_seeds(values, USERS, 50, 3)
    each = [float(part.mean()) for part in values]
    assert found.per_seed == pytest.approx(each)
    assert found.deviation == pytest.approx(np.std(each, ddof=1))
    assert (found.mean, found.low, found.high) == pytest.approx(
        bootstrap_ci(sum(values) / 3, USERS, 50, 3)
    )


def test_differences_are_paired() -> None:
    a, b = ([_metrics(seed) for seed in seeds] for seeds in ((0, 1), (2, 3)))
    found = difference_over_seeds(a, b, "hit@1", USERS, 40, 1)
    sides = [sum(m.per_target("hit@1") for m in side) / 2 for side in (a, b)]
    assert (found.mean, found.low, found.high) == pytest.approx(
        paired_bootstrap(*sides, USERS, 40, 1)
    )
    same = difference_over_seeds(a, a, "hit@1", USERS, 40, 1)
    assert (same.mean, same.low, same.high, same.deviation) == (0, 0, 0, 0)


def test_what_does_not_fit_is_refused() -> None:
    a = _metrics(0)
    with pytest.raises(ValueError, match="a has 1 seeds and b 2"):
        difference_over_seeds([a], [a, a], "hit@1", USERS)
    with pytest.raises(ValueError, match="one array a seed"):
        over_seeds([], USERS)
    with pytest.raises(ValueError, match="got lengths"):
        over_seeds([np.zeros(7), np.zeros(6)], USERS)


def test_summary_has_every_system_and_metric() -> None:
    found = summary_over_seeds({"a": [_metrics(0)], "b": [_metrics(1)] * 2}, ["hit@1"], USERS, 10)
    assert {system: list(metrics) for system, metrics in found.items()} == {
        "a": ["hit@1"],
        "b": ["hit@1"],
    }
    assert found["b"]["hit@1"].deviation == 0
