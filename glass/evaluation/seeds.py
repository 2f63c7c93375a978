"""Systems that were trained several times: means over seeds, their spread, and intervals.

Two things vary and are told apart: which users are asked (the interval, by resampling users) and
how a training came out (the deviation over seeds).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from glass.evaluation.arrays import AnyIntArray, FloatArray
from glass.evaluation.bootstrap import interval, resampled_means
from glass.evaluation.metrics import RankMetrics


@dataclass(frozen=True)
class Estimate:
    """One number over several seeds."""

    mean: float
    """Over seeds and targets."""
    low: float
    """Lower end of the 95 % interval of the mean over these seeds, users resampled."""
    high: float
    """Upper end."""
    deviation: float | None
    """Sample standard deviation over seeds; None with one."""
    per_seed: tuple[float, ...]
    """Mean over targets of each seed."""


@dataclass(frozen=True)
class Row:
    """One system under one choice of settings."""

    system: str
    settings: tuple[str, ...]
    """Values of `Comparison.settings`."""
    seeds: int
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True)
class Comparison:
    """Runs on the same test targets."""

    targets: int
    users: int
    metrics: tuple[str, ...]
    settings: tuple[str, ...]
    """Names of the settings that are not the same in all runs."""
    rows: tuple[Row, ...]
    differences: tuple[Row, ...]
    """Paired; `system` is "a - b"."""


def over_seeds(
    values: Sequence[FloatArray], users: AnyIntArray, resamples: int = 1000, seed: int = 0
) -> Estimate:
    """Mean over seeds of a metric.

    Args:
        values: a float array [N] a seed, all of the same targets.
        users: integer [N] user of each target.
        resamples, seed: as in `bootstrap_ci`.

    Raises:
        ValueError: no seed, arrays of different length, or as `bootstrap_ci`.
    """
    if not len(values) or len({len(part) for part in values}) > 1:
        raise ValueError(
            "values must be one array a seed, all of the same targets, "
            f"got lengths {[len(part) for part in values]}"
        )
    together = np.stack([np.asarray(part, np.float64) for part in values])
    draws = resampled_means(together.mean(0)[:, None], users, resamples, seed)
    low, high = interval(draws)[:, 0]
    each = together.mean(axis=1)
    return Estimate(
        mean=float(together.mean()),
        low=float(low),
        high=float(high),
        deviation=float(each.std(ddof=1)) if len(each) > 1 else None,
        per_seed=tuple(each.tolist()),
    )


def difference_over_seeds(
    a: Sequence[RankMetrics],
    b: Sequence[RankMetrics],
    name: str,
    users: AnyIntArray,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Mean over seeds of metric `name` of a less that of b, both of the same targets and seeds.

    Seed k of a is paired with seed k of b, which the deviation is taken over; the interval does
    not depend on that.

    Raises:
        ValueError: other numbers of seeds, or as `over_seeds`.
    """
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} seeds and b {len(b)}; compare runs of the same seeds")
    pairs = zip(a, b, strict=True)
    values = [left.per_target(name) - right.per_target(name) for left, right in pairs]
    return over_seeds(values, users, resamples, seed)


def summary_over_seeds(
    systems: Mapping[str, Sequence[RankMetrics]],
    names: Sequence[str],
    users: AnyIntArray,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
    """System -> metric -> its mean over the seeds of the system."""
    return {
        system: {
            name: over_seeds([run.per_target(name) for run in runs], users, resamples, seed)
            for name in names
        }
        for system, runs in systems.items()
    }
