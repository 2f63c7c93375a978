"""Tables of a report as plain cells; the template only lays them out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from glass.report.text import (
    MISSING,
    as_number,
    decimal,
    interval,
    key_label,
    lookup,
    metric_label,
    ordered_systems,
    pair_label,
    signed,
    system_label,
)
from glass.report.verdict import Comparison, compare


@dataclass(frozen=True)
class Cell:
    """One cell; `note` is printed small below it."""

    text: str
    note: str = ""
    best: bool = False
    tone: Literal["", "good", "bad", "muted"] = ""


@dataclass(frozen=True)
class Table:
    """The first column is row headers; the others are numbers, set to the right."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def _mark_best(texts: Sequence[str], values: Sequence[float | None], low: bool) -> list[bool]:
    """True where a value is best, at printed precision: what looks equal is equally bold."""
    known = [v for v in values if v is not None]
    if len(known) < 2:
        return [False] * len(values)
    best = texts[values.index(min(known) if low else max(known))]
    if all(text == best for text, v in zip(texts, values, strict=True) if v is not None):
        return [False] * len(values)
    return [text == best and v is not None for text, v in zip(texts, values, strict=True)]


def _reader(metrics: Mapping[str, Any], subset: str, name: str) -> Callable[[str], float | None]:
    return lambda system: as_number(lookup(metrics, "systems", system, subset, name))


def _by_system(
    caption: str,
    metrics: Mapping[str, Any],
    columns: Sequence[tuple[str, Callable[[str], float | None], bool]],
    note: Callable[[str, int], str] = lambda system, column: "",
    digits: int = 4,
) -> Table | None:
    """Row a system, column a number: (title, system -> value, lower is better)."""
    systems = ordered_systems(lookup(metrics, "systems") or {})
    values = [[value(s) for s in systems] for _, value, _ in columns]
    kept = [i for i, column in enumerate(values) if any(v is not None for v in column)]
    if not kept:
        return None
    texts = {i: [decimal(v, digits) for v in values[i]] for i in kept}
    best = {i: _mark_best(texts[i], values[i], columns[i][2]) for i in kept}
    rows = []
    for row, system in enumerate(systems):
        if all(values[i][row] is None for i in kept):
            continue
        cells = [Cell(texts[i][row], note(system, i), best[i][row]) for i in kept]
        rows.append((Cell(system_label(system)), *cells))
    return Table(caption, ("System", *(columns[i][0] for i in kept)), tuple(rows))


Level = Literal["sid", "item", "split_item"]
LEVELS: dict[Level, str] = {
    "sid": "SID level",
    "item": "item level",
    "split_item": "item level, credit split",
}
"""How a list is judged, and the words for it."""


def cutoff_metrics(metrics: Mapping[str, Any], level: Level) -> list[str]:
    """`hit@k` then `ndcg@k` names present, small k first; NDCG@1 equals Hit@1 and is left out."""
    names: set[str] = set()
    for values in (lookup(metrics, "systems") or {}).values():
        names |= {str(name) for name in lookup(values, "all") or {}}
    found = []
    for name in names:
        match = re.fullmatch(r"(?:(item|split_item)_)?(hit|ndcg)@(\d+)", name)
        if match and (match[1] or "sid") == level and (match[2], match[3]) != ("ndcg", "1"):
            found.append((match[2], int(match[3]), name))
    return [name for _, _, name in sorted(found)]


def metric_table(metrics: Mapping[str, Any], level: Level) -> Table | None:
    """All systems over all targets, with the bootstrap interval where there is one."""
    names = cutoff_metrics(metrics, level)

    def note(system: str, column: int) -> str:
        return interval(lookup(metrics, "systems", system, "ci", names[column]))

    return _by_system(
        f"All targets, {LEVELS[level]}",
        metrics,
        [
            (
                metric_label(n).partition(" (")[0],
                _reader(metrics, "all", n),
                False,
            )
            for n in names
        ],
        note,
    )


def subset_table(metrics: Mapping[str, Any], names: Sequence[str]) -> Table | None:
    """`names` on repeat and first-time targets, side by side."""
    subsets = (("repeat", "repeat"), ("first_time", "first time"))
    columns = [
        (
            f"{metric_label(name)}, {told}",
            _reader(metrics, key, name),
            False,
        )
        for key, told in subsets
        for name in names
    ]
    return _by_system("Score by kind of target", metrics, columns)


# Pattern of a diagnostic, its column title, and whether lower is better; in the order of columns.
_DIAGNOSTICS = (
    (r"invalid_rate", "Invalid", True),
    (r"acc_(\d+)", "acc {}", False),
    (r"P_(\d+)", "P {}", False),
    (r"crp_(\d+)", "CRP {}", True),
    (r"kept_(\d+)", "Kept {}", False),
    (r"rank_(\d+)", "Rank {}", True),
)


def generation_table(metrics: Mapping[str, Any]) -> Table | None:
    """Beam diagnostics of the systems that generate; unknown ones come last."""
    names: dict[str, None] = {}
    for values in (lookup(metrics, "systems") or {}).values():
        names |= dict.fromkeys(str(name) for name in lookup(values, "generation") or {})
    found = []
    for name in names:
        for order, (pattern, title, low) in enumerate(_DIAGNOSTICS):
            if match := re.fullmatch(pattern, name):
                level = int(match[1]) if match.groups() else 0
                found.append((order, level, name, title.format(level), low))
                break
        else:
            found.append((len(_DIAGNOSTICS), 0, name, key_label(name), False))
    columns = [(t, _reader(metrics, "generation", n), low) for _, _, n, t, low in sorted(found)]
    return _by_system("Beam search diagnostics", metrics, columns, digits=3)


def comparisons(metrics: Mapping[str, Any]) -> list[Comparison]:
    """Every stored difference, in the order of `metrics["differences"]`."""
    found = []
    for pair, by_metric in (lookup(metrics, "differences") or {}).items():
        first, _, second = str(pair).partition(" - ")
        for metric in by_metric if isinstance(by_metric, Mapping) else ():
            comparison = compare(metrics, first, second, str(metric))
            if comparison is not None:
                found.append(comparison)
    return found


def difference_table(found: Sequence[Comparison], caption: str) -> Table | None:
    """Paired differences; the tone says whether the interval excludes 0."""
    tones: dict[str, Literal["good", "bad", "muted"]] = {"win": "good", "loss": "bad"}
    told = {"win": "better", "loss": "worse", "tie": "undecided", "unsure": "no interval"}
    rows = []
    for c in found:
        pair = Cell(pair_label(c.first, c.second), metric_label(c.metric))
        relative = MISSING if c.relative is None else signed(100 * c.relative, 1) + " %"
        tone = tones.get(c.outcome, "muted")
        rows.append(
            (
                pair,
                Cell(signed(c.mean)),
                Cell(told[c.outcome], tone=tone),
                Cell(c.interval),
                Cell(relative),
            )
        )
    head = ("Pair", "Difference", "Verdict", "95 % CI", "Relative")
    return Table(caption, head, tuple(rows)) if rows else None
