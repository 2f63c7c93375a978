"""The metrics as aligned text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

DEFAULT_KINDS = ("hit", "ndcg", "item_hit", "item_ndcg")


def format_table(metrics: Mapping[str, Any], names: Sequence[str] | None = None) -> str:
    """All systems, one a row, with 95 % intervals in brackets, and the differences below.

    Args:
        metrics: what `build_metrics` returns.
        names: metrics to show; None: Hit@10 and NDCG@10 of SIDs and of item lists, or, where 10 is
            no cut-off, at the largest one. NDCG of repeat and first-time targets follows.

    Raises:
        ValueError: a metric that no system has.
    """
    systems = metrics["systems"]
    known = next((list(parts["all"]) for parts in systems.values() if parts["all"]), [])
    k = _cut_off(known)
    if names is None:
        names = [f"{kind}@{k}" for kind in DEFAULT_KINDS if f"{kind}@{k}" in known]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"names {unknown} are not among {', '.join(known) or 'no metrics'}")
    split = f"ndcg@{k}"
    header = ["system", *map(metric_title, names)]
    header += [f"repeat {metric_title(split)}", f"first-time {metric_title(split)}"]
    rows = [
        [system]
        + [_cell(values["all"].get(name), values["ci"].get(name)) for name in names]
        + [_cell(values[part].get(split), None) for part in ("repeat", "first_time")]
        for system, values in systems.items()
    ]
    counts = metrics["counts"]
    lines = [
        f"{counts['targets']} targets ({counts['repeat']} repeat, {counts['first_time']} "
        f"first-time) of {counts['samples']} samples; brackets: 95 % of resampled users",
        *aligned([header, *rows]),
    ]
    differences = [
        [pair] + [_cell(*_mean_and_bounds(values, name), signed=True) for name in names]
        for pair, values in metrics["differences"].items()
    ]
    if differences:
        lines += ["", *aligned([["difference", *map(metric_title, names)], *differences])]
    return "\n".join(lines)


def _cut_off(names: Sequence[str]) -> int:
    """10 where it was evaluated, else the largest K."""
    ks = {int(name.partition("@")[2]) for name in names}
    return 10 if 10 in ks else max(ks, default=10)


def metric_title(name: str) -> str:
    words = {"split_": "split ", "item_": "item ", "hit": "Hit", "ndcg": "NDCG"}
    for short, shown in words.items():
        name = name.replace(short, shown)
    return name


def _mean_and_bounds(
    values: Mapping[str, Sequence[float]], name: str
) -> tuple[float | None, Sequence[float] | None]:
    triple = values.get(name)
    return (None, None) if triple is None else (triple[0], triple[1:])


def _cell(value: float | None, bounds: Sequence[float] | None, *, signed: bool = False) -> str:
    if value is None:
        return "-"
    form = "+.4f" if signed else ".4f"
    text = format(value, form)
    if bounds is None:
        return text
    return f"{text} [{format(bounds[0], form)}, {format(bounds[1], form)}]"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """First column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
