"""The figures of training and results: inline SVG, or None with nothing to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, MaxNLocator

from glass.report.svg import COLORS, canvas, style_of
from glass.report.text import (
    as_number,
    clean,
    decimal,
    floats,
    lookup,
    metric_label,
    ordered_systems,
    pair_label,
    signed,
    system_label,
)
from glass.report.verdict import Comparison

_THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.0f}")


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray, str]:
    """(x [n], y [n], name of x) of the rows that have `key`; x is the epoch where logged."""
    kept = [row for row in rows if as_number(row.get(key)) is not None]
    axis = "epoch" if kept and all(as_number(r.get("epoch")) is not None for r in kept) else "step"
    found = [as_number(row.get(axis)) for row in kept]
    x = [float(i) if value is None else value for i, value in enumerate(found)]
    return np.array(x), floats([row[key] for row in kept]), axis


def _thin(x: np.ndarray, y: np.ndarray, most: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Means over runs of neighbours: a long log is a readable line and a small file."""
    if x.size <= most:
        return x, y
    starts = np.linspace(0, x.size, most, endpoint=False).astype(np.int64)
    sizes = np.diff(np.append(starts, x.size))
    return np.add.reduceat(x, starts) / sizes, np.add.reduceat(y, starts) / sizes


def training(
    logs: Mapping[str, Sequence[Mapping[str, Any]]], key: str, title: str
) -> Markup | None:
    """`key` over the epochs, one line a model; a validation curve marks each model's best."""
    curves = {s: _series(rows, key) for s, rows in logs.items()}
    curves = {s: curve for s, curve in curves.items() if curve[1].size}
    if not curves:
        return None
    best = key.startswith("valid")
    name = "valid" if best else "loss"
    with canvas(f"train-{name}", f"{title} of " + ", ".join(map(system_label, curves))) as drawing:
        axes = drawing.axes
        for system in ordered_systems(curves):
            x, y, _ = curves[system]
            style = style_of(system, curves)
            label = system_label(system)
            (line,) = axes.plot(*_thin(x, y), style.dash, color=style.color, label=label)
            line.set_gid(f"data-{ordered_systems(curves).index(system)}")
            if best:
                top = int(np.argmax(y))
                axes.plot(x[top], y[top], style.marker, color=style.color, markersize=7)
        axes.set_xlabel({c[2] for c in curves.values()}.pop().capitalize())
        axes.set_title(title + (" (mark: best)" if best else ""))
        axes.legend()
    return drawing.svg


def forest(comparisons: Sequence[Comparison], metric: str) -> Markup | None:
    """Forest plot: mean difference and interval of each pair; right of 0 the first is better."""
    shown = [c for c in comparisons if c.metric == metric]
    if not shown:
        return None
    told = "; ".join(c.sentence() for c in shown)
    name = "forest-" + "".join(c if c.isalnum() else "-" for c in metric)
    with canvas(name, told, height=1.15 + 0.42 * len(shown)) as drawing:
        axes = drawing.axes
        for row, c in enumerate(shown):
            tone = {"win": "good", "loss": "bad"}.get(c.outcome, "muted")
            color = COLORS[tone]
            if c.low is not None and c.high is not None:
                axes.plot([c.low, c.high], [row, row], color=color, linewidth=2.2)
            marker = {"win": "o", "loss": "X", "tie": "s"}.get(c.outcome, "d")
            axes.plot(c.mean, row, marker, color=color, markersize=7)
        axes.axvline(0, color=COLORS["ink"], linewidth=1)
        labels = [pair_label(c.first, c.second) for c in shown]
        axes.set_yticks(range(len(shown)), labels)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y", visible=False)
        axes.set_title(f"Difference in {metric_label(metric)}, 95 % CI")
    return drawing.svg


