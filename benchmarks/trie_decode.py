"""Whole decode of a fixed-logit model over a catalogue: 8 requests, beam 50, 4 levels of 256."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from pathlib import Path

import torch

from benchmarks.agreement import DiffersError
from benchmarks.catalogues import Decoding, make_decoding, make_sids, make_trie
from benchmarks.contest import Contest, Run
from benchmarks.machine import Floors
from benchmarks.output import Row, number, plot_bars
from benchmarks.plain_decoding import NEVER, Found, PrefixTable, Static, start, trace
from glass_kernels import SidTrie, trie_beam_step, use_backend

REQUESTS, BEAMS, BATCHES = 8, 50, 2
ROUNDING = 1e-4
"""Sums of four log-probabilities that float32 may swap; also the distance of equal ones."""
MOST_PREFIXES = 12_000
"""Items up to which prefixes are asked for in Python."""


@dataclass(frozen=True)
class Setup:
    """One row of the table."""

    items: int
    sids: str = "random"
    mask: str = "before"
    """The softmax, that is over legal children alone; or "after"."""
    caches: str = "warm"

    def columns(self) -> Row:
        return {"items": self.items, "SIDs": self.sids, "mask": self.mask, "caches": self.caches}


SIZES = (12_000, 100_000, 1_000_000)
QUICK = [Setup(12_000), Setup(1_000_000), Setup(1_000_000, mask="after")]
FULL = [
    *(Setup(size, sids, mask) for size in SIZES for sids in ("random", "clustered")
      for mask in ("before", "after")),
    *(Setup(size, caches="empty") for size in SIZES),
]  # fmt: skip


def decode(batch: Decoding) -> Found:
    """As a generator calls the op: level after level."""
    scores, nodes = start(batch)
    steps = []
    for level, logits in enumerate(batch.logits):
        scores, nodes, parents, codes = trie_beam_step(
            logits, scores, nodes, batch.trie, level, batch.beams,
            mask_before_softmax=batch.mask_before_softmax,
        )  # fmt: skip
        steps.append((parents, codes))
    return scores, trace(steps)


def on_backend(name: str, run: Callable[[Decoding], Found], batch: Decoding) -> Found:
    with use_backend(name):
        return run(batch)


def ranks_alike(name: str, got: Found, truth: Found, _: object) -> None:
    """Equal scores but for rounding, and equal SIDs where no other is as good."""
    scores, sids = (part.to(torch.float64) for part in truth)
    if got[0].shape != scores.shape or got[1].shape != sids.shape:
        raise DiffersError(f"{name}: another shape than the reference's")
    dead = scores == NEVER
    error = torch.where(dead & (got[0] == NEVER), 0.0, (got[0] - scores).abs())
    if not float(error.max()) <= ROUNDING:  # also where it is not a number
        raise DiffersError(f"{name}: scores differ from the reference by {float(error.max()):.1e}")
    apart = (scores[:, :-1] - scores[:, 1:]) > ROUNDING
    edge = dead.new_ones(len(scores), 1)
    # the last one's rival is not among those that were kept
    alone = torch.cat((edge, apart), 1) & torch.cat((apart, ~edge), 1) & ~dead
    if not torch.equal(got[1][alone], truth[1][alone]):
        raise DiffersError(f"{name}: SIDs differ from the reference")


def floor_bytes(batch: Decoding) -> int:
    """Logits of legal children (or all), their codes, two offsets a beam; beams read and written.

    Of the beams that a decode comes to, all of them looked at.
    """
    scores, nodes = start(batch)
    total = 0
    for level, logits in enumerate(batch.logits):
        alive = nodes[nodes >= 0].long()
        offsets = batch.trie.child_offsets[level]
        children = int((offsets[alive + 1] - offsets[alive]).sum())
        read = children if batch.mask_before_softmax else len(alive) * logits.shape[2]
        total += 4 * (read + children + 2 * len(alive) + 2 * nodes.numel())
        scores, nodes, _, _ = trie_beam_step(
            logits, scores, nodes, batch.trie, level, batch.beams,
            mask_before_softmax=batch.mask_before_softmax,
        )  # fmt: skip
        total += 16 * nodes.numel()
    return total


def is_clear(batch: Decoding) -> bool:
    """Whether at no level rounding decides which beam is the last that is kept.

    All that follows would differ between sides that are both right.
    """
    scores, nodes = start(batch)
    for level, logits in enumerate(batch.logits):
        scores, nodes, _, _ = trie_beam_step(
            logits.double(), scores, nodes, batch.trie, level, batch.beams + 1,
            mask_before_softmax=batch.mask_before_softmax,
        )  # fmt: skip
        if bool((scores[:, -2] - scores[:, -1] <= ROUNDING / 10).any()):
            return False
        scores, nodes = scores[:, :-1], nodes[:, :-1]
    return True


def make_inputs(setup: Setup, trie: SidTrie) -> list[Decoding]:
    before = setup.mask == "before"
    drawn = (make_decoding(trie, REQUESTS, BEAMS, before, seed) for seed in count())
    return list(islice(filter(is_clear, drawn), BATCHES))


def make_contest(setup: Setup, batches: list[Decoding]) -> Contest:
    static = Static.of(batches[0].trie)
    others: dict[str, Run] = {
        "STATIC": partial(static.decode, narrow=False),
        "our eager": partial(on_backend, "eager", decode),
    }
    return Contest(
        batches,
        reference=partial(on_backend, "reference", decode),
        ours=decode,
        plain={"STATIC, narrow": partial(static.decode, narrow=True)},
        others=others,
        agree=ranks_alike,
        ours_agree=ranks_alike,
        warm_calls=3 if setup.caches == "warm" else 0,
    )


def prefix_ms(setup: Setup, batches: list[Decoding]) -> float | None:
    """Of the dict of prefixes: a few rounds of its own, since it takes a thousand times as long."""
    if setup.items > MOST_PREFIXES or setup.caches != "warm":
        return None
    table = PrefixTable(make_sids(setup.sids, setup.items))
    contest = replace(make_contest(setup, batches), ours=table.decode, plain={}, others={})
    return number(replace(contest, warm_calls=0).times(seconds=0.0, least=2)["ours ms"])


def run(quick: bool, floors: Floors) -> list[Row]:
    """Rows of the table; RuntimeError if a side differs from the reference or cannot run."""
    rows = []
    for setup in QUICK if quick else FULL:
        batches = make_inputs(setup, make_trie(setup.sids, setup.items))
        contest = make_contest(setup, batches)
        times = contest.run(seconds=0.4 if quick else 3.0, least=3 if quick else 5)
        floor = floors.ms(num_bytes=floor_bytes(batches[0]))
        measured: Row = {"floor ms": floor, "ours / floor": number(times["ours ms"]) / floor}
        measured["prefix dict ms"] = prefix_ms(setup, batches)
        rows.append({**setup.columns(), **times, **measured})
    return rows


def plot(rows: list[Row], path: Path) -> None:
    sides = ("floor ms", "ours ms", "our eager ms", "eager ms", "STATIC ms", "prefix dict ms")
    plot_bars(rows, ("items", "SIDs", "mask", "caches", "threads"), sides, "ms", path)
