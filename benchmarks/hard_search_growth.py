"""How hard search grows with the events of a user and with the beam width."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib import pyplot as plt

from benchmarks import hard_search
from benchmarks.hard_search import ITEMS, Search
from benchmarks.histories import same_lengths
from benchmarks.machine import Floors
from benchmarks.output import Row, draw_growth, number, save_figure
from benchmarks.searches import LEVELS, make_codes, make_neighbours, make_searches

CODES, MAX_ITEMS = 128, 100
USERS_BY_LENGTH, USERS_BY_BEAMS, LENGTH, BEAMS = 8, 64, 1_000, 20
LENGTHS = (100, 316, 1_000, 3_162, 10_000, 31_623, 100_000)
BEAM_WIDTHS = (10, 20, 50, 100, 200)
MOST_ELEMENTS = 20_000_000
"""Elements of the mask [B, S, L] up to which plain PyTorch takes part."""


@dataclass(frozen=True)
class Setup:
    sweep: str
    """What is varied: "L" or "S"."""
    users: int
    length: int
    beams: int


def setups(quick: bool) -> list[Setup]:
    lengths = (100, 1_000, 10_000) if quick else LENGTHS
    widths = (10, 200) if quick else BEAM_WIDTHS
    found = [Setup("L", USERS_BY_LENGTH, length, BEAMS) for length in lengths]
    return found + [Setup("S", USERS_BY_BEAMS, LENGTH, width) for width in widths]


def run(quick: bool, floors: Floors) -> list[Row]:
    """Rows of the table; RuntimeError if a side differs from the reference or cannot run."""
    rows = []
    search = Search(CODES, MAX_ITEMS, make_neighbours(CODES, 4))
    codes = make_codes(ITEMS, LEVELS[CODES])[:, 0].contiguous()
    for setup in setups(quick):
        batches = []
        for seed in range(2):
            histories = same_lengths(setup.users, setup.length, ITEMS, seed)
            sid1 = codes[histories.ids]
            batches.append(make_searches(histories, sid1, CODES, setup.beams, seed))
        contest = hard_search.make_contest(search, batches)
        contest = replace(contest, others={})
        if setup.users * setup.beams * setup.length > MOST_ELEMENTS:
            contest = replace(contest, plain={})
        times = contest.times(seconds=0.2 if quick else 1.5, least=3 if quick else 5)
        ours, floor = number(times["ours ms"]), hard_search.floor_of(floors, search, batches[0])
        row: Row = {
            "sweep": setup.sweep, "B": setup.users, "L": setup.length, "S": setup.beams,
            "ns / event": 1e6 * ours / (setup.users * setup.length),
            "ns / query": 1e6 * ours / (setup.users * setup.beams),
        }  # fmt: skip
        rows.append({**row, **times, "floor ms": floor, "ours / floor": ours / floor})
    return rows


def plot(rows: list[Row], path: Path) -> None:
    """A panel for each sweep: time against size, both logarithmic."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True)
    for sweep, axes in zip(("L", "S"), panels, strict=True):
        mine = [row for row in rows if row["sweep"] == sweep]
        draw_growth(axes, mine, sweep, ("ours", "bucket_history", "eager", "floor"))
        axes.set_xlabel("events a user" if sweep == "L" else "beams a user")
    figure.tight_layout()
    lines, labels = panels[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="center left", bbox_to_anchor=(1, 0.5))
    save_figure(figure, path)
