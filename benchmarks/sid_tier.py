"""SID-Tier from the byte table: C++ against plain and compiled PyTorch, and `index_select`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.agreement import tiers_close
from benchmarks.contest import Contest, Run
from benchmarks.eager import compiled_forms, one_hot_form, table_forms
from benchmarks.histories import Batch, make_batch, make_table
from benchmarks.machine import Floors
from benchmarks.moving import moved
from benchmarks.output import Row, number, plot_bars
from glass_kernels import sid_tier

BATCHES = 2


@dataclass(frozen=True)
class Setup:
    """One row of the table."""

    histories: str = "paper"
    users: int = 256
    codes: int = 128
    tiers: int = 4
    items: int = 13_000
    compiled: bool = False

    def columns(self) -> Row:
        return {
            "histories": self.histories, "B": self.users, "K": self.codes, "N": self.tiers,
            "items": self.items,
        }  # fmt: skip


QUICK = [Setup(users=32, tiers=4), Setup("long tail", users=32, tiers=20)]
FULL = [
    *(Setup(tiers=n, codes=k, compiled=k == 128) for k in (64, 128) for n in (4, 20)),
    *(Setup("long tail", tiers=n) for n in (4, 20)),
    *(Setup(tiers=n, items=1_000_000) for n in (4, 20)),
]


def floor_bytes(events: int, users: int, codes: int, tiers: int) -> int:
    """What cannot be avoided: a row and an id an event, and the result."""
    return events * (codes + 4) + 4 * users * codes * tiers


def index_select_of(table: Tensor) -> Run:
    """Of the same rows, into memory that is there already: copying alone, at its best."""
    rows = table.new_empty(0, table.shape[1])
    return lambda batch: torch.index_select(table, 0, batch.ids, out=rows)


def make_contest(
    setup: Setup, num_batches: int = BATCHES, *, device: str = "cpu", backend: str | None = "cpp"
) -> Contest:
    table = make_table(setup.items, setup.codes, setup.tiers).to(device)
    batches = [
        moved(make_batch(setup.histories, setup.users, setup.items, seed), device)
        for seed in range(num_batches)
    ]

    def run(batch: Batch, backend: str | None) -> Tensor:
        return sid_tier(batch.ids, batch.offsets, table, setup.tiers, backend=backend)

    plain = table_forms(table, setup.tiers, max(batch.waste for batch in batches))
    bag = one_hot_form(table, setup.tiers)
    return Contest(
        batches,
        reference=lambda batch: run(batch, "reference"),
        ours=lambda batch: run(batch, backend),
        plain=plain,
        compiled=compiled_forms(plain) if setup.compiled else {},
        others={"embedding_bag": bag} if bag else {},
        yardsticks={"index_select": index_select_of(table)},
        agree=tiers_close(0.0),
    )


def run(quick: bool, floors: Floors) -> list[Row]:
    """Rows of the table; RuntimeError if a side differs from the reference or cannot run."""
    rows = []
    for setup in QUICK if quick else FULL:
        contest = make_contest(setup)
        events = len(contest.batches[0].ids)
        times = contest.run(seconds=1.0 if quick else 5.0, least=3 if quick else 5)
        floor = floors.ms(num_bytes=floor_bytes(events, setup.users, setup.codes, setup.tiers))
        measured: Row = {"floor ms": floor, "ours / floor": number(times["ours ms"]) / floor}
        rows.append({**setup.columns(), "events": events, **times, **measured})
    return rows


def plot(rows: list[Row], path: Path) -> None:
    sides = ("floor ms", "index_select ms", "ours ms", "embedding_bag ms", "compiled ms")
    label = ("histories", "K", "N", "items", "threads")
    plot_bars(rows, label, (*sides, "eager ms, pages kept", "eager ms"), "ms", path)
