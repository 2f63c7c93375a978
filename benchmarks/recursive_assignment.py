"""A recursive-assignment network of IntRR, item side: against literal and plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import relu

from benchmarks import codebook_assign
from benchmarks.agreement import float32_close
from benchmarks.contest import Contest, Run
from benchmarks.machine import Floors
from benchmarks.output import Row, number, plot_bars
from glass_kernels.modules import RecursiveAssignment

BATCHES = 2
DECIDED = 1e-3
"""Least gap of the two largest logits: rounding must not decide which code a row continues with."""
CORNER = 1e-5
"""Least size of what a ReLU takes: nor which way its gradient goes."""


@dataclass(frozen=True)
class Setup:
    """One row of the table."""

    rows: int = 2_048
    width: int = 128
    codes: int = 256
    levels: int = 4
    compiled: bool = True

    def columns(self) -> Row:
        return {"rows": self.rows, "d": self.width, "K": self.codes, "L": self.levels}

    @property
    def flops(self) -> float:
        """Of the products with codebooks and weights, and of both their gradients."""
        codebooks = 5 * self.levels * self.codes * self.width
        weights = 3 * (self.levels - 1) * 3 * self.width * 2 * self.width
        return 2.0 * self.rows * (codebooks + weights)


QUICK = [Setup(compiled=False)]
FULL = [Setup(), Setup(width=256, compiled=False), Setup(rows=20_480, compiled=False)]


@dataclass(frozen=True)
class Items:
    """The network and a batch of items; all trained parameters are the network's and guidance."""

    network: RecursiveAssignment
    guidance: Tensor
    """[R, d]"""
    codes: Tensor
    """[R, L]"""
    of_token: Tensor
    """[R, d], the token's gradient; that of the loss is 1 / R."""

    @property
    def trained(self) -> list[Tensor]:
        return [self.guidance, *self.network.parameters()]

    def double(self) -> Items:
        """The same in float64."""
        network = RecursiveAssignment(self.network.d_model, self.network.codebook_sizes).double()
        network.load_state_dict(self.network.state_dict())
        guidance = self.guidance.detach().double().requires_grad_()
        return Items(network, guidance, self.codes, self.of_token.double())


def decided_rows(network: RecursiveAssignment, guidance: Tensor) -> Tensor:
    """bool [R]: no code is nearly another one, and no hidden unit nearly at the ReLU's corner."""
    kept = torch.ones(len(guidance), dtype=torch.bool)
    query, context = guidance, guidance
    with torch.no_grad():
        for level, codebook in enumerate(network.codebooks):
            if level > 0:
                follow = network.query(level)
                hidden = follow.inner(torch.cat((context, guidance), dim=-1))
                kept &= hidden.abs().amin(1) > CORNER
                query = follow.outer(relu(hidden))
            logits = query @ codebook.T
            largest = logits.topk(2, dim=1).values
            kept &= largest[:, 0] - largest[:, 1] > DECIDED
            context = codebook[logits.argmax(1)]
    return kept


def make_items(setup: Setup, seed: int) -> Items:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    rows, width = setup.rows, setup.width
    network = RecursiveAssignment(width, [setup.codes] * setup.levels)
    guidance = torch.randn(rows + rows // 4, width, generator=generator)
    guidance = guidance[decided_rows(network, guidance)][:rows].clone()
    assert len(guidance) == rows
    codes = torch.randint(setup.codes, (rows, setup.levels), generator=generator)
    of_token = torch.randn(rows, width, generator=generator) / rows
    return Items(network, guidance.requires_grad_(), codes, of_token)


Form = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Of queries, a codebook and targets: assigned vectors and losses."""


def network_of(assign: Form) -> Callable[[Items], tuple[Tensor, Tensor]]:
    """The network as its equations are written, with context and guidance concatenated."""

    def run(batch: Items) -> tuple[Tensor, Tensor]:
        network, query = batch.network, batch.guidance
        vectors: list[Tensor] = []
        losses: list[Tensor] = []
        for level, codebook in enumerate(network.codebooks):
            if level > 0:
                follow = network.query(level)
                joined = torch.cat((vectors[-1], batch.guidance), dim=-1)
                query = follow.outer(relu(follow.inner(joined)))
            vector, loss = assign(query, codebook, batch.codes[:, level])
            vectors.append(vector)
            losses.append(loss)
        return torch.stack(vectors).sum(0), torch.stack(losses).sum(0)

    return run


def ours(batch: Items, backend: str | None = None) -> tuple[Tensor, Tensor]:
    token, _, loss = batch.network(batch.guidance, batch.codes, backend=backend)
    return token, loss


def both_passes(function: Callable[[Items], tuple[Tensor, Tensor]]) -> Run:
    """Tokens, losses and all gradients."""

    def run(batch: Items) -> tuple[Tensor, ...]:
        results = function(batch)
        of_loss = torch.full_like(results[1], 1 / len(results[1]))
        grads = torch.autograd.grad(results, batch.trained, (batch.of_token, of_loss))
        return (*(result.detach() for result in results), *grads)

    return run


def agree(name: str, got: Any, truth: Any, batch: Items) -> None:
    float32_close(name, got, truth, batch)


def make_contest(setup: Setup, num_batches: int = BATCHES) -> Contest:
    forms = {name: network_of(form) for name, form in codebook_assign.FORMS.items()}
    compiled: dict[str, Run] = {}
    if setup.compiled:
        torch.compiler.reset()  # what was compiled for another number of threads
        form = torch.compile(network_of(codebook_assign.by_one_softmax), fullgraph=True)
        compiled["one log-softmax"] = both_passes(form)
    reference = both_passes(partial(ours, backend="reference"))
    return Contest(
        [make_items(setup, seed) for seed in range(num_batches)],
        reference=lambda batch: reference(batch.double()),
        ours=both_passes(ours),
        plain={name: both_passes(form) for name, form in forms.items()},
        compiled=compiled,
        others={"literal": both_passes(network_of(codebook_assign.literal))},
        agree=agree,
        ours_agree=agree,
    )


def run(quick: bool, floors: Floors) -> list[Row]:
    """Rows of the table; RuntimeError if a side differs from the reference or cannot run."""
    rows = []
    for setup in QUICK if quick else FULL:
        contest = make_contest(setup)
        times = contest.run(seconds=0.4 if quick else 4.0, least=3 if quick else 5)
        floor = floors.ms(num_bytes=0.0, flops=setup.flops)
        measured: Row = {"floor ms": floor, "ours / floor": number(times["ours ms"]) / floor}
        rows.append({**setup.columns(), **times, **measured, **contest.memory(times)})
    return rows


def plot(rows: list[Row], path: Path) -> None:
    sides = ("floor ms", "ours ms", "compiled ms", "eager ms", "literal ms")
    plot_bars(rows, ("rows", "d", "L", "threads"), sides, "ms", path)
