"""How generation grows with the events of a user and with the beam width."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from matplotlib import pyplot as plt

from benchmarks.generation import check, make_histories, nth, sharpened
from benchmarks.histories import same_lengths
from benchmarks.machine import Floors, pages_kept
from benchmarks.output import Row, draw_growth, save_figure
from benchmarks.plain_generation import legal_codes, searching
from benchmarks.plain_glass import PlainGlass
from benchmarks.timing import interleaved
from benchmarks.training_step import ITEMS
from glass.data.batches import Batch, Kept
from glass.generation import generate
from glass.models import Glass
from glass_kernels import SidTrie

BEAMS = 20
LENGTHS = (100, 316, 1_000, 3_162, 10_000)
BEAM_WIDTHS = (10, 20, 50, 100, 200)
MOST_BEAMS = 50
"""Up to which the released scheme takes part; it repeats everything for every beam."""
NOTHING = torch.zeros(0, dtype=torch.int64)


def of_length(length: int, glass: Glass) -> Batch:
    """One user with `length` older events."""
    batch = make_histories(1, 0, glass)
    history = same_lengths(1, length, ITEMS, 0)
    ones = torch.ones(length, dtype=torch.int64)
    return replace(
        batch,
        long_items=history.ids,
        long_offsets=history.offsets,
        long_visits=ones,
        long_days=ones.float(),
    )


def with_kept(batch: Batch, glass: Glass) -> Batch:
    """The same user as a server knows it: tiers counted and events indexed before."""
    assert glass.tier is not None
    assert glass.hard_search is not None
    tiers = glass.tier.histogram(batch.long_items, batch.long_offsets)
    index = glass.hard_search.index(glass.codes[batch.long_items, 0], batch.long_offsets)
    kept = Kept(tiers, index, glass.item_tokens(batch.long_items))
    return replace(
        batch, kept=kept, long_items=NOTHING, long_offsets=torch.zeros(2, dtype=torch.int64)
    )


def run(quick: bool, floors: Floors) -> list[Row]:
    """Rows of the table; RuntimeError if a side's beams differ."""
    glass, vectors = sharpened()
    plain = PlainGlass(glass, vectors).eval()
    trie, legal = SidTrie.build(glass.codes, glass.codebook_sizes), legal_codes(glass.codes)
    sizes = [("L", length, BEAMS) for length in ((100, 10_000) if quick else LENGTHS)]
    sizes += [("W", 900, width) for width in ((10, 200) if quick else BEAM_WIDTHS)]
    rows = []
    for sweep, length, width in sizes:
        batch = of_length(length, glass)
        kept = with_kept(batch, glass)
        ours = partial(generate, glass, trie=trie, beam_width=width)
        theirs = searching(plain, width, legal)
        with pages_kept():
            sides: dict[str, Callable[[int], object]] = {
                "ours": partial(nth, ours, [batch]),
                "ours, index kept": partial(nth, ours, [kept]),
            }
            beams = ours(batch)
            again = ours(kept)
            assert torch.equal(beams.codes, again.codes)
            assert torch.equal(beams.scores, again.scores)
            if width <= MOST_BEAMS:
                check("released scheme", theirs(batch), beams)
                sides["plain"] = partial(nth, theirs, [batch])
            timings = interleaved(sides, seconds=0.5 if quick else 5.0, least=3)
        row: Row = {"sweep": sweep, "L": length, "W": width}
        for name, timing in timings.items():
            row |= timing.columns(name)
        rows.append(row)
    return rows


def plot(rows: list[Row], path: Path) -> None:
    """A panel for each sweep: time against size, both logarithmic."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True)
    for sweep, axes in zip(("L", "W"), panels, strict=True):
        mine = [row for row in rows if row["sweep"] == sweep]
        draw_growth(axes, mine, sweep, ("ours", "ours, index kept", "plain"))
        axes.set_xlabel("older events of the user" if sweep == "L" else "beams")
    figure.tight_layout()
    lines, labels = panels[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="center left", bbox_to_anchor=(1, 0.5))
    save_figure(figure, path)
