"""What a report is made of: plain data, so that a report can be rebuilt without models or torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ShownItem:
    """One item of an example user, as the report prints it."""

    title: str
    """Title shown to people; it comes from the source data and is never trusted."""
    sid: tuple[int, ...] = ()
    """Semantic ID; left empty it is not shown."""
    repeat: bool = False
    """The item is already in the user's history."""
    hit: bool = False
    """Recommended: it is among the targets. Target: at least one system found it."""


@dataclass(frozen=True)
class ShownBucket:
    """One sid_1 bucket of an example user's history."""

    code: int
    """First-level code."""
    count: int
    """Events of the history in this bucket."""
    titles: tuple[str, ...] = ()
    """A few example titles, newest first."""


@dataclass(frozen=True)
class ExampleUser:
    """A test user with the history before the target, its buckets and what each system offered."""

    user: str
    """Raw user id."""
    history_length: int
    """Events before the target."""
    history: Sequence[ShownItem] = ()
    """Newest events first."""
    buckets: Sequence[ShownBucket] = ()
    """Largest buckets first."""
    recommendations: Mapping[str, Sequence[ShownItem]] = field(default_factory=dict)
    """System -> recommended items, best first."""
    targets: Sequence[ShownItem] = ()
    """What the user really took next."""


@dataclass(frozen=True)
class ReportInput:
    """Everything a report shows. All fields but the first two may be missing.

    Values that are absent, None or NaN print as a dash and an empty section says "not available".

    Raises:
        ValueError: a field has the wrong type or the lists of a figure differ in length.
    """

    name: str
    """Name of the run."""
    folder: Path
    """Folder of the run; the report is written to `<folder>/report.html`."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """`metrics.json`: `systems`, `differences`, `counts`."""
    data_card: Mapping[str, Any] = field(default_factory=dict)
    """`glass.data.describe`: `name`, `users`, `items`, `events`, `splits`, `dropped`, `malformed`,
    `sources` [{file, sha256}]; add `licence`. Further entries are listed too."""
    sid_health: Mapping[str, Any] = field(default_factory=dict)
    """`sid_health_facts(glass.sid.describe(...))`: `levels` [{size, used, dead, perplexity,
    counts}], `bucket_sizes` {label: sizes}, `relative_error`; further numbers are listed too."""
    tier_occupancy: Sequence[float] = ()
    """Share of the training cosines in each tier, lowest tier first."""
    tier_edges: Sequence[float] = ()
    """Cosines that bound the tiers, one more than tiers; may stay empty."""
    training_logs: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """System -> log rows with `step`, `epoch`, `loss`, `valid_<metric>`; each may be absent."""
    validation_metric: str = "ndcg@20"
    """The metric that stopped the trainings."""
    gates: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    """System -> {`length`, `mean_gate`, `count`}: mean gate by number of retrieved items."""
    redistribution: Mapping[str, Any] = field(default_factory=dict)
    """System -> `describe_redistribution`; its `example` may have `titles` of the two items."""
    by_history: Mapping[str, Any] = field(default_factory=dict)
    """`bins` (labels), `count` (targets), `metric`, `systems` {system: values},
    `ci` {system: [[low, high], ...]}."""
    examples: Sequence[ExampleUser] = ()
    """Example users."""
    steps: Sequence[tuple[str, float, float | None]] = ()
    """(name, seconds, peak memory in MB) of each step, in order."""
    config_yaml: str = ""
    """The run's settings."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """`command`, `machine`, versions and so on."""
    created: str = ""
    """When the run ended, as text."""

    def __post_init__(self) -> None:
        """Refuse malformed input here: a report is the last step, and should fail with a name."""
        for name in _MAPPINGS:
            _require(isinstance(getattr(self, name), Mapping), name, getattr(self, name), "mapping")
        for name in ("systems", "differences", "counts"):
            part = self.metrics.get(name) or {}
            _require(isinstance(part, Mapping), f"metrics[{name!r}]", part, "mapping")
        for system, values in (self.metrics.get("systems") or {}).items():
            _require(isinstance(values, Mapping), f"metrics of {system!r}", values, "mapping")
        for system, rows in self.training_logs.items():
            good = not isinstance(rows, str | Mapping) and all(isinstance(r, Mapping) for r in rows)
            _require(good, f"training_logs[{system!r}]", rows, "list of mappings")
        for system, gate in self.gates.items():
            _same_lengths(f"gates[{system!r}]", gate, ("length", "mean_gate", "count"))
        self._check_bins()
        for level in self.sid_health.get("levels") or ():
            _require(isinstance(level, Mapping), "sid_health['levels']", level, "list of mappings")
        for user in self.examples:
            _require(isinstance(user, ExampleUser), "examples", user, "list of ExampleUser")
        for step in self.steps:
            good = not isinstance(step, str) and len(step) == 3
            _require(good, "steps", step, "list of (name, seconds, peak MB)")
        for share in self.tier_occupancy:
            good = isinstance(share, Real) and not isinstance(share, bool)
            _require(good, "tier_occupancy", share, "list of numbers")
        if len(self.tier_edges) not in (0, len(self.tier_occupancy) + 1):
            raise ValueError(
                f"tier_edges has {len(self.tier_edges)} values for {len(self.tier_occupancy)} "
                "tiers; pass one more edge than tiers, or none"
            )

    def _check_bins(self) -> None:
        bins = list(self.by_history.get("bins") or ())
        parts = {f"systems[{s!r}]": v for s, v in (self.by_history.get("systems") or {}).items()}
        parts |= {f"ci[{s!r}]": v for s, v in (self.by_history.get("ci") or {}).items()}
        if self.by_history.get("count") is not None:
            parts["count"] = self.by_history["count"]
        for name, values in parts.items():
            if len(values) != len(bins):
                raise ValueError(
                    f"by_history {name} has {len(values)} values for {len(bins)} bins;"
                    " pass one value a bin"
                )


_MAPPINGS = (
    "metrics",
    "data_card",
    "sid_health",
    "training_logs",
    "gates",
    "redistribution",
    "by_history",
    "environment",
)


def _require(good: bool, name: str, value: object, wanted: str) -> None:
    if not good:
        raise ValueError(f"{name} must be a {wanted}, got {type(value).__name__}: {value!r:.80}")


def _same_lengths(name: str, columns: Mapping[str, Sequence[float]], keys: Sequence[str]) -> None:
    _require(isinstance(columns, Mapping), name, columns, "mapping")
    lengths = {key: len(columns[key]) for key in keys if key in columns}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"{name} has columns of different lengths {lengths}; pass one row a length"
        )
