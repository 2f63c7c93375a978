"""Gated fusion: against plain and compiled PyTorch, forward and forward + backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear

from benchmarks.agreement import float32_close
from benchmarks.contest import Contest, Run
from benchmarks.hard_search import backend_of
from benchmarks.machine import Floors
from benchmarks.moving import moved
from benchmarks.output import Row, number, plot_bars
from glass_kernels import gated_fusion

BATCHES = 2
ROWS = 12_288
"""A batch of 512 histories with 8 targets of 3 positions."""


@dataclass(frozen=True)
class Setup:
    """One row of the table."""

    backward: bool
    width: int = 96
    rows: int = ROWS
    absent: float = 1 / 3
    """Part of the rows that have no retrieval, as the first of 3 positions never has."""
    compiled: bool = True

    def columns(self) -> Row:
        return {
            "pass": "both" if self.backward else "forward", "rows": self.rows, "d": self.width,
            "absent": f"{self.absent:.0%}",
        }  # fmt: skip


QUICK = [Setup(backward=True, rows=ROWS // 2, compiled=False)]
FULL = [
    *(Setup(backward, width) for width in (96, 256) for backward in (False, True)),
    *(Setup(backward, absent=0.0) for backward in (False, True)),
    Setup(False, rows=20, absent=0.0),  # one user's beams in a decoder layer
]


@dataclass(frozen=True)
class Fusion:
    """The operation's input, and the gradient of its output."""

    short: Tensor
    retrieved: Tensor
    weight: Tensor
    bias: Tensor
    has: Tensor
    """bool [N]"""
    grad: Tensor

    @property
    def trained(self) -> tuple[Tensor, ...]:
        return self.short, self.retrieved, self.weight, self.bias

    def double(self) -> Fusion:
        """The same in float64."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in values.items():
            if value.is_floating_point():
                values[name] = value.detach().double().requires_grad_(value.requires_grad)
        return Fusion(**values)


def make_fusion(setup: Setup, seed: int) -> Fusion:
    generator = torch.Generator().manual_seed(seed)
    rows, width = setup.rows, setup.width
    short, retrieved, grad = (torch.randn(rows, width, generator=generator) for _ in range(3))
    weight = torch.randn(width, 2 * width, generator=generator) * (2 * width) ** -0.5
    bias = torch.randn(width, generator=generator)
    for trained in (short, retrieved, weight, bias):
        trained.requires_grad_()
    positions = torch.arange(rows) % 3 != 0
    has = positions if setup.absent else torch.ones(rows, dtype=torch.bool)
    return Fusion(short, retrieved, weight, bias, has, grad)


Form = Callable[..., Tensor]


def by_lerp(short: Tensor, retrieved: Tensor, weight: Tensor, bias: Tensor, has: Tensor) -> Tensor:
    gate = torch.sigmoid(linear(torch.cat((short, retrieved), -1), weight, bias))
    return torch.lerp(short, retrieved, gate * has[:, None])


def by_where(short: Tensor, retrieved: Tensor, weight: Tensor, bias: Tensor, has: Tensor) -> Tensor:
    gate = torch.sigmoid(linear(torch.cat((short, retrieved), -1), weight, bias))
    return torch.where(has[:, None], torch.lerp(short, retrieved, gate), short)


def by_halves(
    short: Tensor, retrieved: Tensor, weight: Tensor, bias: Tensor, has: Tensor
) -> Tensor:
    """Two products instead of a concatenation."""
    near, far = weight.chunk(2, dim=1)
    gate = torch.sigmoid(linear(short, near, bias) + linear(retrieved, far))
    return torch.lerp(short, retrieved, gate * has[:, None])


def by_rows(short: Tensor, retrieved: Tensor, weight: Tensor, bias: Tensor, has: Tensor) -> Tensor:
    """Only the rows that have retrieval."""
    rows = has.nonzero()[:, 0]
    near, far = short[rows], retrieved[rows]
    gate = torch.sigmoid(linear(torch.cat((near, far), -1), weight, bias))
    return short.index_copy(0, rows, torch.lerp(near, far, gate))


FORMS: dict[str, Form] = {
    "cat + lerp": by_lerp,
    "cat + where": by_where,
    "two products": by_halves,
    "rows": by_rows,
}
COMPILED = ("cat + lerp", "two products")


def ours(*inputs: Tensor, backend: str | None = None) -> Tensor:
    out = gated_fusion(*inputs, backend=backend)
    assert isinstance(out, Tensor)
    return out


def passes(function: Form, backward: bool) -> Run:
    """The output, or output and gradients of both contexts, weight and bias."""

    def forward(batch: Fusion) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (function(*batch.trained, batch.has),)

    def both(batch: Fusion) -> tuple[Tensor, ...]:
        out = function(*batch.trained, batch.has)
        return (out.detach(), *torch.autograd.grad(out, batch.trained, batch.grad))

    return both if backward else forward


def make_contest(setup: Setup, num_batches: int = BATCHES, *, device: str = "cpu") -> Contest:
    run = partial(passes, backward=setup.backward)
    literal = run(partial(ours, backend="reference"))
    compiled: dict[str, Run] = {}
    if setup.compiled:
        torch.compiler.reset()  # what was compiled for another number of threads
        for name in COMPILED:
            compiled[name] = run(torch.compile(FORMS[name], dynamic=False, fullgraph=True))
    return Contest(
        [moved(make_fusion(setup, seed), device) for seed in range(num_batches)],
        reference=lambda batch: literal(batch.double()),
        ours=run(ours),
        plain={name: run(form) for name, form in FORMS.items()},
        compiled=compiled,
        agree=float32_close,
        ours_agree=float32_close,
        warm_calls=0 if setup.rows > 1_000 else 50,
    )


def floor_of(floors: Floors, setup: Setup, batch: Fusion) -> float:
    """Milliseconds: the products of the rows that have retrieval, or reading and writing all."""
    rows, width = int(batch.has.sum()), setup.width
    passed = 3 if setup.backward else 1  # and then the products of both gradients
    num_bytes = 4.0 * (7 if setup.backward else 3) * batch.short.numel()
    return floors.ms(num_bytes=num_bytes, flops=passed * 4.0 * rows * width * width)


def run(quick: bool, floors: Floors) -> list[Row]:
    """Rows of the table; RuntimeError if a side differs from the reference or cannot run."""
    rows = []
    for setup in QUICK if quick else FULL:
        contest = make_contest(setup)
        times = contest.run(seconds=0.4 if quick else 3.0, least=3 if quick else 5)
        floor = floor_of(floors, setup, contest.batches[0])
        measured: Row = {"floor ms": floor, "ours / floor": number(times["ours ms"]) / floor}
        about: Row = {"backend": backend_of("gated_fusion")}
        rows.append({**setup.columns(), **about, **times, **measured, **contest.memory(times)})
    return rows


def plot(rows: list[Row], path: Path) -> None:
    sides = ("floor ms", "ours ms", "compiled ms", "eager ms, pages kept", "eager ms")
    plot_bars(rows, ("pass", "rows", "d", "absent", "threads"), sides, "ms", path)
