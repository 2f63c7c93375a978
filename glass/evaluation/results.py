"""`metrics.json`: every system on the same targets, with intervals and paired differences."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from glass.evaluation.arrays import FloatArray
from glass.evaluation.bootstrap import interval, resampled_means
from glass.evaluation.metrics import RankMetrics
from glass.evaluation.targets import Targets

FORMAT_VERSION = 2
"""2: item_* judges the item lists of every system; split credit has names of its own. Part of the
fingerprint of an evaluation, so results of another version are made anew."""
COUNTERPARTS = {
    "glass": "tiger",
    "glass_intrr": "glass",
    "intrr_transformer": "flattened_transformer",
    "intrr_hstu": "flattened_hstu",
}
"""System -> what it is to be compared with before all others: its model without the paper's idea.
"""
REFERENCES = ("glass", "tiger", "intrr_transformer", "intrr_hstu")
"""Differences are taken from the first of these systems that ran, to each other one."""
HISTORY_EDGES = (50, 100, 200, 500, 1000)
"""Default bounds of `by_history_length`; 50 is where the long history of GLASS begins."""


def build_metrics(
    systems: Mapping[str, RankMetrics],
    targets: Targets,
    *,
    num_samples: int,
    resamples: int = 1000,
    seed: int = 0,
    generation: Mapping[str, Mapping[str, float]] | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    difference_metrics: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The content of `metrics.json`.

    Args:
        systems: system name -> metrics of the N targets, in the order of the tables.
        targets: the N targets.
        num_samples: samples behind them.
        resamples: bootstrap draws of users behind each interval; 0: no intervals, and differences
            are left out.
        seed: seed of the bootstrap; all systems share its draws.
        generation: system name -> `generation_diagnostics` and, say, `acc_1`.
        pairs: (a, b) for the differences a - b; None: by `REFERENCES` and `COUNTERPARTS`.
        difference_metrics: metrics that are compared; None: all.

    Returns:
        {"format_version", "systems": {name: {"all", "repeat", "first_time", "ci", "generation"}},
        "differences": {"a - b": {metric: [mean, low, high]}}, "counts"}. Parts without targets are
        empty.

    Raises:
        ValueError: systems that do not fit the targets or each other, or an unknown name.
    """
    pairs = _default_pairs(systems) if pairs is None else pairs
    names = _checked(systems, targets, pairs, generation or {})
    compared = names if difference_metrics is None else tuple(difference_metrics)
    if unknown := set(compared) - set(names):
        raise ValueError(f"difference_metrics {sorted(unknown)} are not among {', '.join(names)}")
    result: dict[str, Any] = {
        name: {
            "all": metrics.summary(),
            "repeat": metrics.summary(targets.repeat),
            "first_time": metrics.summary(targets.first_time),
            "ci": {},
            "generation": dict((generation or {}).get(name, {})),
        }
        for name, metrics in systems.items()
    }
    differences: dict[str, Any] = {}
    if resamples and len(targets):
        means = _resampled(systems, targets, names, resamples, seed)
        for name, draws in means.items():
            result[name]["ci"] = dict(zip(names, interval(draws).T.tolist(), strict=True))
        for a, b in pairs:
            bounds = dict(zip(names, interval(means[a] - means[b]).T.tolist(), strict=True))
            differences[f"{a} - {b}"] = {
                name: [result[a]["all"][name] - result[b]["all"][name], *bounds[name]]
                for name in compared
            }
    return {
        "format_version": FORMAT_VERSION,
        "systems": result,
        "differences": differences,
        "counts": {
            "samples": int(num_samples),
            "targets": len(targets),
            "repeat": int(targets.repeat.sum()),
            "first_time": int(targets.first_time.sum()),
        },
    }


