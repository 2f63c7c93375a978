"""Codebook assignment: against plain, compiled, hand-differentiated and literal PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, embedding, nll_loss, one_hot

from benchmarks.agreement import float32_close
from benchmarks.contest import Contest, Run
from benchmarks.hard_search import backend_of
from benchmarks.machine import Floors
from benchmarks.moving import moved
from benchmarks.output import Row, number, plot_bars
from glass_kernels import codebook_assign

BATCHES = 2


@dataclass(frozen=True)
class Setup:
    """One row of the table."""

    backward: bool
    rows: int
    width: int
    codes: int = 256
    compiled: bool = True

    def columns(self) -> Row:
        return {
            "pass": "both" if self.backward else "forward", "T": self.rows, "d": self.width,
            "K": self.codes,
        }  # fmt: skip

    @property
    def product_flops(self) -> float:
        return 2.0 * self.rows * self.width * self.codes


QUICK = [Setup(backward=True, rows=2_048, width=128, compiled=False)]
FULL = [
    Setup(False, 2_048, 128, compiled=False),
    Setup(True, 2_048, 128),
    Setup(True, 20_480, 64, compiled=False),
    Setup(True, 20_480, 128, compiled=False),
    Setup(False, 20_480, 256, compiled=False),
    Setup(True, 20_480, 256),
    Setup(True, 20_480, 128, codes=1_024, compiled=False),
]


@dataclass(frozen=True)
class Assignment:
    """The operation's input, and the gradients of its results."""

    query: Tensor
    codebook: Tensor
    target: Tensor
    of_assigned: Tensor
    of_loss: Tensor

    @property
    def trained(self) -> tuple[Tensor, Tensor]:
        return self.query, self.codebook

    def to(self, dtype: torch.dtype) -> Assignment:
        """The same in another dtype."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in values.items():
            if value.is_floating_point():
                values[name] = value.detach().to(dtype).requires_grad_(value.requires_grad)
        return Assignment(**values)


def make_assignment(setup: Setup, seed: int) -> Assignment:
    """Logits of a deviation of 1."""
    generator = torch.Generator().manual_seed(seed)
    rows, width = setup.rows, setup.width
    query, of_assigned = (torch.randn(rows, width, generator=generator) for _ in range(2))
    codebook = torch.randn(setup.codes, width, generator=generator) * width**-0.5
    target = torch.randint(setup.codes, (rows,), generator=generator)
    of_loss = torch.full((rows,), 1 / rows)
    return Assignment(
        query.requires_grad_(), codebook.requires_grad_(), target, of_assigned / rows, of_loss
    )


Form = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Of query, codebook and target: assigned and loss."""


