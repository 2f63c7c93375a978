"""One step of constrained beam search: 400 beams on nodes of one depth, and the mask alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.catalogues import CODES, LEVELS, make_trie
from benchmarks.contest import Contest, Run
from benchmarks.machine import Floors
from benchmarks.output import Row, number, plot_bars
from benchmarks.plain_decoding import Found, Static
from benchmarks.trie_decode import BEAMS, REQUESTS, ranks_alike
from glass_kernels import SidTrie, trie_beam_step, use_backend


@dataclass(frozen=True)
class Setup:
    """One row of the table."""

    items: int
    level: int
    mask: str = "before"

    def columns(self) -> Row:
        return {"items": self.items, "level": self.level, "mask": self.mask}


QUICK = [Setup(1_000_000, level) for level in (1, 2)]
FULL = [
    Setup(items, level, mask)
    for items in (12_000, 1_000_000)
    for level in range(1, LEVELS)
    for mask in ("before", "after")
]


@dataclass(frozen=True)
class Beams:
    """What a step is given."""

    trie: SidTrie
    logits: Tensor
    scores: Tensor
    nodes: Tensor
    level: int
    mask_before_softmax: bool


def make_inputs(setup: Setup, num_batches: int = 2) -> list[Beams]:
    """Scores best first, nodes anywhere in their depth."""
    trie = make_trie("random", setup.items)
    batches = []
    for seed in range(num_batches):
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(REQUESTS, BEAMS, CODES, generator=generator)
        scores = torch.randn(REQUESTS, BEAMS, generator=generator).sort(descending=True).values - 5
        count = trie.nodes_per_depth[setup.level]
        nodes = torch.randint(count, (REQUESTS, BEAMS), generator=generator).int()
        batches.append(Beams(trie, logits, scores, nodes, setup.level, setup.mask == "before"))
    return batches


def step(batch: Beams) -> Found:
    scores, nodes, _, _ = trie_beam_step(
        batch.logits, batch.scores, batch.nodes, batch.trie, batch.level, BEAMS,
        mask_before_softmax=batch.mask_before_softmax,
    )  # fmt: skip
    return scores, nodes


def step_on(name: str, batch: Beams) -> Found:
    with use_backend(name):
        return step(batch)


def make_contest(batches: list[Beams]) -> Contest:
    static = Static.of(batches[0].trie)

    def plain(batch: Beams, *, narrow: bool) -> Found:
        run = static.narrow_step if narrow else static.step
        best, states, _, _ = run(
            batch.level, batch.logits, batch.scores, batch.nodes.long(), BEAMS,
            batch.mask_before_softmax,
        )  # fmt: skip
        return best, states

    others: dict[str, Run] = {
        "STATIC": partial(plain, narrow=False),
        "our eager": partial(step_on, "eager"),
    }
    return Contest(
        batches,
        reference=partial(step_on, "reference"),
        ours=step,
        plain={"STATIC, narrow": partial(plain, narrow=True)},
        others=others,
        yardsticks={"mask alone": lambda batch: static.legal(batch.level, batch.nodes.long())},
        agree=ranks_alike,
        ours_agree=ranks_alike,
        warm_calls=3,
    )


def floor_bytes(batch: Beams) -> int:
    """As of a whole decode; see there."""
    offsets, nodes = batch.trie.child_offsets[batch.level], batch.nodes.long()
    children = int((offsets[nodes + 1] - offsets[nodes]).sum())
    read = children if batch.mask_before_softmax else batch.logits.numel()
    return 4 * (read + children + 8 * nodes.numel())


def run(quick: bool, floors: Floors) -> list[Row]:
    """Rows of the table; RuntimeError if a side differs from the reference or cannot run."""
    rows = []
    for setup in QUICK if quick else FULL:
        batches = make_inputs(setup)
        times = make_contest(batches).run(seconds=0.4 if quick else 2.0, least=3 if quick else 5)
        floor = floors.ms(num_bytes=floor_bytes(batches[0]))
        measured: Row = {"floor ms": floor, "ours / floor": number(times["ours ms"]) / floor}
        rows.append({**setup.columns(), **times, **measured})
    return rows


def plot(rows: list[Row], path: Path) -> None:
    sides = ("floor ms", "ours ms", "mask alone ms", "our eager ms", "eager ms", "STATIC ms")
    plot_bars(rows, ("items", "level", "mask", "threads"), sides, "ms", path)
