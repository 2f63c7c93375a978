"""The sentences of the headline, computed from the metrics and worded alike for good and bad."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from glass.evaluation.results import COUNTERPARTS, REFERENCES
from glass.report.text import (
    BASELINES,
    as_number,
    decimal,
    lookup,
    metric_label,
    ordered_systems,
    percent,
    signed,
    system_label,
)

Outcome = Literal["win", "loss", "tie", "unsure"]


@dataclass(frozen=True)
class Comparison:
    """First system minus second on one metric; the bounds are None without a bootstrap."""

    first: str
    second: str
    metric: str
    mean: float
    low: float | None
    high: float | None
    relative: float | None

    @property
    def outcome(self) -> Outcome:
        """win or loss when the interval excludes 0, tie when it does not, unsure without one."""
        if self.low is None or self.high is None:
            return "unsure"
        return "win" if self.low > 0 else "loss" if self.high < 0 else "tie"

    @property
    def interval(self) -> str:
        """The interval as text."""
        if self.low is None or self.high is None:
            return "no interval"
        return f"{signed(self.low)} to {signed(self.high)}"

    def sentence(self, also: bool = False, role: str = "") -> str:
        """One sentence; a tie says so as plainly as a win. `role` says what the second one is."""
        first, second = system_label(self.first), system_label(self.second)
        second = f"{second} ({role})" if role else second
        verb_prefix = "also " if also else ""
        metric = metric_label(self.metric)
        relative = "" if self.relative is None else f", {_signed_percent(self.relative)}"
        inside = f"(95 % CI {self.interval}{relative})"
        if self.outcome == "win":
            return f"{first} {verb_prefix}beats {second} by {signed(self.mean)} {metric} {inside}."
        if self.outcome == "loss":
            gap = decimal(-self.mean)
            return f"{first} {verb_prefix}loses to {second} by {gap} {metric} {inside}."
        if self.outcome == "tie":
            return (
                f"{first} and {second} cannot be told apart on {metric}: difference "
                f"{signed(self.mean)} {inside}; the interval includes 0."
            )
        side = "above" if self.mean > 0 else "below" if self.mean < 0 else "from"
        return (
            f"{first} scores {decimal(abs(self.mean))} {metric} {side} {second}; no confidence "
            "interval was computed, so this may be chance."
        )


@dataclass(frozen=True)
class Verdict:
    """Headline of a run."""

    headline: str
    details: tuple[str, ...]
    tone: Literal["good", "bad", "mixed"]


def _signed_percent(share: float) -> str:
    return ("+" if share >= 0 else "") + percent(share)


def score(metrics: Mapping[str, Any], system: str, metric: str) -> float | None:
    """A system's metric over all targets."""
    return as_number(lookup(metrics, "systems", system, "all", metric))


def compare(metrics: Mapping[str, Any], first: str, second: str, metric: str) -> Comparison | None:
    """The stored paired difference, its mirror image, or the plain difference of the two scores."""
    reference = score(metrics, second, metric)
    for key, sign in ((f"{first} - {second}", 1.0), (f"{second} - {first}", -1.0)):
        stored = lookup(metrics, "differences", key, metric)
        if not isinstance(stored, list | tuple) or len(stored) != 3:
            continue
        mean, *bounds = (as_number(value) for value in stored)
        if mean is None:
            continue
        low, high = (
            sorted(sign * b for b in bounds if b is not None)
            if None not in bounds
            else (
                None,
                None,
            )
        )
        relative = sign * mean / reference if reference else None
        return Comparison(first, second, metric, sign * mean, low, high, relative)
    own = score(metrics, first, metric)
    if own is None or reference is None:
        return None
    mean = own - reference
    return Comparison(
        first, second, metric, mean, None, None, mean / reference if reference else None
    )


def primary_metric(metrics: Mapping[str, Any]) -> str | None:
    """NDCG@10, or the first metric that any system has."""
    systems = lookup(metrics, "systems") or {}
    names: list[str] = []
    for values in systems.values():
        names += [
            name for name, v in (lookup(values, "all") or {}).items() if as_number(v) is not None
        ]
    return "ndcg@10" if "ndcg@10" in names else names[0] if names else None


def strongest(metrics: Mapping[str, Any], systems: list[str], metric: str) -> str | None:
    """The system with the highest score, None where none has one."""
    scored = [(value, s) for s in systems if (value := score(metrics, s, metric)) is not None]
    return max(scored)[1] if scored else None


def main_system(metrics: Mapping[str, Any], metric: str) -> str | None:
    """Whom the run is about: the first of `REFERENCES` with a counterpart, else the strongest."""
    systems = ordered_systems(lookup(metrics, "systems") or {})
    known = (s for s in REFERENCES if s in COUNTERPARTS and score(metrics, s, metric) is not None)
    return next(known, None) or strongest(metrics, systems, metric)


def rivals(metrics: Mapping[str, Any], main: str, metric: str) -> list[str]:
    """Its counterpart, then the strongest baseline without training: what `main` has to beat."""
    systems = ordered_systems(lookup(metrics, "systems") or {})
    found = [s for s in (COUNTERPARTS.get(main, "tiger"),) if s in systems and s != main]
    best = strongest(metrics, [s for s in systems if s in BASELINES and s != main], metric)
    return found + ([best] if best else [])


def _comparisons(
    metrics: Mapping[str, Any], main: str, metric: str
) -> list[tuple[Comparison, str]]:
    """Main system against its rivals, other systems against their counterparts; and roles."""
    pairs = [
        (main, rival, "the strongest baseline" if rival in BASELINES else "")
        for rival in rivals(metrics, main, metric)
    ]
    systems = lookup(metrics, "systems") or {}
    pairs += [
        (one, other, "")
        for one, other in COUNTERPARTS.items()
        if one != main and {one, other} <= {*systems}
    ]
    found = [(compare(metrics, one, other, metric), role) for one, other, role in pairs]
    return [(comparison, role) for comparison, role in found if comparison is not None]


def verdict(metrics: Mapping[str, Any]) -> Verdict:
    """What the run shows, in two or three sentences."""
    metric = primary_metric(metrics)
    if metric is None:
        return Verdict("No metrics are available for this run.", (), "mixed")
    main = main_system(metrics, metric)
    assert main is not None, "primary_metric names a metric that some system has"
    found = _comparisons(metrics, main, metric)
    if not found:
        reached = f"{metric_label(metric)} {decimal(score(metrics, main, metric))}"
        only = f"{system_label(main)} reaches {reached}"
        return Verdict(f"{only}; there is no other system to compare with.", (), "mixed")
    outcomes = {comparison.outcome for comparison, _ in found}
    tone: Literal["good", "bad", "mixed"] = (
        "good" if outcomes == {"win"} else "bad" if outcomes == {"loss"} else "mixed"
    )
    also = len(outcomes) == 1
    details = [comparison.sentence(also, role) for comparison, role in found[1:]]
    if outcomes != {"unsure"}:
        details.append(
            "Intervals come from resampling test users; they do not cover the choice of seed."
        )
    return Verdict(found[0][0].sentence(), tuple(details), tone)