def by_history_length(
    systems: Mapping[str, RankMetrics],
    targets: Targets,
    metric: str = "ndcg@10",
    *,
    edges: Sequence[int] = HISTORY_EDGES,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """One metric by the number of events in the history.

    Args:
        systems, targets, resamples, seed: as in `build_metrics`.
        metric: a metric name.
        edges: increasing bounds; a history of exactly an edge falls into the bin above it.

    Returns:
        {"bins": labels, "count": targets, "metric", "systems": {name: means}, "ci": {name: [low,
        high] a bin}}; bins without targets are left out.

    Raises:
        ValueError: as `build_metrics`, or edges that do not increase.
    """
    _checked(systems, targets, (), {})
    if any(low >= high for low, high in pairwise((0, *edges))):
        raise ValueError(f"edges={list(edges)} must be increasing numbers above 0")
    bin_of_target = np.searchsorted(np.asarray(edges), targets.history_length, side="right")
    values = {name: metrics.per_target(metric) for name, metrics in systems.items()}
    table: dict[str, Any] = {
        "bins": [],
        "count": [],
        "metric": metric,
        "systems": {name: [] for name in systems},
        "ci": {name: [] for name in systems},
    }
    for number, label in enumerate(_labels(edges)):
        chosen = bin_of_target == number
        if not chosen.any():
            continue
        table["bins"].append(label)
        table["count"].append(int(chosen.sum()))
        for name, value in values.items():
            table["systems"][name].append(float(value[chosen].mean()))
            if resamples:
                draws = resampled_means(value[chosen, None], targets.user[chosen], resamples, seed)
                table["ci"][name].append(interval(draws)[:, 0].tolist())
    if not resamples:
        table["ci"] = {}
    return table


def write_json_atomic(path: Path | str, content: Any) -> None:
    """Writes JSON under a temporary name and renames it, so that a reader never sees half a file.

    Raises:
        ValueError: `content` is not JSON; NaN and infinity are not.
    """
    path = Path(path)
    try:
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot write {path}: content is not JSON ({error})") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _default_pairs(systems: Mapping[str, RankMetrics]) -> list[tuple[str, str]]:
    """The first reference against every other system; then every system and its counterpart."""
    reference = next((name for name in REFERENCES if name in systems), None)
    pairs = [(reference, name) for name in systems if name != reference] if reference else []
    pairs += [pair for pair in COUNTERPARTS.items() if {*pair} <= {*systems} and pair not in pairs]
    return pairs


def _checked(
    systems: Mapping[str, RankMetrics],
    targets: Targets,
    pairs: Sequence[tuple[str, str]],
    generation: Mapping[str, Any],
) -> tuple[str, ...]:
    """Metric names that all systems share."""
    if not systems:
        raise ValueError("systems is empty; evaluate at least one")
    names = next(iter(systems.values())).names
    for name, metrics in systems.items():
        if len(metrics) != len(targets) or metrics.names != names:
            raise ValueError(
                f"systems[{name!r}] has {len(metrics)} targets at cut-offs {metrics.ks}; "
                f"all systems need the same {len(targets)} targets and cut-offs"
            )
    named = {name for pair in pairs for name in pair} | set(generation)
    if unknown := named - set(systems):
        raise ValueError(
            f"pairs or generation name {sorted(unknown)}; the systems are {', '.join(systems)}"
        )
    return names


def _resampled(
    systems: Mapping[str, RankMetrics],
    targets: Targets,
    names: Sequence[str],
    resamples: int,
    seed: int,
) -> dict[str, FloatArray]:
    """System -> float64 [R, metrics], all from the same draws of users."""
    return {
        system: resampled_means(
            np.stack([metrics.per_target(name) for name in names], axis=1),
            targets.user,
            resamples,
            seed,
        )
        for system, metrics in systems.items()
    }


def _labels(edges: Sequence[int]) -> list[str]:
    if not edges:
        return ["all"]
    between = [f"{low}-{high - 1}" for low, high in pairwise(edges)]
    return [f"< {edges[0]}", *between, f">= {edges[-1]}"]
