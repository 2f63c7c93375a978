"""A comparison of runs as aligned text and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from glass.evaluation.seeds import Comparison, Estimate, Row
from glass.evaluation.table import aligned, metric_title


def format_comparison(comparison: Comparison) -> str:
    """Rows of systems, then paired differences."""
    several = max(row.seeds for row in comparison.rows) > 1
    spread = "; +-: standard deviation over seeds" if several else ""
    header = [*comparison.settings, "seeds", *map(metric_title, comparison.metrics)]
    lines = [
        f"{comparison.targets} targets of {comparison.users} users, mean over seeds; brackets: "
        f"95 % of resampled users{spread}",
        *aligned([["system", *header], *(_cells(row, "") for row in comparison.rows)]),
    ]
    if comparison.differences:
        rows = [_cells(row, "+") for row in comparison.differences]
        lines += ["", *aligned([["difference", *header], *rows])]
    return "\n".join(lines)


def _cells(row: Row, sign: str) -> list[str]:
    metrics = [_cell(estimate, f"{sign}.4f") for estimate in row.metrics.values()]
    return [row.system, *row.settings, str(row.seeds), *metrics]


def _cell(estimate: Estimate, form: str) -> str:
    low, high = format(estimate.low, form), format(estimate.high, form)
    spread = "" if estimate.deviation is None else f" +-{estimate.deviation:.4f}"
    return f"{format(estimate.mean, form)} [{low}, {high}]{spread}"


def plot_comparison(comparison: Comparison, path: Path) -> Path:
    """A panel a metric: each row's mean, its interval and its seeds.

    Returns `path`.
    """
    from matplotlib.figure import Figure

    from glass.sid.files import replaced_file

    names, rows = comparison.metrics, comparison.rows
    figure = Figure(figsize=(1.5 + 3.2 * len(names), 1.2 + 0.34 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for place, row in enumerate(rows):
            found = row.metrics[name]
            axes.plot([found.low, found.high], [place, place], color="C0", linewidth=2)
            axes.plot(found.mean, place, "o", color="C0")
            places = [place] * len(found.per_seed)
            axes.plot(found.per_seed, places, "|", color="C1", markersize=12, zorder=3)
        axes.set_title(metric_title(name))
        axes.grid(axis="x", alpha=0.3)
        axes.locator_params(axis="x", nbins=4)
    panels[0].set_yticks(range(len(rows)), [_label(row, comparison.settings) for row in rows])
    panels[0].invert_yaxis()
    figure.supxlabel("mean and 95 % of resampled users; strokes: seeds", fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return path


def _label(row: Row, settings: Sequence[str]) -> str:
    values = ", ".join(
        f"{n.rpartition('.')[2]} {v}" for n, v in zip(settings, row.settings, strict=True)
    )
    return f"{row.system}, {values}" if values else row.system
