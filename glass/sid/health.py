"""How well semantic IDs are spread, and what a hard search would find in real histories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glass.sid.neighbours import NeighbourAgreement, neighbour_agreement
from glass.sid.table import SidTable

if TYPE_CHECKING:
    from glass.data import Dataset

_QUERIES_AT_ONCE = 1 << 22  # bounds the memory of the (sample, code) look-ups


@dataclass(frozen=True)
class LevelHealth:
    """How the items spread over one level's codes."""

    counts: npt.NDArray[np.int64]
    """int64 [K] items of each code."""

    @property
    def size(self) -> int:
        """Codes of the level, K."""
        return len(self.counts)

    @property
    def used(self) -> int:
        """Codes with at least one item."""
        return int(np.count_nonzero(self.counts))

    @property
    def perplexity(self) -> float:
        """exp of the entropy of the code of a random item: K when all codes are equally used."""
        share = self.counts[self.counts > 0] / self.counts.sum()
        return float(np.exp(-(share * np.log(share)).sum()))

    def to_dict(self) -> dict[str, Any]:
        """Figures as plain numbers."""
        return {
            "size": self.size,
            "used": self.used,
            "dead": self.size - self.used,
            "perplexity": round(self.perplexity, 3),
            "largest": int(self.counts.max()),
        }


@dataclass(frozen=True)
class Collisions:
    """How many items share their SID."""

    num_sids: int
    """Distinct SIDs."""
    colliding_items: int
    """Items that share their SID with another."""
    largest_sid: int
    """Items of the most crowded SID."""

    @classmethod
    def of(cls, codes: npt.NDArray[np.int32]) -> Collisions:
        """Of the SIDs int32 [V, L]."""
        _, sizes = np.unique(codes, axis=0, return_counts=True)
        return cls(len(sizes), int(sizes[sizes > 1].sum()), int(sizes.max()))


