"""Tables of a report as plain cells; the template only lays them out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from glass.report.text import (
    MISSING,
    as_number,
    clean,
    count,
    decimal,
    duration,
    interval,
    key_label,
    lookup,
    memory,
    metric_label,
    ordered_systems,
    pair_label,
    percent,
    plain,
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
) -> Table | None:
    """Row a system, column a number: (title, system -> value, lower is better)."""
    systems = ordered_systems(lookup(metrics, "systems") or {})
    values = [[value(s) for s in systems] for _, value, _ in columns]
    kept = [i for i, column in enumerate(values) if any(v is not None for v in column)]
    if not kept:
        return None
    texts = {i: [decimal(v) for v in values[i]] for i in kept}
    best = {i: _mark_best(texts[i], values[i], columns[i][2]) for i in kept}
    rows = []
    for row, system in enumerate(systems):
        if all(values[i][row] is None for i in kept):
            continue
        cells = [Cell(texts[i][row], note(system, i), best[i][row]) for i in kept]
        rows.append((Cell(system_label(system)), *cells))
    return Table(caption, ("System", *(columns[i][0] for i in kept)), tuple(rows))


def cutoff_metrics(metrics: Mapping[str, Any], item_level: bool) -> list[str]:
    """`hit@k` then `ndcg@k` names present, small k first; NDCG@1 equals Hit@1 and is left out."""
    names: set[str] = set()
    for values in (lookup(metrics, "systems") or {}).values():
        names |= {str(name) for name in lookup(values, "all") or {}}
    found = []
    for name in names:
        match = re.fullmatch(r"(item_)?(hit|ndcg)@(\d+)", name)
        if match and bool(match[1]) == item_level and (match[2], match[3]) != ("ndcg", "1"):
            found.append((match[2], int(match[3]), name))
    return [name for _, _, name in sorted(found)]


def metric_table(metrics: Mapping[str, Any], item_level: bool) -> Table | None:
    """All systems over all targets, with the bootstrap interval where there is one."""
    names = cutoff_metrics(metrics, item_level)

    def note(system: str, column: int) -> str:
        return interval(lookup(metrics, "systems", system, "ci", names[column]))

    level = "item" if item_level else "SID"
    return _by_system(
        f"All targets, {level} level",
        metrics,
        [
            (
                metric_label(n).removesuffix(" (item)"),
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


_GENERATION = {
    "invalid_rate": ("Invalid beams", True),
    "acc_1": ("acc 1", False),
    "acc_2": ("acc 2", False),
    "acc_3": ("acc 3", False),
    "P_1": ("P 1", False),
    "P_12": ("P 12", False),
    "P_123": ("P 123", False),
    "crp_2": ("CRP 2", True),
    "crp_3": ("CRP 3", True),
}


def generation_table(metrics: Mapping[str, Any]) -> Table | None:
    """Beam diagnostics of the systems that generate; unknown ones follow and are not ranked."""
    names: dict[str, None] = {}
    for values in (lookup(metrics, "systems") or {}).values():
        names |= dict.fromkeys(lookup(values, "generation") or {})
    order = [n for n in _GENERATION if n in names] + [n for n in names if n not in _GENERATION]
    columns = []
    for name in order:
        low = _GENERATION.get(name, ("", name.startswith(("crp_", "rank_"))))[1]
        label = _GENERATION.get(name, (key_label(name), False))[0]

        columns.append((label, _reader(metrics, "generation", name), low))
    return _by_system("Beam search diagnostics", metrics, columns)


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


def difference_table(found: Sequence[Comparison]) -> Table | None:
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
    return Table("Paired differences over users", head, tuple(rows)) if rows else None


def level_table(health: Mapping[str, Any]) -> Table | None:
    """Usage of each level of the semantic IDs."""
    rows = []
    levels = health.get("levels")
    for index, level in enumerate(levels if isinstance(levels, list | tuple) else ()):
        size, used = as_number(lookup(level, "size")), as_number(lookup(level, "used"))
        perplexity, dead = as_number(lookup(level, "perplexity")), lookup(level, "dead")
        share = percent(used / size) if size and used is not None else MISSING
        even = percent(perplexity / size) if size and perplexity is not None else MISSING
        texts = (count(size), count(used), share, count(dead), decimal(perplexity, 1), even)
        rows.append((Cell(f"sid_{index + 1}"), *map(Cell, texts)))
    head = ("Level", "Codes", "Used", "Used, %", "Dead", "Perplexity", "Perplexity ÷ codes")
    return Table("Codebooks", head, tuple(rows)) if rows else None


def training_table(logs: Mapping[str, Sequence[Mapping[str, Any]]], key: str) -> Table | None:
    """Best validation and last loss of each trained model."""
    rows = []
    for system in ordered_systems(logs):
        scored = [r for r in logs[system] if as_number(r.get(key)) is not None]
        losses = [v for r in logs[system] if (v := as_number(r.get("loss"))) is not None]
        top = max(scored, key=lambda r: float(r[key]), default={})
        last = logs[system][-1] if logs[system] else {}
        texts = (
            decimal(top.get(key)),
            plain(top.get("epoch")),
            plain(last.get("epoch")),
            plain(last.get("step")),
            decimal(losses[-1] if losses else None, 3),
        )
        rows.append((Cell(system_label(system)), *map(Cell, texts)))
    head = ("Model", "Best validation NDCG@20", "at epoch", "Last epoch", "Steps", "Last loss")
    return Table("Best and last", head, tuple(rows)) if rows else None


def step_table(steps: Sequence[tuple[str, float, float | None]]) -> Table | None:
    """Seconds, share of the whole and peak memory of each step."""
    total = sum(as_number(seconds) or 0.0 for _, seconds, _ in steps)
    peaks = [p for _, _, peak in steps if (p := as_number(peak)) is not None]
    rows = []
    for name, seconds, peak in steps:
        share = (as_number(seconds) or 0.0) / total if total else None
        texts = (duration(seconds), percent(share), memory(peak))
        rows.append((Cell(clean(name, 60)), *map(Cell, texts)))
    if rows:
        top = memory(max(peaks)) if peaks else MISSING
        rows.append(
            (Cell("Total"), *map(Cell, (duration(total), percent(1.0 if total else None), top)))
        )
    return Table("Steps", ("Step", "Time", "Share", "Peak memory"), tuple(rows)) if rows else None


def facts(
    source: Mapping[str, Any], skip: Sequence[str] = ()
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Groups (title, [(label, value)]) of a dictionary: scalars first, then each inner one."""
    single: list[tuple[str, str]] = []
    groups = [("Overview", single)]
    for key, value in source.items():
        if key in skip or value is None:
            continue
        if isinstance(value, Mapping):
            inner = [(key_label(k), _value(f"{key} {k}", v)) for k, v in value.items()]
            groups.append((key_label(key), inner or [("None", "")]))
        else:
            single.append((key_label(key), _value(str(key), value)))
    return [group for group in groups if group[1]]


def _value(key: str, value: object) -> str:
    """One value; the name of a share says that it is one."""
    if isinstance(value, Mapping):
        parts = list(value.items())[:12]
        return ", ".join(f"{key_label(k).lower()} {_value(key, v)}" for k, v in parts) or "none"
    if isinstance(value, list | tuple):
        more = f", … ({len(value)} in all)" if len(value) > 10 else ""
        return (", ".join(_value(key, v) for v in value[:10]) or "none") + more
    number = as_number(value)
    is_share = any(word in key.lower() for word in ("share", "rate"))
    return percent(number) if is_share and number is not None and 0 <= number <= 1 else plain(value)
