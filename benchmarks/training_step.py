"""A GLASS training step at the released model's sizes, against the same model written plainly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.agreement import DiffersError
from benchmarks.hard_search import backend_of
from benchmarks.histories import make_batch, make_edges, make_vectors
from benchmarks.machine import Floors, pages_kept, peak_extra_mib
from benchmarks.output import Row, plot_bars
from benchmarks.plain_glass import PlainGlass
from benchmarks.searches import LEVELS, make_codes
from benchmarks.timing import Timing, interleaved
from glass.config import ModelConfig
from glass.data.batches import Batch
from glass.models import Glass
from glass_kernels import use_backend

ITEMS, VECTOR_DIM, BATCHES = 13_000, 128, 2
LOSS_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-3
"""Of the norm of a parameter's gradient: eight layers of float32, summed in another order. Not of
single entries: a hidden unit whose sum is nearly 0 may be let through on one side alone."""


@dataclass(frozen=True)
class Setup:
    """One row of the table; the defaults are the released model's sizes."""

    batch_size: int = 64
    targets: int = 1
    max_items: int = 30
    attention_dropout: float = 0.0
    """Of the plain model: T5 drops attention weights, ours does not."""

    def columns(self) -> Row:
        return {
            "B": self.batch_size, "S": self.targets, "M": self.max_items,
            "plain attention dropout": self.attention_dropout,
        }  # fmt: skip


QUICK = [Setup(batch_size=2)]
FULL = [
    Setup(),
    Setup(attention_dropout=0.1),
    Setup(targets=8, max_items=100),
]


def make_model(setup: Setup) -> tuple[Glass, Tensor]:
    """A fresh GLASS and the vectors behind its tiers."""
    torch.manual_seed(0)
    sizes = LEVELS[64]
    config = ModelConfig(search_max_items=setup.max_items, tier_edges="paper")
    vectors, prototypes = make_vectors(ITEMS, VECTOR_DIM, sizes[0])
    glass = Glass(config, sizes, ITEMS, VECTOR_DIM)
    glass.codes.copy_(make_codes(ITEMS, sizes))
    assert glass.tier is not None
    assert glass.hard_search is not None
    glass.tier.rebuild(vectors, prototypes, make_edges(config.num_tiers))
    glass.hard_search.set_prototypes(prototypes)
    return glass, vectors


def make_training_batch(setup: Setup, seed: int, short: int) -> Batch:
    """The newest `short` events for the encoder, 900 older ones, and targets that users repeat."""
    generator = torch.Generator().manual_seed(seed)
    histories = make_batch("paper", setup.batch_size, ITEMS, seed)
    recent = make_batch("paper", setup.batch_size, ITEMS, seed + 1_000)
    shape = (setup.batch_size, setup.targets)
    picked = (torch.rand(shape, generator=generator) * histories.lengths[:, None]).long()
    total = len(histories.ids)
    return Batch(
        rows=torch.arange(setup.batch_size),
        short_items=recent.ids[: setup.batch_size * short].view(setup.batch_size, short),
        long_items=histories.ids,
        long_offsets=histories.offsets,
        long_visits=torch.ones(total, dtype=torch.int64),
        long_days=torch.zeros(total),
        targets=histories.ids[histories.offsets[:-1, None] + picked],
        padded=False,
    )


def ours_loss(glass: Glass, batch: Batch) -> Tensor:
    loss: Tensor = glass(batch).loss
    return loss


def reference_loss(glass: Glass, batch: Batch) -> Tensor:
    with use_backend("reference"):
        return ours_loss(glass, batch)


Loss = Callable[[Batch], Tensor]


