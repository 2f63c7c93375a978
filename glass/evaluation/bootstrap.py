"""Confidence intervals by resampling users.

The targets of one user are not independent, so whole users are drawn with replacement (cluster
bootstrap, percentile interval) rather than targets.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from glass.evaluation.arrays import AnyIntArray, FloatArray, row_chunks

LEVEL = 0.95
"""Coverage of every interval."""


def bootstrap_ci(
    per_target: FloatArray, users: AnyIntArray, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean over targets and its 95 % interval.

    Args:
        per_target: float [N] metric of each target.
        users: integer [N] user of each target.
        resamples: number of draws of as many users as there are.
        seed: the interval is a function of the arguments.

    Returns:
        (mean, low, high).

    Raises:
        ValueError: no targets, arrays of different length, NaN, or `resamples` below 1.
    """
    values = np.asarray(per_target, np.float64)
    low, high = interval(resampled_means(values[:, None], users, resamples, seed))[:, 0]
    return float(values.mean()), float(low), float(high)


def paired_bootstrap(
    a: FloatArray, b: FloatArray, users: AnyIntArray, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean difference a - b over the same targets and its 95 % interval.

    Args:
        a: float [N] metric of system a on each target; b: float [N] of system b.
        users, resamples, seed: as in `bootstrap_ci`.

    Returns:
        (mean difference, low, high).

    Raises:
        ValueError: as `bootstrap_ci`.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(
            f"a and b must be metrics of the same targets, got {np.shape(a)} and {np.shape(b)}"
        )
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return bootstrap_ci(difference, users, resamples, seed)


def interval(means: FloatArray) -> FloatArray:
    """Percentile interval of each column: float64 [R, M] -> float64 [2, M] (low, high)."""
    tail = (1 - LEVEL) / 2
    bounds: FloatArray = np.quantile(means, (tail, 1 - tail), axis=0)
    return bounds


def resampled_means(
    values: FloatArray, users: AnyIntArray, resamples: int, seed: int
) -> FloatArray:
    """Means of M metrics over the targets of resampled users.

    All columns see the same draws, so differences of columns are paired.

    Args:
        values: float64 [N, M]; users: integer [N].

    Returns:
        float64 [R, M].

    Raises:
        ValueError: as `bootstrap_ci`.
    """
    users = np.asarray(users)
    if values.ndim != 2 or users.shape != values.shape[:1]:
        raise ValueError(
            "users must name the user of each target, "
            f"got {list(users.shape)} for values {list(values.shape)}"
        )
    if not len(values):
        raise ValueError("there are no targets to resample; the split is empty")
    if resamples < 1:
        raise ValueError(f"resamples={resamples} must be at least 1 (eval.bootstrap)")
    if not np.isfinite(values).all():
        raise ValueError("per-target metrics must be finite")
    _, cluster = np.unique(users, return_inverse=True)
    counts = np.bincount(cluster).astype(np.float64)
    sums = np.stack([np.bincount(cluster, weights=column) for column in values.T], axis=1)
    means = [
        (weights @ sums) / (weights @ counts)[:, None]
        for weights in _draws(len(counts), resamples, np.random.default_rng(seed))
    ]
    return np.concatenate(means)


def _draws(num_users: int, resamples: int, rng: np.random.Generator) -> Iterator[FloatArray]:
    """Multinomial weights float64 [r, U] of equally likely users, r draws at a time."""
    for rows in row_chunks(resamples, num_users):
        count = rows.stop - rows.start
        drawn = rng.integers(num_users, size=(count, num_users))
        drawn += np.arange(count)[:, None] * num_users
        weights = np.bincount(drawn.ravel(), minlength=count * num_users)
        yield weights.reshape(count, num_users).astype(np.float64)
