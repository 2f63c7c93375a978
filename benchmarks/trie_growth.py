"""How a whole decode grows with the catalogue, from 10^4 to 10^6 items."""

from __future__ import annotations

from pathlib import Path

from matplotlib import pyplot as plt

from benchmarks import trie_decode
from benchmarks.catalogues import make_trie
from benchmarks.machine import Floors
from benchmarks.output import Row, draw_growth, number, save_figure
from benchmarks.trie_decode import Setup

SIZES = (10_000, 31_623, 100_000, 316_228, 1_000_000)
KINDS = ("random", "clustered")
MASKS = ("before", "after")


def run(quick: bool, floors: Floors) -> list[Row]:
    """Rows of the table; RuntimeError if a side differs from the reference or cannot run."""
    rows = []
    for kind in KINDS[:1] if quick else KINDS:
        for mask in MASKS:
            least = None
            for items in SIZES[::2] if quick else SIZES:
                setup = Setup(items, kind, mask)
                batches = trie_decode.make_inputs(setup, make_trie(kind, items))
                contest = trie_decode.make_contest(setup, batches)
                times = contest.times(seconds=0.3 if quick else 2.0, least=3 if quick else 9)
                ours = number(times["ours ms"])
                least = min(least or ours, ours)
                floor = floors.ms(num_bytes=trie_decode.floor_bytes(batches[0]))
                row: Row = {"SIDs": kind, "mask": mask, "items": items}
                measured: Row = {"of the least": ours / least, "floor ms": floor}
                rows.append({**row, **times, **measured})
    return rows


def plot(rows: list[Row], path: Path) -> None:
    """A panel for each kind of SIDs and mask: time against items, both logarithmic."""
    kinds = [kind for kind in KINDS if any(row["SIDs"] == kind for row in rows)]
    figure, panels = plt.subplots(
        len(kinds), len(MASKS), figsize=(9, 3.5 * len(kinds)), sharey=True, squeeze=False
    )
    for kind, of_kind in zip(kinds, panels, strict=True):
        for mask, axes in zip(MASKS, of_kind, strict=True):
            mine = [row for row in rows if (row["SIDs"], row["mask"]) == (kind, mask)]
            draw_growth(axes, mine, "items", ("ours", "our eager", "eager", "STATIC", "floor"))
            axes.set_title(f"{kind} SIDs, mask {mask} the softmax", fontsize=9)
            axes.set_xlabel("items")
    figure.tight_layout()
    lines, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="center left", bbox_to_anchor=(1, 0.5))
    save_figure(figure, path)
