"""What is in a data set: numbers for the report and a table for the terminal."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glass.data.dataset import Dataset
from glass.data.order import SPLITS


def describe(dataset: Dataset, candidates: NDArray[np.bool_] | None = None) -> dict[str, Any]:
    """Plain data (JSON-ready) about a data set.

    Keys: name, users, items, events, groups, first_time, last_time, time_unit;
    events_per_user, group_size, item_popularity (mean, p50, p90, max); singleton_groups (share of
    groups with one event), tie_share (share of events that share user and time with another);
    items_without_text, distinct_texts; splits: {split: events, groups, samples, targets, users,
    repeat_share (targets that are already in their history), history_length (mean, p50, p90,
    max)}; dropped, malformed, sources as in the manifest.

    Args:
        candidates: bool [V], items that alone may be recommended; there is then a key candidates:
            items, share_of_<split>_targets (that are candidates; the others are misses).
    """
    starts = dataset.group_starts()
    sizes = np.diff(np.append(starts, dataset.num_events))
    repeats = repeat_mask(dataset)
    manifest = dataset.manifest
    splits = {name: _describe_split(dataset, name, starts, repeats) for name in SPLITS}
    limited = {} if candidates is None else {"candidates": _candidates(dataset, candidates)}
    return {
        "name": dataset.name,
        "users": dataset.num_users,
        "items": dataset.num_items,
        "events": dataset.num_events,
        "groups": len(starts),
        "first_time": int(dataset.times.min()),
        "last_time": int(dataset.times.max()),
        "time_unit": manifest.get("time_unit", "seconds"),
        "events_per_user": _spread(np.diff(dataset.user_offsets)),
        "group_size": _spread(sizes),
        "item_popularity": _spread(dataset.train_counts),
        "singleton_groups": float((sizes == 1).mean()),
        "tie_share": _tie_share(dataset),
        "items_without_text": int((dataset.item_table["text"] == "").sum()),
        "distinct_texts": dataset.item_table["text"].n_unique(),
        **limited,
        "splits": splits,
        "dropped": manifest.get("dropped", {}),
        "malformed": manifest.get("malformed", {}),
        "sources": manifest.get("sources", []),
    }


def repeat_mask(dataset: Dataset) -> NDArray[np.bool_]:
    """bool [T]: the user has an event with the same item in an earlier group."""
    users = dataset.event_users().astype(np.int64)
    pairs = users * dataset.num_items + dataset.items
    # Events are in order, so the first place of a pair is its earliest group.
    _, first, inverse = np.unique(pairs, return_index=True, return_inverse=True)
    mask: NDArray[np.bool_] = dataset.groups > dataset.groups[first[inverse]]
    return mask


def _candidates(dataset: Dataset, candidates: NDArray[np.bool_]) -> dict[str, Any]:
    counts: dict[str, Any] = {"items": int(candidates.sum())}
    for name, label in SPLITS.items():
        targets = dataset.items[(dataset.split == label) & (dataset.groups > 0)]
        share = float(candidates[targets].mean()) if len(targets) else 0.0
        counts[f"share_of_{name}_targets"] = share
    return counts


def format_description(description: dict[str, Any]) -> str:
    """The description as a text table."""
    d = description
    lines = [
        f"{d['name']}: {d['users']:,} users, {d['items']:,} items, {d['events']:,} events, "
        f"{d['groups']:,} groups",
        f"time            {_moment(d, 'first_time')} .. {_moment(d, 'last_time')}",
        f"ties            {d['tie_share']:.1%} of events share user and time with another",
        f"texts           {d['distinct_texts']:,} distinct, {d['items_without_text']:,} items "
        "without",
        "",
        f"{'':24}{'mean':>10}{'p50':>10}{'p90':>10}{'max':>10}",
    ]
    if "candidates" in d:
        limited = d["candidates"]
        shares = ", ".join(f"{limited[f'share_of_{n}_targets']:.1%} of {n}" for n in d["splits"])
        lines.insert(4, f"candidates      {limited['items']:,} items; of the targets {shares}")
    for key in ("events_per_user", "group_size", "item_popularity"):
        lines.append(f"{key.replace('_', ' '):24}" + _cells(d[key]))
    for name, part in d["splits"].items():
        lines.append(f"{'history of ' + name:24}" + _cells(part["history_length"]))
    columns = ("events", "groups", "samples", "targets", "users")
    lines += ["", f"{'':8}" + "".join(f"{c:>12}" for c in columns) + f"{'repeats':>12}"]
    for name, part in d["splits"].items():
        cells = "".join(f"{part[c]:>12,}" for c in columns)
        lines.append(f"{name:8}{cells}{part['repeat_share']:>12.1%}")
    lines += ["", *_format_dropped(d["dropped"])]
    for role, report in d["malformed"].items():
        lines.append(f"malformed {role}: {report['count']:,} of {report['rows']:,} rows")
    return "\n".join(lines)


def _describe_split(
    dataset: Dataset, name: str, starts: NDArray[np.int64], repeats: NDArray[np.bool_]
) -> dict[str, Any]:
    samples = dataset.samples(name)
    inside = dataset.split == SPLITS[name]
    # Targets are the events of this split that come after the user's first group.
    targets = inside & (dataset.groups > 0)
    num_targets = int(targets.sum())
    return {
        "events": int(inside.sum()),
        "groups": int(inside[starts].sum()),
        "samples": len(samples),
        "targets": num_targets,
        "users": len(np.unique(samples.users)),
        "repeat_share": float(repeats[targets].mean()) if num_targets else 0.0,
        "history_length": _spread(samples.history_end - samples.history_start),
    }


def _spread(values: NDArray[Any]) -> dict[str, float]:
    if not len(values):
        return {"mean": 0.0, "p50": 0.0, "p90": 0.0, "max": 0.0}
    return {
        "mean": float(values.mean()),
        "p50": float(np.quantile(values, 0.5)),
        "p90": float(np.quantile(values, 0.9)),
        "max": float(values.max()),
    }


def _tie_share(dataset: Dataset) -> float:
    same = np.zeros(dataset.num_events + 1, dtype=bool)
    same[1:-1] = np.diff(dataset.times) == 0
    same[dataset.user_offsets] = False
    return float((same[1:] | same[:-1]).mean())


def _moment(description: dict[str, Any], key: str) -> str:
    value = description[key]
    if description["time_unit"] != "seconds":
        return str(value)
    try:
        return f"{datetime.fromtimestamp(value, timezone.utc):%Y-%m-%d %H:%M}"
    except (OverflowError, ValueError, OSError):
        return f"{value} s"


def _cells(spread: dict[str, float]) -> str:
    return f"{spread['mean']:>10,.1f}" + "".join(
        f"{spread[key]:>10,.0f}" for key in ("p50", "p90", "max")
    )


def _format_dropped(dropped: dict[str, Any]) -> list[str]:
    """One line a reason that dropped anything."""
    lines = []
    for reason, value in dropped.items():
        if reason == "rows":
            lines += [f"dropped rows: {name} {count:,}" for name, count in value.items() if count]
        elif reason == "by_split":
            lines += [
                f"dropped {name} events: {part['events']:,} ({part['share']:.2%})"
                for name, part in value.items()
            ]
        elif isinstance(value, dict):
            if any(value.values()):
                counts = ", ".join(f"{count:,} {name}" for name, count in value.items())
                lines.append(f"dropped {reason.replace('_', ' ')}: {counts}")
        elif value:
            lines.append(f"dropped {reason.replace('_', ' ')}: {value:,}")
    return lines
