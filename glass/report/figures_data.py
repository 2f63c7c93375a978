"""The figures of the data and the semantic IDs: inline SVG, or None with nothing to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from markupsafe import Markup

from glass.report.svg import COLORS, canvas
from glass.report.text import DASH, clean, decimal, floats, percent

_LEVEL_COLORS = ("s0", "s1", "s3", "s2", "s5", "s6")


def tier_occupancy(shares: Sequence[float], edges: Sequence[float]) -> Markup | None:
    """Bar per tier with its share of the cosines."""
    heights = floats(shares)
    if not np.isfinite(heights).any():
        return None
    labels = [f"Tier {i + 1}" for i in range(len(heights))]
    if edges:
        pairs = pairwise(edges)
        bounds = [f"{decimal(a, 2)} … {decimal(b, 2)}" for a, b in pairs]
        labels = [f"{tier}\n{bound}" for tier, bound in zip(labels, bounds, strict=True)]
    told = ", ".join(percent(h) for h in heights)
    with canvas("tiers", f"Share of cosines in each tier: {told}") as drawing:
        axes = drawing.axes
        bars = axes.bar(range(len(heights)), 100 * heights, color=COLORS["s0"], width=0.62)
        # Many tiers: bars only, labels would overlap.
        if len(heights) <= 6:
            axes.bar_label(bars, [percent(h) for h in heights], padding=2, fontsize=8.5)
            axes.set_xticks(range(len(heights)), labels)
        else:
            axes.set_xlabel("Tier, lowest cosine first")
        axes.set_ylabel("Share of cosines, %")
        axes.margins(y=0.14)
        axes.grid(axis="x", visible=False)
    return drawing.svg


def bucket_sizes(sizes: object) -> Markup | None:
    """Histogram over buckets of their number of history events, on a log axis."""
    found = (
        {clean(k, 40): floats(v) for k, v in sizes.items()} if isinstance(sizes, Mapping) else {}
    )
    found = {k: v[np.isfinite(v) & (v >= 0)] for k, v in found.items()}
    found = {k: v for k, v in found.items() if v.size}
    if not found:
        return None
    largest = max(float(v.max()) for v in found.values())
    # 0 has a bin of its own; then edges double.
    edges = np.concatenate([[0.0], 2.0 ** np.arange(0, np.ceil(np.log2(largest + 1)) + 1)])
    labels = ["0"] + [
        f"{int(a)}" if b - a == 1 else f"{int(a)}{DASH}{int(b) - 1}" for a, b in pairwise(edges[1:])
    ]
    with canvas("buckets", "Distribution of bucket sizes: " + ", ".join(found)) as drawing:
        axes, width = drawing.axes, 0.8 / len(found)
        for index, (label, values) in enumerate(found.items()):
            share = np.histogram(values, edges)[0] / values.size
            at = np.arange(len(share)) + (index - (len(found) - 1) / 2) * width
            color = COLORS[_LEVEL_COLORS[index % len(_LEVEL_COLORS)]]
            text = f"{label} (median {np.median(values):.0f})"
            axes.bar(at, 100 * share, width=0.92 * width, color=color, label=text)
        axes.set_xticks(range(len(labels)), labels, rotation=35 if len(labels) > 7 else 0)
        axes.set_xlabel("History events in the bucket")
        axes.set_ylabel("Share, %")
        axes.grid(axis="x", visible=False)
        axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2)
    return drawing.svg


def code_usage(levels: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Items of each code, most used first, relative to an even share; one line a level."""
    counts = [(i + 1, floats(level.get("counts"))) for i, level in enumerate(levels)]
    counts = [(i, c) for i, c in counts if np.nansum(c) > 0]
    if not counts:
        return None
    with canvas("usage", "Items of each code relative to an even share, by level") as drawing:
        axes = drawing.axes
        for index, (level, values) in enumerate(counts):
            ordered = np.sort(np.nan_to_num(values))[::-1]
            rank = (np.arange(ordered.size) + 0.5) / ordered.size
            color = COLORS[_LEVEL_COLORS[index % len(_LEVEL_COLORS)]]
            dash = ("-", "--", ":", "-.")[index % 4]
            axes.plot(100 * rank, ordered / ordered.mean(), dash, color=color, label=f"sid_{level}")
        axes.axhline(1, color=COLORS["muted"], linewidth=0.9)
        axes.set_xlabel("Codes, most used first, %")
        axes.set_ylabel("Items ÷ even share")
        axes.set_ylim(bottom=0)
        axes.legend()
    return drawing.svg