def by_cross_entropy(query: Tensor, codebook: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    logits = query @ codebook.T
    soft = logits.softmax(1) @ codebook
    hard = embedding(logits.argmax(1), codebook)
    return soft + (hard - soft).detach(), cross_entropy(logits, target, reduction="none")


def by_one_softmax(query: Tensor, codebook: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and soft code from one log-softmax."""
    logits = query @ codebook.T
    log_p = logits.log_softmax(1)
    soft = log_p.exp() @ codebook
    hard = embedding(logits.argmax(1), codebook)
    return soft + (hard - soft).detach(), nll_loss(log_p, target, reduction="none")


def by_log_sum_exp(query: Tensor, codebook: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    logits = query @ codebook.T
    loss = logits.logsumexp(1) - logits.gather(1, target[:, None])[:, 0]
    soft = logits.softmax(1) @ codebook
    hard = embedding(logits.argmax(1), codebook)
    return soft + (hard - soft).detach(), loss


FORMS: dict[str, Form] = {
    "softmax + cross entropy": by_cross_entropy,
    "one log-softmax": by_one_softmax,
    "logsumexp": by_log_sum_exp,
}
COMPILED = ("softmax + cross entropy", "one log-softmax")


def literal(query: Tensor, codebook: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Soft and hard code as products, the hard one of one-hot rows, as a module may spell it."""
    logits = query @ codebook.T
    soft = logits.softmax(-1) @ codebook
    hot = one_hot(logits.argmax(-1), len(codebook)).to(query.dtype)
    hard = hot @ codebook
    return soft + (hard - soft).detach(), cross_entropy(logits, target, reduction="none")


class ByHand(torch.autograd.Function):
    """Plain PyTorch with the gradient written out: no soft code, and one softmax, kept."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, codebook: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        logits = query @ codebook.T
        hard = embedding(logits.argmax(1), codebook)
        of_target = logits.gather(1, target[:, None])[:, 0]
        largest = logits.amax(1, keepdim=True)
        p = logits.sub_(largest).exp_()
        sums = p.sum(1, keepdim=True)
        ctx.save_for_backward(query, codebook, target, p.div_(sums))
        return hard, (sums.log() + largest)[:, 0] - of_target

    @staticmethod
    def backward(ctx: Any, of_assigned: Tensor, of_loss: Tensor) -> tuple[Tensor | None, ...]:
        query, codebook, target, p = ctx.saved_tensors
        h = of_assigned @ codebook.T
        mean = torch.linalg.vecdot(p, h)
        of_logits = h.sub_((mean - of_loss)[:, None]).mul_(p)
        of_logits.scatter_add_(1, target[:, None], -of_loss[:, None])
        of_codebook = (of_logits.T @ query).addmm_(p.T, of_assigned)
        return of_logits @ codebook, of_codebook, None


def by_hand(query: Tensor, codebook: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    hard, loss = ByHand.apply(query, codebook, target)  # type: ignore[no-untyped-call]
    return hard, loss


def ours(
    query: Tensor, codebook: Tensor, target: Tensor, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    assigned, _, loss = codebook_assign(query, codebook, target, backend=backend)
    assert loss is not None
    return assigned, loss


def passes(function: Form, backward: bool) -> Run:
    """Assigned and loss, or these and the gradients of query and codebook."""

    def forward(batch: Assignment) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return function(*batch.trained, batch.target)

    def both(batch: Assignment) -> tuple[Tensor, ...]:
        results = function(*batch.trained, batch.target)
        grads = torch.autograd.grad(results, batch.trained, (batch.of_assigned, batch.of_loss))
        return (*(result.detach() for result in results), *grads)

    return both if backward else forward


def products(backward: bool) -> Run:
    """The products that no form does without, into buffers: a floor, not a result."""
    buffers: dict[tuple[int, ...], Tensor] = {}

    def product(a: Tensor, b: Tensor) -> Tensor:
        shape = (a.shape[0], b.shape[1])
        return torch.mm(a, b, out=buffers.setdefault(shape, a.new_empty(shape)))

    def run(batch: Assignment) -> Tensor:
        with torch.no_grad():
            query, codebook = batch.trained
            logits = product(query, codebook.T)
            if backward:
                product(batch.of_assigned, codebook.T)
                product(logits, codebook)
                product(logits.T, query)
                product(logits.T, batch.of_assigned)
            return logits

    return run


def agree(name: str, got: Any, truth: Any, batch: Assignment) -> None:
    """Of two codes with nearly the same logit either may be assigned: so the logit is compared."""
    largest = [
        (result[0].double() * batch.query.double()).sum(1).detach() for result in (got, truth)
    ]
    float32_close(name, (largest[0], *got[1:]), (largest[1], *truth[1:]), batch)


def make_contest(setup: Setup, num_batches: int = BATCHES, *, device: str = "cpu") -> Contest:
    run = partial(passes, backward=setup.backward)
    reference = run(partial(ours, backend="reference"))
    compiled: dict[str, Run] = {}
    if setup.compiled:
        torch.compiler.reset()  # what was compiled for another number of threads
        for name in COMPILED:
            compiled[name] = run(torch.compile(FORMS[name], dynamic=False, fullgraph=True))
    return Contest(
        [moved(make_assignment(setup, seed), device) for seed in range(num_batches)],
        reference=lambda batch: reference(batch.to(torch.float64)),
        ours=run(ours),
        plain={name: run(form) for name, form in FORMS.items()},
        compiled=compiled,
        others={"by hand": run(by_hand), "literal": run(literal)},
        yardsticks={"GEMM": products(setup.backward)},
        agree=agree,
        ours_agree=agree,
    )


def floor_of(floors: Floors, setup: Setup) -> float:
    """Milliseconds of the products: logits; their gradient, and that of both inputs."""
    return floors.ms(num_bytes=0.0, flops=(5 if setup.backward else 1) * setup.product_flops)


def run(quick: bool, floors: Floors) -> list[Row]:
    """Rows of the table; RuntimeError if a side differs from the reference or cannot run."""
    rows = []
    for setup in QUICK if quick else FULL:
        contest = make_contest(setup)
        times = contest.run(seconds=0.4 if quick else 3.0, least=3 if quick else 5)
        floor = floor_of(floors, setup)
        measured: Row = {"floor ms": floor, "ours / floor": number(times["ours ms"]) / floor}
        about: Row = {"backend": backend_of("codebook_assign")}
        rows.append({**setup.columns(), **about, **times, **measured, **contest.memory(times)})
    return rows


def plot(rows: list[Row], path: Path) -> None:
    sides = ("GEMM ms", "ours ms", "compiled ms", "by hand ms", "eager ms", "literal ms")
    plot_bars(rows, ("pass", "T", "d", "K", "threads"), sides, "ms", path)
