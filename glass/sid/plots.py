"""Figure of the health of semantic IDs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from glass.sid.files import replaced_file
from glass.sid.health import SidHealth


def plot(health: SidHealth, path: Path | str) -> Path:
    """Draw the usage of each level's codes and the bucket sizes of the test histories.

    Args:
        health: from `describe`.
        path: where to save; the suffix .png or .svg chooses the format.

    Returns:
        The path.

    Raises:
        ValueError: another suffix, or matplotlib is missing.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"path {path} ends in {path.suffix!r}; use .png or .svg")
    try:
        # Not pyplot: it would choose a backend and keep state for the whole process.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("figures need matplotlib; run: pip install matplotlib") from error
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    usage, buckets = figure.subplots(1, 2)
    _draw_usage(usage, health)
    _draw_buckets(buckets, health)
    with replaced_file(path) as temporary:
        figure.savefig(temporary, dpi=150)
    return path


def _draw_usage(axes: Any, health: SidHealth) -> None:
    for i, level in enumerate(health.levels):
        counts = np.sort(level.counts)[::-1]
        axes.plot(
            np.arange(1, level.size + 1) / level.size,
            counts / counts.sum() * level.size,
            drawstyle="steps-mid",
            label=f"sid_{i + 1}: {level.used} of {level.size} used, "
            f"perplexity {level.perplexity:.0f}",
        )
    axes.axhline(1, color="0.6", linewidth=0.8)
    axes.set(
        title=f"{health.num_sids:,} SIDs of {health.num_items:,} items, "
        f"{health.collision_rate:.0%} of items share theirs",
        xlabel="codes, most used first (share of the codebook)",
        ylabel="items, relative to equal use",
        ylim=(0, None),
    )
    axes.legend(fontsize="small", frameon=False)


def _draw_buckets(axes: Any, health: SidHealth) -> None:
    targets = np.bincount(health.target_buckets) if len(health.target_buckets) else np.zeros(0)
    drawn = False
    for counts, label in (
        (targets, "the target's bucket"),
        (health.bucket_histogram, "non-empty buckets"),
    ):
        if counts.sum():
            # How many are at least this large: readable over three decades, unlike bins.
            share = counts[::-1].cumsum()[::-1] / counts.sum()
            axes.step(np.arange(len(counts)), share, where="pre", label=label)
            drawn = True
    axes.set(
        title="What a hard search by sid_1 finds (test histories)",
        xlabel="history events n in the bucket",
        ylabel="share with at least n",
        ylim=(0, 1.02),
    )
    if drawn:
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(0, None)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.legend(fontsize="small", frameon=False)
    else:
        axes.text(0.5, 0.5, "no test samples", ha="center", transform=axes.transAxes)