def by_history(data: Mapping[str, Any]) -> Markup | None:
    """Metric of each system by history length, with intervals where there are some."""
    bins = [clean(b, 20) for b in data.get("bins") or ()]
    systems = {s: floats(v) for s, v in (data.get("systems") or {}).items()}
    systems = {s: v for s, v in systems.items() if np.isfinite(v).any()}
    if not bins or not systems:
        return None
    counts = floats(data.get("count"))
    labels = [f"{b}\nn={n:,.0f}" for b, n in zip(bins, counts, strict=False)] or bins
    metric = metric_label(str(data.get("metric") or "ndcg@10"))
    told = f"{metric} by history length for " + ", ".join(map(system_label, systems))
    with canvas("history", told, width=5.6, height=3.6) as drawing:
        axes = drawing.axes
        order = ordered_systems(systems)[::-1]
        for index, system in enumerate(order):
            style, values = style_of(system, systems), systems[system]
            # Side by side, or the intervals hide one another.
            x = np.arange(len(bins)) + 0.07 * (index - (len(order) - 1) / 2)
            bounds = lookup(data, "ci", system)
            if bounds is not None:
                low, high = (floats([pair[i] for pair in bounds]) for i in (0, 1))
                axes.vlines(x, low, high, color=style.color, linewidth=1.2, alpha=0.75)
            drawn = axes.plot(
                x,
                values,
                style.dash,
                marker=style.marker,
                color=style.color,
                label=system_label(system),
            )
            drawn[0].set_gid(f"data-{index}")
        axes.set_xticks(range(len(bins)), labels)
        axes.set_xlabel("History length of the target, events")
        axes.set_ylabel(metric)
        axes.set_ylim(bottom=0)
        axes.grid(axis="x", visible=False)
        axes.legend(ncols=min(3, len(order)), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return drawing.svg


def rank_progression(generation: Mapping[str, Mapping[str, Any]]) -> Markup | None:
    """CRP_d of each model as grouped bars, one group a level."""
    depths = sorted({k for values in generation.values() for k in values if k.startswith("crp_")})
    systems = [s for s in ordered_systems(generation) if any(d in generation[s] for d in depths)]
    values = {s: floats([generation[s].get(d) for d in depths]) for s in systems}
    if not any(np.isfinite(v).any() for v in values.values()):
        return None
    told = "; ".join(
        f"{system_label(s)} "
        + ", ".join(f"{d} {decimal(v, 2)}" for d, v in zip(depths, values[s], strict=True))
        for s in systems
    )
    with canvas("crp", f"Conditional rank progression: {told}") as drawing:
        axes, width = drawing.axes, 0.7 / len(systems)
        for index, system in enumerate(systems):
            at = np.arange(len(depths)) + (index - (len(systems) - 1) / 2) * width
            color, label = style_of(system, systems).color, system_label(system)
            bars = axes.bar(at, values[system], width=0.9 * width, color=color, label=label)
            marks = [decimal(v, 2) for v in values[system]]
            axes.bar_label(bars, marks, padding=2, fontsize=8.5)
        axes.axhline(0, color=COLORS["muted"], linewidth=0.9)
        axes.set_xticks(range(len(depths)), [f"Level {d.removeprefix('crp_')}" for d in depths])
        axes.set_title("Conditional rank progression (lower is better)")
        axes.grid(axis="x", visible=False)
        axes.margins(y=0.16)
        axes.legend()
    return drawing.svg


def gate_by_length(gates: Mapping[str, Mapping[str, Sequence[float]]]) -> Markup | None:
    """Mean gate against the number of retrieved items (figure 4 of the GLASS paper)."""
    curves = {s: (floats(g.get("length")), floats(g.get("mean_gate"))) for s, g in gates.items()}
    curves = {s: (x, y) for s, (x, y) in curves.items() if (np.isfinite(y) & (x > 0)).any()}
    if not curves:
        return None
    told = "Mean gate against retrieved items for " + ", ".join(map(system_label, curves))
    with canvas("gate", told) as drawing:
        axes = drawing.axes
        for index, system in enumerate(ordered_systems(curves)):
            # Nothing retrieved: the gate is 0 by definition and says nothing.
            kept = curves[system][0] > 0
            x, y = (values[kept] for values in curves[system])
            style = style_of(system, curves)
            weight = floats(gates[system].get("count"))
            weight = weight[kept] if weight.size == kept.size else weight
            axes.plot(x, y, style.dash, color=style.color, label=system_label(system))[0].set_gid(
                f"data-{index}"
            )
            if weight.size == x.size and np.nansum(weight) > 0:
                area = 6 + 110 * np.nan_to_num(weight) / np.nanmax(weight)
                axes.scatter(x, y, s=area, color=style.color, alpha=0.45, linewidth=0)
        axes.set_xlabel("Retrieved items")
        axes.set_title("Mean gate (area of a dot: how often)")
        axes.xaxis.set_major_formatter(_THOUSANDS)
        axes.legend(loc="lower right")
    return drawing.svg


def gate_trends(gates: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """One sentence a model: does the gate open as more is retrieved, as it does in the paper?"""
    sentences = []
    for system in ordered_systems(gates):
        x, y = floats(gates[system].get("length")), floats(gates[system].get("mean_gate"))
        weight = floats(gates[system].get("count"))
        weight = weight if weight.size == x.size else np.ones(x.size)
        kept = np.isfinite(x) & np.isfinite(y) & (weight > 0) & (x > 0) if x.size == y.size else []
        if np.sum(kept) < 3:
            continue
        x, y, weight = x[kept], y[kept], weight[kept]
        cov = np.cov(x, y, aweights=weight)
        scale = np.sqrt(cov[0, 0] * cov[1, 1])
        r = float(cov[0, 1] / scale) if scale > 1e-12 else 0.0
        moved = "rises" if r > 0.3 else "falls" if r < -0.3 else "shows no clear trend"
        sentences.append(
            f"{system_label(system)}: the mean gate {moved} with the number of retrieved items, "
            f"{decimal(y[np.argmin(x)], 2)} at {np.min(x):.0f} and "
            f"{decimal(y[np.argmax(x)], 2)} at {np.max(x):.0f} "
            f"(correlation weighted by count {signed(r, 2)})."
        )
    return sentences