@dataclass(frozen=True)
class SidHealth:
    """Spread of semantic IDs over a catalogue and over the histories of the test samples."""

    num_items: int
    num_sids: int
    """Distinct SIDs."""
    colliding_items: int
    """Items that share their SID with another."""
    largest_sid: int
    """Items of the most crowded SID."""
    levels: tuple[LevelHealth, ...]
    relative_error: tuple[float, ...] = ()
    """Squared reconstruction error after each level over the vectors' squared length."""
    vector_facts: Mapping[str, Any] = field(default_factory=dict)
    """Counts noted when the vectors were built, such as items without text."""
    agreement: NeighbourAgreement | None = None
    """How often near items' SIDs begin alike; None without vectors."""
    before_deduplication: Collisions | None = None
    """Collisions of the quantiser's own codes, where a last level numbers colliding items."""
    target_buckets: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """int64 [N] history events that share the first code with each test target."""
    bucket_histogram: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """int64: entry n counts the (test history, first code) pairs with n events; entry 0 is 0."""

    @property
    def collision_rate(self) -> float:
        """Share of items that share their SID with another item."""
        return self.colliding_items / self.num_items if self.num_items else 0.0

    @property
    def num_levels_quantized(self) -> int:
        """Levels without the de-duplication level."""
        return len(self.levels) - (self.before_deduplication is not None)

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain numbers, for JSON."""
        sizes = np.repeat(np.arange(len(self.bucket_histogram)), self.bucket_histogram)
        return {
            "num_items": self.num_items,
            "num_sids": self.num_sids,
            "colliding_items": self.colliding_items,
            "collision_rate": round(self.collision_rate, 6),
            "largest_sid": self.largest_sid,
            "levels": [level.to_dict() for level in self.levels],
            "relative_error": list(self.relative_error),
            "neighbour_agreement": self.agreement.to_dict() if self.agreement else {},
            "before_deduplication": (
                asdict(self.before_deduplication) if self.before_deduplication else {}
            ),
            "vectors": dict(self.vector_facts),
            "target_bucket": _summary(self.target_buckets),
            "non_empty_buckets": _summary(sizes),
        }

    def __str__(self) -> str:
        """A text table for the terminal."""
        lines = [
            f"{self.num_sids:,} distinct SIDs of {self.num_items:,} items; "
            f"{self.collision_rate:.1%} of the items share theirs, the largest SID has "
            f"{self.largest_sid:,}",
        ]
        if (before := self.before_deduplication) is not None:
            lines.append(
                f"before de-duplication: {before.num_sids:,} distinct SIDs; "
                f"{before.colliding_items / self.num_items:.1%} of the items share theirs, the "
                f"largest SID has {before.largest_sid:,}"
            )
        lines += ["", *self._level_lines()]
        lines += [
            "",
            f"{'history events in':<26} {'mean':>7} {'p10':>5} {'p50':>5} {'p90':>5} {'max':>6} "
            f"{'none':>6}",
        ]
        figures = self.to_dict()
        for title, key in (
            ("the target's sid_1 bucket", "target_bucket"),
            ("all non-empty buckets", "non_empty_buckets"),
        ):
            row = figures[key]
            if row["count"]:
                lines.append(
                    f"{title:<26} {row['mean']:>7.1f} {row['p10']:>5.0f} {row['p50']:>5.0f} "
                    f"{row['p90']:>5.0f} {row['max']:>6} {row['empty_share']:>6.1%}"
                )
        lines += [f"{key.replace('_', ' ')}: {value}" for key, value in self.vector_facts.items()]
        return "\n".join(lines)

    def _level_lines(self) -> list[str]:
        lines = [
            f"{'level':>5} {'codes':>6} {'used':>6} {'dead':>6} {'perplexity':>11} {'largest':>8} "
            f"{'error':>7} {'nearest':>8} {'chance':>7}",
        ]
        for i, level in enumerate(self.levels):
            row = level.to_dict()
            error = f"{self.relative_error[i]:.3f}" if i < len(self.relative_error) else "-"
            nearest = chance = "-"
            if self.agreement is not None and i < len(self.agreement.nearest):
                nearest = f"{self.agreement.nearest[i]:.1%}"
                chance = f"{self.agreement.chance[i]:.2%}"
            lines.append(
                f"{i + 1:>5} {row['size']:>6} {row['used']:>6} {row['dead']:>6} "
                f"{row['perplexity']:>11.1f} {row['largest']:>8} {error:>7} {nearest:>8} "
                f"{chance:>7}"
            )
        return lines


def describe(table: SidTable, dataset: Dataset) -> SidHealth:
    """Usage, collisions, reconstruction, neighbours and history buckets of semantic IDs.

    Buckets: for each target event of the test samples, the events of its history (the whole of it,
    strictly before the target) whose item shares the target's first code.

    Raises:
        ValueError: the table belongs to another catalogue.
    """
    if table.num_items != dataset.num_items:
        raise ValueError(
            f"the semantic IDs are of {table.num_items} items but data set {dataset.name!r} has "
            f"{dataset.num_items}; build them from this data set"
        )
    collisions = Collisions.of(table.codes)
    deduplicated = bool(table.manifest.get("config", {}).get("deduplicate"))
    own = table.codes[:, :-1] if deduplicated else table.codes
    levels = tuple(
        LevelHealth(np.bincount(table.codes[:, level], minlength=size))
        for level, size in enumerate(table.codebook_sizes)
    )
    targets, histogram = _buckets(table, dataset)
    return SidHealth(
        num_items=table.num_items,
        num_sids=collisions.num_sids,
        colliding_items=collisions.colliding_items,
        largest_sid=collisions.largest_sid,
        levels=levels,
        agreement=neighbour_agreement(table.vectors, own),
        before_deduplication=Collisions.of(own) if deduplicated else None,
        relative_error=tuple(table.manifest.get("fit", {}).get("relative_error", ())),
        vector_facts=table.manifest.get("vectors", {}),
        target_buckets=targets,
        bucket_histogram=histogram,
    )


def _buckets(
    table: SidTable, dataset: Dataset
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Bucket size of each test target, and the histogram of all non-empty buckets."""
    samples = dataset.samples("test")
    num_codes = table.codebook_sizes[0]
    code = table.codes[dataset.items, 0].astype(np.int64)
    num_events = len(code)
    # Sorted by (code, position): a bucket of a history is a range of these keys.
    keys = np.sort(code * num_events + np.arange(num_events))

    def count(
        codes: npt.NDArray[np.int64], start: npt.NDArray[np.int64], end: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        first = np.searchsorted(keys, codes * num_events + start)
        result: npt.NDArray[np.int64] = np.searchsorted(keys, codes * num_events + end) - first
        return result

    lengths = samples.target_end - samples.history_end
    sample = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(sample)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    target_code = code[samples.history_end[sample] + place]
    targets = count(target_code, samples.history_start[sample], samples.history_end[sample])

    histogram = np.zeros(0, np.int64)
    all_codes = np.arange(num_codes)
    step = max(1, _QUERIES_AT_ONCE // num_codes)
    for begin in range(0, len(lengths), step):
        start = samples.history_start[begin : begin + step, None]
        end = samples.history_end[begin : begin + step, None]
        sizes = np.bincount(count(all_codes[None, :], start, end).ravel(), minlength=len(histogram))
        sizes[: len(histogram)] += histogram
        histogram = sizes
    histogram[:1] = 0
    return targets, histogram


def _summary(sizes: npt.NDArray[np.int64]) -> dict[str, Any]:
    if len(sizes) == 0:
        return {"count": 0}
    p10, p50, p90 = np.percentile(sizes, [10, 50, 90], method="inverted_cdf")
    return {
        "count": len(sizes),
        "mean": round(float(sizes.mean()), 3),
        "p10": int(p10),
        "p50": int(p50),
        "p90": int(p90),
        "max": int(sizes.max()),
        "empty_share": round(float((sizes == 0).mean()), 6),
    }
