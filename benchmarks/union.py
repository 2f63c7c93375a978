"""TIGER, GLASS, IntRR and the union of the last two: a training step and generation, one size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from benchmarks import intrr_generation, intrr_models, intrr_training
from benchmarks.histories import make_edges, make_vectors
from benchmarks.machine import Floors, pages_kept, peak_extra_mib
from benchmarks.output import Row, number, plot_bars
from benchmarks.searches import LEVELS, make_codes
from benchmarks.timing import interleaved
from benchmarks.training_step import ITEMS, VECTOR_DIM, make_training_batch
from benchmarks.training_step import Setup as Histories
from glass.config import ModelConfig, RunConfig, SequenceConfig
from glass.data.batches import Batch, distinct_items
from glass.data.sequences import SequenceBatch
from glass.generation import generate
from glass.models import Glass, GlassIntrr, SearchingModel
from glass.models.glass_intrr import GlassIntrrConfig
from glass.models.sequence import model_class
from glass_kernels import SidTrie

if TYPE_CHECKING:
    from glass.systems.base import Model

SIZES = LEVELS[128]
BEAMS, NEWEST, BATCHES = 20, 50, 4
SETTINGS = RunConfig(
    model=ModelConfig(
        num_heads=3, d_ff=192, num_encoder_layers=1, num_decoder_layers=2, dropout=0.0,
        short_length=NEWEST, num_tiers=8, tier_standardize=True, long_history="all",
        copy_head=True, initialization="copy",
    ),
    sequence=SequenceConfig(
        d_model=96, num_layers=2, num_heads=3, head_dim=32, d_ff=192, dropout=0.0,
        max_items=NEWEST, uid_dim=64,
    ),
)  # fmt: skip
"""Of configs/complete_journey_union.yaml, with equal tiers."""

SIDES = {
    "TIGER": "tiger",
    "GLASS": "glass",
    "IntRR": "intrr_transformer",
    "union": "glass_intrr",
}


@dataclass(frozen=True)
class Setup:
    """One row of the table."""

    work: Literal["training", "generation"]
    """A step of training, or generation."""
    users: int
    targets: int = 1
    """Of a user in a training step; IntRR learns one after each of the newest events."""

    def columns(self) -> Row:
        shown = {"work": self.work, "B": self.users}
        return {**shown, "S": self.targets if self.work == "training" else None}


QUICK = [Setup("training", 8), Setup("generation", 1)]
FULL = [
    Setup("training", 64),
    Setup("training", 64, targets=8),
    Setup("generation", 1),
    Setup("generation", 32),
]


def _searching(name: str) -> SearchingModel:
    """TIGER, GLASS or the union, with tiers and neighbours as `from_data` gives them."""
    config = SETTINGS.model
    model: SearchingModel
    if name == "union":
        model = GlassIntrr(GlassIntrrConfig.of_run(SETTINGS), SIZES, ITEMS, VECTOR_DIM)
    elif name == "GLASS":
        model = Glass(config, SIZES, ITEMS, VECTOR_DIM)
    else:
        plain = replace(config, use_sid_tier=False, use_hard_search=False, copy_head=False)
        return Glass(plain, SIZES, ITEMS)
    vectors, prototypes = make_vectors(ITEMS, VECTOR_DIM, SIZES[0])
    assert model.tier is not None
    assert model.hard_search is not None
    model.tier.rebuild(vectors, prototypes, make_edges(config.num_tiers))
    model.hard_search.set_prototypes(prototypes)
    return model


def make_model(name: str) -> Model:
    """A fresh model of one side, over the catalogue that all share."""
    torch.manual_seed(0)
    model: Any
    if name == "IntRR":
        model = model_class(SIDES[name])(SETTINGS.sequence, SIZES, ITEMS, "transformer")
    else:
        model = _searching(name)
    model.codes.copy_(make_codes(ITEMS, SIZES))
    return model  # type: ignore[no-any-return]


def make_batch(setup: Setup, seed: int) -> Batch:
    """The newest 50 events, 900 older ones on average, and targets that users repeat."""
    batch = make_training_batch(Histories(setup.users, setup.targets), seed, NEWEST)
    distinct, place = distinct_items(batch.short_items)
    return replace(batch, distinct=distinct, place=place)


def as_sequences(batch: Batch) -> SequenceBatch:
    """The same users for IntRR: it predicts every event from those before, and the first target."""
    users = len(batch)
    items = batch.short_items
    read = SequenceBatch.of_histories(items.flatten(), torch.arange(users + 1) * NEWEST)
    targets = torch.cat((items[:, 1:], batch.targets[:, :1]), dim=1).view(-1, 1)
    return intrr_models.predicting(read, targets)


def _train(setup: Setup, quick: bool) -> Row:
    """Milliseconds of a step, predicted items a second, MiB beside model and optimiser."""
    steps: dict[str, Callable[[int], object]] = {}
    targets: dict[str, int] = {}
    for name in SIDES:
        model = make_model(name).train()
        batches: list[Any] = [make_batch(setup, seed) for seed in range(BATCHES)]
        if name == "IntRR":
            batches = [as_sequences(batch) for batch in batches]
        intrr_training.check(name, model, batches[0])
        steps[name] = intrr_training.make_step(model, batches)
        targets[name] = batches[0].targets.numel()
    row: Row = {}
    with pages_kept():
        timings = interleaved(steps, seconds=0.5 if quick else 20.0, least=2 if quick else 4)
    for name, timing in timings.items():
        row |= timing.columns(name)
        row[f"{name} targets / s"] = 1e3 * targets[name] / timing.ms
        row[f"{name} extra MiB"] = peak_extra_mib(partial(steps[name], 0))
    return row


def _generate(setup: Setup, quick: bool) -> Row:
    """Milliseconds of a batch, 20 beams, every side over the same users."""
    sides: dict[str, Callable[[int], object]] = {}
    for name in SIDES:
        model = make_model(name).eval()
        trie = SidTrie.build(model.codes, model.codebook_sizes)
        batches: list[Any] = [make_batch(setup, seed) for seed in range(BATCHES)]
        if name == "IntRR":
            batches = [intrr_models.newest(as_sequences(batch)) for batch in batches]
        intrr_generation.check(name, model, batches[0], trie, BEAMS)
        search = partial(generate, model, trie=trie, beam_width=BEAMS)
        sides[name] = partial(intrr_generation.in_turn, search, batches)
    with pages_kept():
        timings = interleaved(sides, seconds=0.5 if quick else 10.0, least=3)
    row: Row = {}
    for name, timing in timings.items():
        row |= timing.columns(name)
    return row


def run(quick: bool, floors: Floors) -> list[Row]:
    """Rows of the table; RuntimeError if a side differs from its reference."""
    rows = []
    for setup in QUICK if quick else FULL:
        work = {"training": _train, "generation": _generate}[setup.work]
        row = {**setup.columns(), **work(setup, quick)}
        ours = number(row["union ms"])
        for name in list(SIDES)[:-1]:
            row[f"{name} / union"] = number(row[f"{name} ms"]) / ours
        rows.append(row)
    return rows


def plot(rows: list[Row], path: Path) -> None:
    plot_bars(rows, ("work", "B", "S", "threads"), [f"{name} ms" for name in SIDES], "ms", path)
