"""Attention to retrieved items: against gather + project + scaled_dot_product_attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear

from benchmarks.agreement import float32_close
from benchmarks.contest import Contest, Run
from benchmarks.eager_attention import FORMS, Layer, projected_rows
from benchmarks.hard_search import TAU, backend_of
from benchmarks.histories import make_batch
from benchmarks.machine import Floors
from benchmarks.moving import moved
from benchmarks.output import Row, number, plot_bars
from benchmarks.searches import LEVELS, make_codes, make_neighbours, make_searches
from glass_kernels import bucket_history, hard_search, hard_search_attention

BATCHES, ITEMS = 2, 13_000
WIDTH, HEADS, HEAD_DIM = 96, 6, 32
"""Of the released model."""


@dataclass(frozen=True)
class Setup:
    """One row of the table."""

    users: int = 64
    sets: int = 8
    positions: int = 3
    max_items: int = 100
    codes: int = 64
    backward: bool = False

    def columns(self) -> Row:
        return {
            "pass": "both" if self.backward else "forward", "B": self.users, "S": self.sets,
            "P": self.positions, "M": self.max_items, "Vt": sum(LEVELS[self.codes]),
        }  # fmt: skip


TRAINING = Setup()
DECODING = Setup(sets=20, positions=1)
ONE_USER = Setup(users=1, sets=20, positions=1)
QUICK = [Setup(users=4), Setup(users=4, backward=True)]
FULL = [
    *(Setup(max_items=m, backward=both) for m in (30, 100) for both in (False, True)),
    *(Setup(codes=256, backward=both) for both in (False, True)),
    *(Setup(sets=1, max_items=30, backward=both) for both in (False, True)),
    DECODING,
    ONE_USER,
]


def make_layer(setup: Setup, seed: int) -> Layer:
    """What the searches of skewed histories retrieve, under random weights of T5's scale."""
    generator = torch.Generator().manual_seed(seed)
    codes = make_codes(ITEMS, LEVELS[setup.codes])
    histories = make_batch("paper", setup.users, ITEMS, seed)
    sid1 = codes[histories.ids, 0]
    searches = make_searches(histories, sid1, setup.codes, setup.sets, seed)
    index = bucket_history(sid1, histories.offsets, setup.codes)
    positions, lengths = hard_search(
        index, searches.query, max_items=setup.max_items,
        neighbours=make_neighbours(setup.codes, 4), min_items=TAU,
    )  # fmt: skip
    sizes = torch.tensor((0, *LEVELS[setup.codes][:-1])).cumsum(0)
    shape = (setup.users, setup.sets, setup.positions, HEADS, HEAD_DIM)

    def normal(*size: int, std: float = 1.0) -> Tensor:
        return torch.randn(size, generator=generator) * std

    keys, values = (normal(HEADS * HEAD_DIM, WIDTH, std=WIDTH**-0.5) for _ in range(2))
    return Layer(
        normal(*shape, std=HEAD_DIM**-0.5).requires_grad_(),
        keys.requires_grad_(),
        values.requires_grad_(),
        normal(sum(LEVELS[setup.codes]), WIDTH),
        codes[histories.ids].long() + sizes,
        positions,
        lengths,
        normal(*shape),
    )


def over_tables(layer: Layer, backend: str | None) -> Tensor:
    """Projects the token table, then the operation: both are timed as ours."""
    keys, values = (
        torch.unflatten(linear(layer.embeddings, weight), -1, layer.query.shape[-2:])
        for weight in (layer.key_weight, layer.value_weight)
    )
    return hard_search_attention(
        layer.query, keys, values, layer.tokens, layer.positions, layer.lengths, backend=backend
    )


def passes(function: Callable[[Layer], Tensor], backward: bool) -> Run:
    """The output, or output and gradients of query and both weights."""

    def forward(layer: Layer) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (function(layer),)

    def both(layer: Layer) -> tuple[Tensor, ...]:
        out = function(layer)
        return (out.detach(), *torch.autograd.grad(out, layer.trained, layer.grad))

    return both if backward else forward


def make_contest(setup: Setup, num_batches: int = BATCHES, *, device: str = "cpu") -> Contest:
    run = partial(passes, backward=setup.backward)
    literal = run(partial(over_tables, backend="reference"))
    return Contest(
        [moved(make_layer(setup, seed), device) for seed in range(num_batches)],
        reference=lambda layer: literal(layer.double()),
        ours=run(partial(over_tables, backend=None)),
        plain={name: run(form) for name, form in FORMS.items()},
        others={
            "projected rows": run(projected_rows),
            "dense bag": run(partial(over_tables, backend="eager")),
        },
        agree=float32_close,
        ours_agree=float32_close,
        warm_calls=0 if setup.users > 1 else 10,
    )


def work(setup: Setup, layer: Layer) -> tuple[float, float]:
    """Bytes and operations that cannot be avoided: distinct tokens of distinct sets.

    The bytes: queries and outputs once, and the tokens of what was retrieved. The products: the
    table's projections, and scores and sums of every query with every distinct token of its set;
    the backward has twice the products (and the scores once more, which are not counted).
    """
    slots = torch.arange(layer.positions.shape[2], device=layer.positions.device)
    filled = slots < layer.lengths[..., None]
    tokens = layer.tokens[layer.positions.clamp(min=0)]
    shape = (*layer.lengths.shape, len(layer.embeddings) + 1)
    marks = layer.lengths.new_zeros(shape, dtype=torch.bool)
    tokens = torch.where(filled[..., None], tokens, len(layer.embeddings))
    marks.scatter_(2, tokens.flatten(2), True)
    distinct = int(marks[..., :-1].sum())
    inner = HEADS * HEAD_DIM
    products = 4.0 * inner * (distinct * setup.positions + len(layer.embeddings) * WIDTH)
    num_bytes = 8.0 * layer.query.numel() + 8.0 * tokens.numel()
    return (2 if setup.backward else 1) * num_bytes, (3 if setup.backward else 1) * products


def run(quick: bool, floors: Floors) -> list[Row]:
    """Rows of the table; RuntimeError if a side differs from the reference or cannot run."""
    rows = []
    for setup in QUICK if quick else FULL:
        contest = make_contest(setup, 1 if quick else BATCHES)
        times = contest.run(seconds=0.4 if quick else 3.0, least=3 if quick else 5)
        num_bytes, flops = work(setup, contest.batches[0])
        floor = floors.ms(num_bytes=num_bytes, flops=flops)
        measured: Row = {"floor ms": floor, "ours / floor": number(times["ours ms"]) / floor}
        items = float(contest.batches[0].lengths.float().mean())
        about: Row = {"items a set": items, "backend": backend_of("hard_search_attention")}
        rows.append({**setup.columns(), **about, **times, **measured, **contest.memory(times)})
    return rows


def plot(rows: list[Row], path: Path) -> None:
    sides = ("floor ms", "ours ms", "dense bag ms", "projected rows ms", "eager ms, pages kept")
    plot_bars(rows, ("pass", "B", "S", "P", "M", "Vt", "threads"), (*sides, "eager ms"), "ms", path)
