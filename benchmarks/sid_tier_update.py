"""Streaming update of SID-Tier counts: events a second, against plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.agreement import check_equal
from benchmarks.histories import make_events, make_table
from benchmarks.machine import Floors
from benchmarks.output import Row, plot_bars
from benchmarks.timing import Timing, interleaved
from glass_kernels import lengths_to_offsets, library, sid_tier, sid_tier_update_

ITEMS, CODES = 13_000, 128
CALLS = {1: 2_000, 64: 400, 4096: 20}
"""Events in a call -> calls that are timed together; as many different batches."""

Update = Callable[[Tensor, Tensor, Tensor], object]


@dataclass(frozen=True)
class Setup:
    users: int
    tiers: int
    events: int


QUICK = [Setup(32, 20, events) for events in CALLS]
FULL = [
    *(Setup(32, tiers, events) for tiers in (4, 20) for events in CALLS),  # in the L2 cache
    *(Setup(16_384, 20, events) for events in CALLS),  # in no cache
]


@dataclass
class Stream:
    """Calls [C, E] of users and items, and the counts that they change."""

    users: Tensor
    items: Tensor
    counts: Tensor

    def apply(self, update: Update) -> None:
        for users, items in zip(self.users, self.items, strict=True):
            update(self.counts, users, items)


def make_stream(setup: Setup) -> Stream:
    generator = torch.Generator().manual_seed(0)
    shape = (CALLS[setup.events], setup.events)
    total = shape[0] * shape[1]
    users = torch.randint(setup.users, (total,), generator=generator)
    items = make_events(total, ITEMS, generator)
    counts = torch.zeros(setup.users, CODES, setup.tiers, dtype=torch.int32)
    return Stream(users.view(shape), items.view(shape), counts)


def plain_update(table: Tensor, step: int) -> Update:
    """What a good practitioner writes: one `scatter_add_` for all codes of the events."""
    one, codes = torch.tensor(step, dtype=torch.int32), torch.arange(table.shape[1])

    def update(counts: Tensor, users: Tensor, items: Tensor) -> None:
        tiers = table.index_select(0, items)
        index = (users[:, None] * counts.shape[1] + codes) * counts.shape[2] + tiers
        counts.view(-1).scatter_add_(0, index.view(-1), one.expand(index.numel()))

    return update


def recount(stream: Stream, table: Tensor) -> Tensor:
    """Counts of all events, by the reference of the table path."""
    users, items = stream.users.flatten(), stream.items.flatten()
    lengths = torch.bincount(users, minlength=len(stream.counts))
    offsets = lengths_to_offsets(lengths)
    tiers = stream.counts.shape[2]
    ordered = items[users.argsort(stable=True)]
    counts = sid_tier(ordered, offsets, table, tiers, normalize=False, backend="reference")
    return counts.to(torch.int32)


def need_library() -> None:
    """RuntimeError where the public function would quietly time its reference."""
    loaded, why = library.load("cpp")
    if not loaded:
        raise RuntimeError(f"sid_tier_update_: no C++ library: {why}")


def sides_of(table: Tensor) -> dict[str, Update]:
    return {
        "add": lambda c, u, i: sid_tier_update_(c, u, i, table),
        "remove": lambda c, u, i: sid_tier_update_(c, u, i, table, remove=True),
        "eager": plain_update(table, 1),
        "eager remove": plain_update(table, -1),
    }


def check(stream: Stream, table: Tensor, sides: dict[str, Update]) -> None:
    """Adding all is a recount, and removing all leaves nothing; raises DiffersError."""
    truth = recount(stream, table)
    for add, remove in (("add", "remove"), ("eager", "eager remove")):
        stream.apply(sides[add])
        check_equal(f"sid_tier_update_ ({add})", stream.counts, truth)
        stream.apply(sides[remove])
        check_equal(f"sid_tier_update_ ({remove})", stream.counts, torch.zeros_like(truth))


def run(quick: bool, floors: Floors) -> list[Row]:
    """Rows of the table; RuntimeError if a side differs from a recount."""
    need_library()
    rows = []
    for setup in QUICK if quick else FULL:
        table, stream = make_table(ITEMS, CODES, setup.tiers), make_stream(setup)
        sides = sides_of(table)
        check(stream, table, sides)
        times = _in_turn(stream, sides, seconds=1.0 if quick else 4.0)
        total = stream.users.numel()
        rate = {name: 1e3 * total / timing.ms for name, timing in times.items()}
        floor = floors.ms(num_bytes=total * CODES * (1 + 2 * 4))
        rows.append(
            {
                "users": setup.users, "K": CODES, "N": setup.tiers, "events a call": setup.events,
                "counts MiB": 4 * setup.users * CODES * setup.tiers / 2**20,
                **{f"{name} events/s": rate[name] for name in times},
                **{f"{name} events/s {q}": 1e3 * total / getattr(timing, other)
                   for name, timing in times.items() for q, other in (("q1", "q3"), ("q3", "q1"))},
                "add / eager": rate["add"] / rate["eager"],
                "remove / eager": rate["remove"] / rate["eager remove"],
                "add time / floor": times["add"].ms / floor,
            }
        )  # fmt: skip
    return rows


def _in_turn(stream: Stream, sides: dict[str, Update], seconds: float) -> dict[str, Timing]:
    """Each removal follows its addition, so that counts never grow and never fall below zero."""
    counts = {"add": stream.counts, "eager": stream.counts.clone()}
    counts |= {"remove": counts["add"], "eager remove": counts["eager"]}

    def call(name: str, _: int) -> None:
        Stream(stream.users, stream.items, counts[name]).apply(sides[name])

    runs = {name: partial(call, name) for name in sides}
    return interleaved(runs, seconds=seconds, evict=False, rotate=False)


def plot(rows: list[Row], path: Path) -> None:
    sides = ("add events/s", "remove events/s", "eager events/s", "eager remove events/s")
    plot_bars(rows, ("users", "N", "events a call", "threads"), sides, "events a second", path)
