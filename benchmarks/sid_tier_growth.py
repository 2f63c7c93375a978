"""How SID-Tier grows with the events of a user and with the number of codes, on both paths."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from matplotlib import pyplot as plt

from benchmarks import sid_tier, sid_tier_embeddings
from benchmarks.contest import Contest
from benchmarks.histories import same_lengths
from benchmarks.machine import Floors
from benchmarks.output import Row, draw_growth, number, save_figure

ITEMS, CODES, TIERS = 13_000, 128, 20
USERS_BY_LENGTH, USERS_BY_CODES, LENGTH = 8, 64, 1_000
LENGTHS = (100, 316, 1_000, 3_162, 10_000, 31_623, 100_000)
NUM_CODES = (16, 32, 64, 128, 256, 512, 1_024)
MOST_PAIRS = 12_000_000
"""(event, code) pairs up to which plain PyTorch takes part: it needs tens of bytes for each."""


@dataclass(frozen=True)
class Setup:
    path: str
    """"table" or "embeddings"."""
    sweep: str
    """What is varied: "L" or "K"."""
    users: int
    length: int
    codes: int


def setups(quick: bool) -> list[Setup]:
    lengths = (100, 1_000) if quick else LENGTHS
    num_codes = (128,) if quick else NUM_CODES
    found = []
    for path in ("table", "embeddings"):
        found += [Setup(path, "L", USERS_BY_LENGTH, length, CODES) for length in lengths]
        found += [Setup(path, "K", USERS_BY_CODES, LENGTH, codes) for codes in num_codes]
    return found


def make_contest(setup: Setup) -> Contest:
    if setup.path == "table":
        contest = sid_tier.make_contest(
            sid_tier.Setup(users=1, codes=setup.codes, tiers=TIERS, items=ITEMS)
        )
    else:
        contest = sid_tier_embeddings.make_contest(
            sid_tier_embeddings.Setup(TIERS, users=1, codes=setup.codes, items=ITEMS),
            compiled=False,
        )
    batches = [same_lengths(setup.users, setup.length, ITEMS, seed) for seed in range(2)]
    plain = dict(contest.plain)
    if setup.users * setup.length * setup.codes > MOST_PAIRS:
        plain = {}
    return replace(contest, batches=batches, plain=plain, others={})


def floor_of(floors: Floors, setup: Setup, events: int) -> float:
    if setup.path == "table":
        num_bytes = sid_tier.floor_bytes(events, setup.users, setup.codes, TIERS)
        return floors.ms(num_bytes=num_bytes)
    like = sid_tier_embeddings.Setup(TIERS, users=setup.users, codes=setup.codes)
    return sid_tier_embeddings.floor_of(floors, like, events)


def run(quick: bool, floors: Floors) -> list[Row]:
    """Rows of the table; RuntimeError if a side differs from the reference or cannot run."""
    rows = []
    for setup in setups(quick):
        contest = make_contest(setup)
        events = len(contest.batches[0].ids)
        times = contest.times(seconds=0.3 if quick else 1.5, least=3 if quick else 5)
        floor = floor_of(floors, setup, events)
        ours = number(times["ours ms"])
        row: Row = {
            "path": setup.path, "sweep": setup.sweep, "B": setup.users, "L": setup.length,
            "K": setup.codes, "N": TIERS, "ns / event": 1e6 * ours / events,
        }  # fmt: skip
        rows.append({**row, **times, "floor ms": floor, "ours / floor": ours / floor})
    return rows


def plot(rows: list[Row], path: Path) -> None:
    """A panel for each path and sweep: time against size, both logarithmic."""
    figure, panels = plt.subplots(2, 2, figsize=(9, 6.5), sharey="row")
    for (kind, sweep), axes in zip(
        product(("table", "embeddings"), ("L", "K")), panels.flat, strict=True
    ):
        mine = [row for row in rows if (row["path"], row["sweep"]) == (kind, sweep)]
        draw_growth(axes, mine, sweep, ("ours", "eager", "index_select", "floor"))
        axes.set_title(f"{kind} path")
        axes.set_xlabel("events a user" if sweep == "L" else "codes")
    figure.tight_layout()
    lines, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="center left", bbox_to_anchor=(1, 0.5))
    save_figure(figure, path)
