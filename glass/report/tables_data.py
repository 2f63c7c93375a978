"""Tables and lists of facts about the data, the semantic IDs, the training and the cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from glass.report.tables import Cell, Table
from glass.report.text import (
    MISSING,
    as_number,
    clean,
    count,
    decimal,
    duration,
    floats,
    key_label,
    lookup,
    memory,
    ordered_systems,
    percent,
    plain,
    system_label,
)


def data_facts(card: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Facts of the data card beside its name, sources, licence and table of splits."""
    shown = dict(card)
    if isinstance(malformed := card.get("malformed"), Mapping):
        shown["malformed"] = {role: _malformed(report) for role, report in malformed.items()}
    first, last = shown.pop("first_time", None), shown.pop("last_time", None)
    if shown.pop("time_unit", "seconds") == "seconds" and first is not None and last is not None:
        shown["period"] = f"{_date(first)} to {_date(last)}"
    return facts(shown, ("sources", "name", "licence", "splits"))


def _malformed(report: object) -> object:
    """Rows that could not be read, out of how many, why, and the first of them."""
    if not isinstance(report, Mapping) or "count" not in report:
        return report
    parts = [f"{count(report['count'])} of {count(report.get('rows'))} rows"]
    parts += [f"{clean(why)} {count(n)}" for why, n in (report.get("reasons") or {}).items()]
    first = report.get("first") or ()
    places = (
        f"{clean(p.get('file'))}:{clean(p.get('row'))} {clean(p.get('reason'))}"
        if isinstance(p, Mapping)
        else clean(p)
        for p in first
    )
    return "; ".join([*parts, *places])


def _date(seconds: object) -> str:
    number = as_number(seconds)
    if number is None:
        return MISSING
    try:
        return f"{datetime.fromtimestamp(number, timezone.utc):%Y-%m-%d}"
    except (OverflowError, ValueError, OSError):
        return MISSING


def split_table(card: Mapping[str, Any]) -> Table | None:
    """One row a split: its events, targets and history lengths."""
    splits = card.get("splits")
    parts = {k: v for k, v in splits.items() if v} if isinstance(splits, Mapping) else {}
    parts = {name: part for name, part in parts.items() if isinstance(part, Mapping)}
    rows = []
    for name, part in parts.items():
        texts = [count(part.get(k)) for k in ("events", "groups", "users", "targets")]
        texts.append(percent(part.get("repeat_share")))
        lengths = [lookup(part, "history_length", k) for k in ("mean", "p50", "p90", "max")]
        rows.append((Cell(key_label(name)), *map(Cell, texts + [count(v) for v in lengths])))
    head = ("Split", "Events", "Groups", "Users", "Targets", "Repeats")
    lengths_head = ("History mean", "median", "90 %", "longest")
    return Table("Splits", (*head, *lengths_head), tuple(rows)) if rows else None


def level_table(health: Mapping[str, Any]) -> Table | None:
    """Usage of each level of the semantic IDs."""
    rows = []
    levels, errors = health.get("levels"), floats(health.get("relative_error"))
    nearest = floats(lookup(health, "neighbour_agreement", "nearest"))
    chance = floats(lookup(health, "neighbour_agreement", "chance"))
    for index, level in enumerate(levels if isinstance(levels, list | tuple) else ()):
        size, used = as_number(lookup(level, "size")), as_number(lookup(level, "used"))
        perplexity, dead = as_number(lookup(level, "perplexity")), lookup(level, "dead")
        share = percent(used / size) if size and used is not None else MISSING
        even = percent(perplexity / size) if size and perplexity is not None else MISSING
        error = errors[index] if index < len(errors) else None
        near, random = (s[index] if index < len(s) else None for s in (nearest, chance))
        texts = [count(size), count(used), share, count(dead), decimal(perplexity, 1), even]
        texts += [decimal(error, 3), percent(near), percent(random)]
        rows.append((Cell(f"sid_{index + 1}"), *map(Cell, texts)))
    usage = ("Codes", "Used", "Used, %", "Dead", "Perplexity", "Evenness")
    head = ("Level", *usage, "Error left", "Nearest alike", "By chance")
    return Table("Codebooks", head, tuple(rows)) if rows else None


def training_table(
    logs: Mapping[str, Sequence[Mapping[str, Any]]], key: str, label: str
) -> Table | None:
    """Best validation and last loss of each trained model; `key` of the log is called `label`."""
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
    head = ("Model", f"Best validation {label}", "at epoch", "Last epoch", "Steps", "Last loss")
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
