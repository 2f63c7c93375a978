"""SID-Tier from item vectors: C++ against plain and compiled PyTorch, time and peak memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.agreement import tiers_close
from benchmarks.contest import Contest
from benchmarks.eager import compiled_forms, vector_forms
from benchmarks.histories import Batch, make_batch, make_edges, make_vectors
from benchmarks.machine import Floors
from benchmarks.moving import moved
from benchmarks.output import Row, number, plot_bars
from glass_kernels import sid_tier_from_embeddings

BATCHES = 2
SHARE = 2e-5
"""Part of the pairs that float32 similarities may put into the next tier; about 1e-6 are."""


@dataclass(frozen=True)
class Setup:
    """One row of the table."""

    tiers: int
    items: int = 13_000
    users: int = 64
    dim: int = 128
    codes: int = 128

    def columns(self) -> Row:
        return {
            "B": self.users, "D": self.dim, "K": self.codes, "N": self.tiers, "items": self.items
        }  # fmt: skip


QUICK = [Setup(tiers=20, users=32)]
FULL = [Setup(tiers=n, items=v) for v in (13_000, 1_000_000) for n in (4, 20)]


def floor_of(floors: Floors, setup: Setup, events: int) -> float:
    """Milliseconds: the product of all events with all codes, or reading the events' vectors."""
    num_bytes = events * (4 * setup.dim + 4) + 4 * setup.users * setup.codes * setup.tiers
    return floors.ms(num_bytes=num_bytes, flops=2.0 * events * setup.dim * setup.codes)


def make_contest(
    setup: Setup, *, compiled: bool = True, device: str = "cpu", backend: str | None = "cpp"
) -> Contest:
    vectors, prototypes = moved(make_vectors(setup.items, setup.dim, setup.codes), device)
    edges = make_edges(setup.tiers).to(device)
    batches = [
        moved(make_batch("paper", setup.users, setup.items, seed), device)
        for seed in range(BATCHES)
    ]

    def run(batch: Batch, backend: str | None) -> Tensor:
        return sid_tier_from_embeddings(
            batch.ids, batch.offsets, vectors, prototypes, edges, backend=backend
        )

    plain = vector_forms(vectors, prototypes, edges, max(batch.waste for batch in batches))
    return Contest(
        batches,
        reference=lambda batch: run(batch, "reference"),
        ours=lambda batch: run(batch, backend),
        plain=plain,
        compiled=compiled_forms(plain) if compiled else {},
        agree=tiers_close(SHARE),
    )


def run(quick: bool, floors: Floors) -> list[Row]:
    """Rows of the table; RuntimeError if a side differs from the reference or cannot run."""
    rows = []
    for setup in QUICK if quick else FULL:
        contest = make_contest(setup, compiled=not quick)
        batch = contest.batches[0]
        times = contest.run(seconds=1.0 if quick else 6.0, least=3 if quick else 5)
        floor = floor_of(floors, setup, len(batch.ids))
        memory = contest.memory(times)
        distinct = int((torch.bincount(batch.ids) > 0).sum())
        events: Row = {"events": len(batch.ids), "distinct": distinct}
        measured: Row = {"floor ms": floor, "ours / floor": number(times["ours ms"]) / floor}
        rows.append({**setup.columns(), **events, **times, **measured, **memory})
    return rows


def plot(rows: list[Row], path: Path) -> None:
    sides = ("floor ms", "ours ms", "compiled ms", "eager ms, pages kept", "eager ms")
    plot_bars(rows, ("N", "items", "threads"), sides, "ms", path)
