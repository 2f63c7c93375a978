"""IntRR beside the flattened baseline, as its paper compares them: models and histories."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from benchmarks.output import Row
from benchmarks.searches import make_codes
from glass.config import SequenceConfig
from glass.data.batches import distinct_items
from glass.data.sequences import SequenceBatch
from glass.models.sequence import SequenceModel, model_class

if TYPE_CHECKING:
    from glass.systems.base import Model

ITEMS, LEVELS, MAX_ITEMS = 12_101, (256, 256, 256, 256), 32
Backbone = Literal["transformer", "hstu"]
BACKBONES: tuple[Backbone, ...] = ("transformer", "hstu")

SMALL = SequenceConfig(
    d_model=128, num_layers=2, num_heads=4, head_dim=32, d_ff=256, uid_dim=128, max_items=MAX_ITEMS
)
PAPER = SequenceConfig(max_items=MAX_ITEMS)
SIZES = {"small": SMALL, "paper": PAPER}


@dataclass(frozen=True)
class Side:
    """One of the compared models, and how many of a user's newest items it reads."""

    system: Literal["intrr", "flattened"]
    items: int = MAX_ITEMS


SIDES = {
    "ours": Side("intrr"),
    "same items": Side("flattened"),
    "same length": Side("flattened", MAX_ITEMS // len(LEVELS)),
}
"""The baseline reads as many items as IntRR, in L times the tokens; or as many tokens, of fewer
items."""


@dataclass(frozen=True)
class Setup:
    """One row of the table."""

    backbone: Backbone
    users: int
    sizes: Literal["small", "paper"] = "small"

    def columns(self) -> Row:
        return {"backbone": self.backbone, "sizes": self.sizes, "B": self.users}


def make_model(setup: Setup, side: Side) -> SequenceModel:
    """A fresh model, its trunk as large as those of the other sides."""
    torch.manual_seed(0)
    system = f"{side.system}_{setup.backbone}"
    cls = model_class(system)
    config = replace(SIZES[setup.sizes], time_bias=False, dropout=0.0)
    config = cls.own_config(config, LEVELS, setup.backbone, 0)
    model = cls(config, LEVELS, ITEMS, setup.backbone)
    model.codes.copy_(make_codes(ITEMS, LEVELS))
    return model


def make_histories(users: int, items: int, seed: int) -> SequenceBatch:
    """The newest `items` of histories of `MAX_ITEMS`; every event but the first is predicted.

    Items are Zipf distributed, so that some occur several times in a batch.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = 1.0 / torch.arange(1, ITEMS + 1, dtype=torch.float64)
    drawn = torch.multinomial(
        weights, users * (MAX_ITEMS + 1), replacement=True, generator=generator
    ).view(users, -1)[:, -items - 1 :]
    offsets = torch.arange(users + 1) * items
    read = drawn[:, :-1].flatten()
    targets = drawn[:, 1:].reshape(-1, 1).contiguous()
    return predicting(SequenceBatch.of_histories(read, offsets), targets)


def predicting(batch: SequenceBatch, targets: Tensor) -> SequenceBatch:
    """Every event predicts one of `targets` int64 [T, 1]; with what a collator looks up."""
    distinct, place = distinct_items(batch.items)
    return replace(
        batch,
        states=torch.arange(len(batch.items)),
        owners=torch.arange(len(batch)).repeat_interleave(batch.lengths),
        targets=targets,
        distinct=distinct,
        place=place,
        present=(targets >= 0).nonzero().T.contiguous(),
    )


def newest(batch: SequenceBatch) -> SequenceBatch:
    """The same histories, for generation."""
    return SequenceBatch.of_histories(batch.items, batch.offsets)


def loss_and_norms(model: Model, batch: Any) -> tuple[float, dict[str, Tensor]]:
    """Loss, and every parameter's gradient."""
    model.zero_grad()
    loss = model(batch).loss
    torch.autograd.backward(loss)
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return float(loss.detach()), found
