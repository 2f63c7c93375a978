"""What a model that spreads items over codes has moved: a table, and two items that went apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from glass.report.svg import COLORS, canvas
from glass.report.tables import Cell, Table
from glass.report.text import (
    MISSING,
    clean,
    decimal,
    floats,
    lookup,
    ordered_systems,
    percent,
    system_label,
)


def moved_table(found: Mapping[str, Any]) -> Table | None:
    """Share of the items whose best code moved, level by level; pairs of equal SIDs."""
    systems = [s for s in ordered_systems(found) if len(floats(lookup(found, s, "moved")))]
    depth = max((len(found[s]["moved"]) for s in systems), default=0)
    rows = []
    for system in systems:
        moved = [*floats(found[system]["moved"]), *[np.nan] * depth][:depth]
        events = [*floats(lookup(found, system, "moved_events")), *[np.nan] * depth][:depth]
        cells = [
            Cell(percent(float(share)), f"{percent(float(of_events))} of events")
            for share, of_events in zip(moved, events, strict=True)
        ]
        cells.append(Cell(percent(lookup(found, system, "moved_any"))))
        cells.append(_distance(lookup(found, system, "pairs")))
        rows.append((Cell(system_label(system)), *cells))
    head = ("Model", *(f"sid_{level + 1}" for level in range(depth)), "Any level", "Pairs apart")
    return (
        Table("Items whose best code is not that of their SID", head, tuple(rows)) if rows else None
    )


def _distance(pairs: object) -> Cell:
    distance = floats(lookup(pairs, "distance"))
    if not len(distance):
        return Cell(MISSING)
    random = decimal(float(np.mean(floats(lookup(pairs, "random")))), 2)
    return Cell(decimal(float(np.mean(distance)), 2), f"random {random}")


def pair_figure(system: str, example: object, titles: Sequence[str]) -> Markup | None:
    """Probabilities of the codes of two items with like SIDs, level by level.

    Args:
        system: whose they are.
        example: `levels` [{codes, shares [2][n]}], `codes` [2][L] of the SIDs.
        titles: of the two items.
    """
    levels = lookup(example, "levels") or ()
    if not levels:
        return None
    names = [clean(title, 34) or f"item {place}" for place, title in enumerate(titles, start=1)]
    codes = lookup(example, "codes")
    told = f"{system_label(system)}: codes of {names[0]} and {names[1]}"
    name = "pair-" + "".join(c if c.isalnum() else "-" for c in system)
    with canvas(name, told, width=7.0, height=3.0) as drawing:
        axes, at, ticks, labels = drawing.axes, 0.0, [], []
        for level, shown in enumerate(levels):
            place = at + np.arange(len(shown["codes"]))
            for row, tone in enumerate(("s0", "s1")):
                shares = 100 * floats(shown["shares"][row])
                label = names[row] if level == 0 else None
                axes.bar(place + 0.38 * row, shares, 0.36, color=COLORS[tone], label=label)
            own = {codes[0][level], codes[1][level]}
            ticks += (place + 0.19).tolist()
            labels += [f"{code}*" if code in own else str(code) for code in shown["codes"]]
            middle = float(place.mean()) + 0.19
            axes.annotate(
                f"sid_{level + 1}",
                (middle, 1.0),
                xycoords=("data", "axes fraction"),
                ha="center",
                va="bottom",
                color=COLORS["muted"],
            )
            at = float(place[-1]) + 2
        axes.set_xticks(ticks, labels, rotation=60 if len(labels) > 12 else 0)
        axes.set_xlabel("Code (* of the SID)")
        axes.set_ylabel("Probability, %")
        axes.set_ylim(0, 104)
        axes.grid(axis="x", visible=False)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.06), borderaxespad=0.2, ncols=2)
    return drawing.svg