def gradients(model: nn.Module, loss: Loss, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    value = loss(batch)
    torch.autograd.backward(value)
    return float(value.detach()), {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def check(glass: Glass, plain: PlainGlass, batch: Batch) -> None:
    """Without dropout: loss and every gradient, ours and plain against the reference.

    Raises DiffersError.
    """
    glass.eval()
    plain.eval()
    truth, wanted = gradients(glass, partial(reference_loss, glass), batch)
    for name, model, loss in (
        ("ours", glass, partial(ours_loss, glass)),
        ("plain", plain, plain.forward),
    ):
        value, found = gradients(model, loss, batch)
        if not abs(value - truth) <= LOSS_TOLERANCE:
            raise DiffersError(f"{name}: loss {value:.6f}, the reference {truth:.6f}")
        if found.keys() != wanted.keys():
            raise DiffersError(f"{name}: other parameters have gradients than in the reference")
        for key, gradient in wanted.items():
            error = float((found[key] - gradient).norm())
            if not error <= GRADIENT_TOLERANCE * float(gradient.norm()):
                raise DiffersError(f"{name}: gradient of {key} differs by {error:.1e}")
    glass.train()
    plain.train()


def make_step(model: nn.Module, loss: Loss, batches: list[Batch]) -> Callable[[int], None]:
    """Forward, backward and AdamW, as `glass.training` does it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)

    def step(number: int) -> None:
        value = loss(batches[number % len(batches)])
        optimizer.zero_grad()
        torch.autograd.backward(value)
        optimizer.step()

    return step


def floor_flops(glass: Glass, setup: Setup) -> float:
    """Of the trunk's products, forward and twice that backward; the retrieval's are not counted."""
    config = glass.config
    width, inner = config.d_model, config.num_heads * config.head_dim
    tokens = config.short_length * glass.num_levels + 1
    queries = setup.targets * glass.num_levels

    def products(rows: int, keys: int, *, project: bool) -> float:
        """Attention of `rows` queries to `keys`, whose projection may be counted elsewhere."""
        sides = 2 * rows + 2 * (keys if project else rows)
        return 2.0 * width * inner * sides + 4.0 * inner * rows * keys

    feed = 4.0 * width * config.d_ff
    encoder = products(tokens, tokens, project=True) + feed * tokens
    decoder = products(queries, glass.num_levels, project=False) + feed * queries
    decoder += products(queries, tokens, project=True) + 8.0 * width * width * queries
    layers = config.num_encoder_layers * encoder + config.num_decoder_layers * decoder
    return 3.0 * setup.batch_size * layers


def make_steps(setup: Setup) -> tuple[Glass, dict[str, Callable[[int], None]]]:
    """Steps of ours on its best backends, of ours on the reference, and of the plain model.

    Raises DiffersError.
    """
    glass, vectors = make_model(setup)
    again, _ = make_model(setup)
    plain = PlainGlass(glass, vectors, setup.attention_dropout)
    short = glass.config.short_length
    batches = [make_training_batch(setup, seed, short) for seed in range(BATCHES)]
    for batch in batches:
        check(glass, plain, batch)
    return glass, {
        "ours": make_step(glass, partial(ours_loss, glass), batches),
        "ours, reference": make_step(again, partial(reference_loss, again), batches),
        "plain": make_step(plain, plain.forward, batches),
    }


def in_turn(steps: dict[str, Callable[[int], None]], quick: bool) -> dict[str, Timing]:
    return interleaved(steps, seconds=0.5 if quick else 20.0, least=2 if quick else 3)


def run(quick: bool, floors: Floors) -> list[Row]:
    """Rows of the table; RuntimeError if a side differs from the reference."""
    rows = []
    for setup in QUICK if quick else FULL:
        glass, steps = make_steps(setup)
        with pages_kept():  # as `glass run` trains
            kept = in_turn(steps, quick)
        times = in_turn(steps, quick)
        row = setup.columns()
        row["backends"] = ", ".join(
            sorted(
                {backend_of(op) for op in ("hard_search", "hard_search_attention", "gated_fusion")}
            )
        )
        for name, timing in times.items():
            row |= timing.columns(name)
            again = kept[name].columns(name)
            row |= {f"{name} ms, pages kept{q}": again[f"{name} ms{q}"] for q in ("", " q1", " q3")}
        ours, fast = times["ours"].ms, kept["ours"].ms
        row["plain / ours"] = times["plain"].ms / ours
        row["plain / ours, pages kept"] = kept["plain"].ms / fast
        row["plain / ours with pages kept"] = times["plain"].ms / fast
        row["ours samples / s, pages kept"] = 1e3 * setup.batch_size / fast
        floor = floors.ms(num_bytes=0, flops=floor_flops(glass, setup))
        row |= {"floor ms": floor, "ours / floor, pages kept": fast / floor}
        for name, step in steps.items():
            row[f"{name} extra MiB"] = peak_extra_mib(partial(step, 0))
        rows.append(row)
    return rows


def plot(rows: list[Row], path: Path) -> None:
    sides = ("floor ms", "ours ms, pages kept", "ours ms", "plain ms, pages kept", "plain ms")
    plot_bars(rows, ("B", "S", "M", "plain attention dropout", "threads"), sides, "ms", path)
