"""Bootstrap over users: hand-made cases, coverage, pairing."""

from __future__ import annotations

import numpy as np
import pytest

from glass.evaluation import arrays as evaluation_arrays
from glass.evaluation import bootstrap_ci, paired_bootstrap
from glass.evaluation.bootstrap import resampled_means


def clustered(rng, num_users, user_spread, noise):
    """Targets of users with means of their own; the population mean is 0."""
    users = np.repeat(np.arange(num_users), rng.integers(1, 9, size=num_users))
    return rng.normal(0, user_spread, num_users)[users] + rng.normal(0, noise, len(users)), users


def test_constant_metric_has_a_point_interval():
    users = np.array([0, 0, 1, 2])
    assert bootstrap_ci(np.full(4, 0.25), users, 50, 0) == (0.25, 0.25, 0.25)


def test_whole_users_are_drawn():
    # Two users with 3 and 1 targets: a draw is (a, a), (a, b) or (b, b), nothing in between.
    means = resampled_means(np.array([[1.0], [1.0], [1.0], [0.0]]), np.array([5, 5, 5, 9]), 500, 0)
    assert set(means[:, 0]) == {0.0, 0.75, 1.0}
    share = np.mean(means == 0.75)
    assert 0.4 < share < 0.6


def test_interval_covers_the_truth_at_its_level():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        values, users = clustered(rng, num_users=60, user_spread=1.0, noise=0.5)
        _, low, high = bootstrap_ci(values, users, 200, trial)
        covered += low <= 0 <= high
    # 0.95 +- 3 standard errors, and percentile intervals of 60 users are slightly short.
    assert 0.87 < covered / 200 <= 0.99


def test_users_not_targets_are_the_unit():
    rng = np.random.default_rng(1)
    values, users = clustered(rng, num_users=100, user_spread=1.0, noise=0.01)
    _, low, high = bootstrap_ci(values, users, 500, 0)
    _, naive_low, naive_high = bootstrap_ci(values, np.arange(len(values)), 500, 0)
    assert high - low > 1.5 * (naive_high - naive_low)


def test_pairing_removes_what_systems_share():
    rng = np.random.default_rng(2)
    shared, users = clustered(rng, num_users=80, user_spread=1.0, noise=0.1)
    better = shared + 0.05 + rng.normal(0, 0.02, len(shared))
    mean, low, high = paired_bootstrap(better, shared, users, 500, 0)
    assert mean == pytest.approx(0.05, abs=0.01)
    assert 0 < low < mean < high < 0.1
    _, own_low, own_high = bootstrap_ci(better, users, 500, 0)
    assert own_high - own_low > 5 * (high - low)


def test_seed_decides():
    values, users = clustered(np.random.default_rng(3), 40, 1.0, 1.0)
    assert bootstrap_ci(values, users, 100, 7) == bootstrap_ci(values, users, 100, 7)
    assert bootstrap_ci(values, users, 100, 7) != bootstrap_ci(values, users, 100, 8)


def test_columns_share_their_draws_and_chunks_change_nothing(monkeypatch):
    values, users = clustered(np.random.default_rng(4), 40, 1.0, 1.0)
    values = np.round(8 * values)  # sums of whole numbers are exact in whatever order
    both = np.stack([values, 2 * values + 1], axis=1)
    means = resampled_means(both, users, 90, 0)
    assert means[:, 1] == pytest.approx(2 * means[:, 0] + 1)
    monkeypatch.setattr(evaluation_arrays, "MAX_CELLS", 7 * 40)
    assert np.array_equal(resampled_means(both, users, 90, 0), means)


def test_refuses_bad_input():
    with pytest.raises(ValueError, match="no targets"):
        bootstrap_ci(np.zeros(0), np.zeros(0, int))
    with pytest.raises(ValueError, match="resamples=0"):
        bootstrap_ci(np.zeros(2), np.zeros(2, int), 0)
    with pytest.raises(ValueError, match="users"):
        bootstrap_ci(np.zeros(2), np.zeros(3, int))
    with pytest.raises(ValueError, match="finite"):
        bootstrap_ci(np.array([0.0, np.nan]), np.zeros(2, int))
    with pytest.raises(ValueError, match="a and b"):
        paired_bootstrap(np.zeros(2), np.zeros(3), np.zeros(2, int))
