"""A training step of IntRR against the flattened baseline, of the same items or the same length."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.agreement import DiffersError
from benchmarks.intrr_models import (
    BACKBONES,
    SIDES,
    Setup,
    loss_and_norms,
    make_histories,
    make_model,
)
from benchmarks.machine import Floors, pages_kept, peak_extra_mib
from benchmarks.output import Row, number, plot_bars
from benchmarks.timing import interleaved
from glass_kernels import use_backend

if TYPE_CHECKING:
    from glass.systems.base import Model

LOSS_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-3
"""Of the norm of a parameter's gradient."""

QUICK = [Setup("transformer", 8)]
FULL = [
    *(Setup(backbone, 256) for backbone in BACKBONES),
    *(Setup(backbone, 64, "paper") for backbone in BACKBONES),
]


def check(name: str, model: Model, batch: Any) -> None:
    """Loss and gradients on the best backends against those on the references.

    Raises DiffersError.
    """
    value, found = loss_and_norms(model, batch)
    with use_backend("reference"):
        truth, wanted = loss_and_norms(model, batch)
    if not abs(value - truth) <= LOSS_TOLERANCE * abs(truth):
        raise DiffersError(f"{name}: loss {value:.6f}, the reference {truth:.6f}")
    for key, gradient in wanted.items():
        error = float((found[key] - gradient).norm())
        if not error <= GRADIENT_TOLERANCE * float(gradient.norm()):
            raise DiffersError(f"{name}: gradient of {key} differs by {error:.1e}")


def make_step(model: Model, batches: list[Any]) -> Callable[[int], None]:
    """Forward, backward, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(number: int) -> None:
        optimizer.zero_grad()
        torch.autograd.backward(model(batches[number % len(batches)]).loss)
        optimizer.step()

    return step


def row_of(setup: Setup, quick: bool) -> Row:
    """Times, samples a second and memory of all sides; raises DiffersError before."""
    steps: dict[str, Callable[[int], object]] = {}
    samples: dict[str, int] = {}
    for name, side in SIDES.items():
        model = make_model(setup, side).train()
        batches = [make_histories(setup.users, side.items, seed) for seed in range(2)]
        check(name, model, batches[0])
        steps[name] = make_step(model, batches)
        samples[name] = batches[0].targets.numel()
    row: Row = setup.columns()
    with pages_kept():
        timings = interleaved(steps, seconds=1.0 if quick else 20.0, least=2 if quick else 4)
    for name, timing in timings.items():
        row |= timing.columns(name)
        row[f"{name} samples / s"] = 1e3 * samples[name] / timing.ms
        row[f"{name} extra MiB"] = peak_extra_mib(partial(steps[name], 0))
    ours = number(row["ours samples / s"])
    for name in list(SIDES)[1:]:
        row[f"ours / {name}"] = ours / number(row[f"{name} samples / s"])
    return row


def run(quick: bool, floors: Floors) -> list[Row]:
    """Rows of the table; RuntimeError if a side differs from its reference."""
    return [row_of(setup, quick) for setup in (QUICK if quick else FULL)]


def plot(rows: list[Row], path: Path) -> None:
    sides = [f"{name} samples / s" for name in SIDES]
    plot_bars(rows, ("backbone", "sizes", "threads"), sides, "samples / s", path)
