"""Generation of IntRR against the flattened baseline, by beams; one user and a batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib import pyplot as plt

from benchmarks.agreement import DiffersError
from benchmarks.intrr_models import BACKBONES, SIDES, Setup, make_histories, make_model, newest
from benchmarks.machine import Floors, pages_kept
from benchmarks.output import Row, draw_growth, number, save_figure
from benchmarks.timing import interleaved
from glass.generation import Beams, generate
from glass_kernels import SidTrie, use_backend

if TYPE_CHECKING:
    from glass.systems.base import Model

BEAMS = (10, 15, 20, 25, 30, 50)
SCORE_TOLERANCE = 1e-4
QUICK = [Setup("transformer", 1)]
FULL = [Setup(backbone, users) for backbone in BACKBONES for users in (1, 32)]


def check(name: str, model: Model, batch: Any, trie: SidTrie, beams: int) -> None:
    """Scores on the best backends against those on the references.

    Raises DiffersError.
    """
    found = generate(model, batch, trie, beam_width=beams)
    with use_backend("reference"):
        truth = generate(model, batch, trie, beam_width=beams)
    worst = float((found.scores - truth.scores).abs().max())
    if not worst <= SCORE_TOLERANCE:
        raise DiffersError(f"{name}: scores differ by {worst:.1e} from the reference's")


def in_turn(search: Callable[[Any], Beams], batches: list[Any], n: int) -> Beams:
    """Batches take turns."""
    return search(batches[n % len(batches)])


def rows_of(setup: Setup, quick: bool) -> list[Row]:
    """A row a beam width."""
    searches = {}
    batches = {}
    for name, side in SIDES.items():
        model = make_model(setup, side).eval()
        trie = SidTrie.build(model.codes, model.codebook_sizes)
        searches[name] = partial(generate, model, trie=trie)
        batches[name] = [newest(make_histories(setup.users, side.items, seed)) for seed in range(4)]
        check(name, model, batches[name][0], trie, BEAMS[-1])
    rows = []
    for width in (10, 50) if quick else BEAMS:
        sides: dict[str, Callable[[int], object]] = {
            name: partial(in_turn, partial(search, beam_width=width), batches[name])
            for name, search in searches.items()
        }
        with pages_kept():
            timings = interleaved(sides, seconds=0.5 if quick else 6.0, least=3)
        row: Row = {**setup.columns(), "W": width}
        for name, timing in timings.items():
            row |= timing.columns(name)
        for name in list(SIDES)[1:]:
            row[f"{name} / ours"] = number(row[f"{name} ms"]) / number(row["ours ms"])
        rows.append(row)
    return rows


def run(quick: bool, floors: Floors) -> list[Row]:
    """Rows of the table; RuntimeError if a side differs from its reference."""
    return [row for setup in (QUICK if quick else FULL) for row in rows_of(setup, quick)]


def plot(rows: list[Row], path: Path) -> None:
    """A panel for each backbone and number of users: time against beams."""
    kinds = list(dict.fromkeys((row["backbone"], row["B"]) for row in rows))
    figure, panels = plt.subplots(1, len(kinds), figsize=(4.5 * len(kinds), 3.5), squeeze=False)
    for (backbone, users), axes in zip(kinds, panels[0], strict=True):
        mine = [row for row in rows if (row["backbone"], row["B"]) == (backbone, users)]
        draw_growth(axes, mine, "W", tuple(SIDES))
        axes.set_xlabel("beams")
        axes.set_title(f"{backbone}, {users} users")
    figure.tight_layout()
    lines, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="center left", bbox_to_anchor=(1, 0.5))
    save_figure(figure, path)
