"""Finished runs side by side: seeds of the same settings are averaged, other settings are rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from glass.config import RunConfig
from glass.configuration import flat
from glass.evaluation import RankMetrics, Targets, rank_metrics, read_predictions
from glass.evaluation.results import COUNTERPARTS
from glass.evaluation.seeds import (
    Comparison,
    Row,
    difference_over_seeds,
    summary_over_seeds,
)
from glass.pipeline.run import Run
from glass.systems import TRAINED
from glass.training.loop import FOR_MACHINES, FOR_PEOPLE

_NOT_SETTINGS = {"name", "output", "systems", "num_example_users", "data.folder", "train.seed"}
_NOT_SETTINGS |= {f"train.{name}" for name in (*FOR_PEOPLE, *FOR_MACHINES)} | {
    "eval.bootstrap",
    "eval.seed",
}


def default_metrics(ks: Sequence[int]) -> tuple[str, ...]:
    """Hit and NDCG at the two largest cut-offs up to 10, or at all of few."""
    chosen = [k for k in sorted(ks) if k <= 10][-2:] or sorted(ks)[:2]
    return tuple(f"{kind}@{k}" for kind in ("hit", "ndcg") for k in chosen)


def compare_runs(configs: Sequence[RunConfig], metrics: Sequence[str] = ()) -> Comparison:
    """Reads what the runs predicted and compares it.

    Runs that differ in `train.seed` alone are averaged. IntRR and GLASS are compared with their
    counterparts of the same settings and seeds, and a trained system under other settings with the
    same system in the first run's.

    Args:
        configs: settings of evaluated runs, at least one.
        metrics: names of `RankMetrics`; none: `default_metrics`.

    Raises:
        ValueError: a run that is not evaluated, other test targets, or a seed given twice.
    """
    runs = [Run(config, progress=False) for config in configs]
    for run in runs[1:]:
        if run.config.data == runs[0].config.data:
            run.__dict__["dataset"] = runs[0].dataset  # read once
    for run in runs:
        run.metrics()  # refuses what is stale
    targets = _same_targets(runs)
    names = tuple(metrics) or default_metrics(configs[0].eval.ks)
    settings, groups = _groups(runs)
    first, eval_config = next(iter(groups)), configs[0].eval
    given = (targets.user, eval_config.bootstrap or 1000, eval_config.seed)
    rows: list[Row] = []
    differences: list[Row] = []
    ranked: dict[tuple[str, ...], dict[str, dict[int, RankMetrics]]] = {}
    for group, members in groups.items():
        found = ranked[group] = _rank(members, targets)
        alike = members[0].config.eval.candidates == runs[0].config.eval.candidates
        if group != first and alike:  # what is not trained is then the same
            found = {s: v for s, v in found.items() if s in TRAINED or s not in ranked[first]}
        summary = summary_over_seeds({s: [*v.values()] for s, v in found.items()}, names, *given)
        rows += [Row(s, group, len(found[s]), estimates) for s, estimates in summary.items()]
        pairs = [(s, s, ranked[first]) for s in found if group != first and s in TRAINED]
        pairs += [(a, b, found) for a, b in COUNTERPARTS.items() if a in found]
        for a, b, others in pairs:
            seeds = sorted(found[a].keys() & others.get(b, {}).keys())
            if not seeds:
                continue
            left, right = ([side[seed] for seed in seeds] for side in (found[a], others[b]))
            estimates = {n: difference_over_seeds(left, right, n, *given) for n in names}
            title = f"{a} - {b}" if others is found else f"{a} - with {', '.join(first)}"
            differences.append(Row(title, group, len(seeds), estimates))
    users = len(np.unique(targets.user))
    return Comparison(len(targets), users, names, settings, tuple(rows), tuple(differences))


def _same_targets(runs: Sequence[Run]) -> Targets:
    first = runs[0].targets
    for run in runs[1:]:
        other = run.targets
        same = np.array_equal(first.user, other.user) and np.array_equal(first.item, other.item)
        if not same or run.dataset.num_items != runs[0].dataset.num_items:
            raise ValueError(
                f"{run.folder} and {runs[0].folder} have other test targets; compare runs of the "
                "same data"
            )
    return first


def _groups(runs: Sequence[Run]) -> tuple[tuple[str, ...], dict[tuple[str, ...], list[Run]]]:
    """Names of the settings that differ, and the runs by their values."""
    every = [
        {name: json.dumps(value) for name, value in flat(asdict(run.config)).items()}
        for run in runs
    ]
    differing = tuple(
        name
        for name in every[0]
        if name not in _NOT_SETTINGS and len({values[name] for values in every}) > 1
    )
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run, values in zip(runs, every, strict=True):
        groups.setdefault(tuple(values[name] for name in differing), []).append(run)
    return differing, groups


def _rank(runs: Sequence[Run], targets: Targets) -> dict[str, dict[int, RankMetrics]]:
    """System -> seed -> ranks; a system that is not trained has the first run's alone."""
    found: dict[str, dict[int, RankMetrics]] = {}
    for run in runs:
        for system in run.config.systems:
            of_system = found.setdefault(system, {})
            if of_system and system not in TRAINED:
                continue
            seed = run.config.train.seed
            if seed in of_system:
                raise ValueError(
                    f"{run.folder}: another run of the same settings has train.seed {seed} too; "
                    "give each seed once"
                )
            kept = read_predictions(run.folder / "predictions" / f"{system}.parquet")
            of_system[seed] = rank_metrics(
                kept.sids, targets, run.catalogue, run.config.eval.ks, items=kept.items
            )
    return found
