"""Small models and batches of them, for the tests of torch.compile, and their decoding by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from sequence_cases import histories_batch, sequence_model, windows_batch
from toy import SMALL, random_histories, toy_batch, toy_dataset, toy_model, toy_sids

from glass.config import ModelConfig
from glass.data.batches import Batch, distinct_items
from glass.models import GlassIntrr
from glass.models.glass_intrr import GlassIntrrConfig

GLASS = replace(SMALL, dropout=0.0, num_encoder_layers=1, num_decoder_layers=1)
COPYING = replace(GLASS, copy_head=True)
TIGER = replace(GLASS, use_sid_tier=False, use_hard_search=False)
UNION = GlassIntrrConfig(**asdict(COPYING), uid_dim=8)


def union_model() -> GlassIntrr:
    """A model whose training knows every item."""
    torch.manual_seed(0)
    table = toy_sids()
    items = list(range(len(table.codes)))
    known = toy_dataset([[*([item] for item in items), [0], [0]]], len(items))
    return GlassIntrr.from_data(UNION, table, known)


def training_batch(config: ModelConfig, seed: int = 0) -> Batch:
    """Of 6 histories; another seed has other lengths, and another number of targets."""
    histories = random_histories(6, (2, 25), seed=seed)
    targets = [list(range(n)) for n in (1, 2, 3, 1, 2 + seed, 1)]
    return toy_batch(histories, targets, config)


def union_batch(seed: int = 0) -> Batch:
    """The same with its distinct items, as training has them."""
    batch = training_batch(UNION, seed)
    distinct, place = distinct_items(batch.short_items)
    return replace(batch, distinct=distinct, place=place)


def serving_batch(config: ModelConfig, users: int) -> Batch:
    """Histories to continue, of which some are padded."""
    histories = [[3, 1], *random_histories(users - 1, (2, 25), seed=users)]
    batch = toy_batch(histories, [[1]] * users, config)
    assert batch.padded
    return batch


@dataclass(frozen=True)
class Case:
    """A kind of model, and what makes it and its batches."""

    model: Callable[[], torch.nn.Module]
    training: Callable[[], Any]
    serving: Callable[[int], Any]


def _glass(config: ModelConfig) -> Case:
    return Case(
        lambda: toy_model(config),
        lambda: training_batch(config),
        lambda users: serving_batch(config, users),
    )


def _sequence(system: str, **settings: Any) -> Case:
    return Case(
        lambda: sequence_model(system, **settings).float(),
        lambda: windows_batch(rows=[3, 4, 5, 6]),
        lambda users: histories_batch([h[-5:] for h in random_histories(users, (2, 9))]),
    )


CASES = {
    "glass": _glass(GLASS),
    "copying": _glass(COPYING),
    "tiger": _glass(TIGER),
    "union": Case(union_model, union_batch, lambda users: serving_batch(UNION, users)),
    "intrr_transformer": _sequence("intrr_transformer"),
    "intrr_sum": _sequence("intrr_transformer", context="sum"),
    "intrr_hstu": _sequence("intrr_hstu"),
}

First = Callable[[Any], torch.Tensor]
Next = Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]


def first_step(steps: Any) -> torch.Tensor:
    """Logits of the first level, as a function that can be compiled."""
    return steps.first()


def next_step(steps: Any, parents: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """The same of a later level."""
    return steps.next(parents, codes)


def decoded(
    model: Any, batch: Any, width: int, first: First = first_step, later: Next = next_step
) -> list[torch.Tensor]:
    """Logits of every level of beams that are drawn at random."""
    draw = torch.Generator().manual_seed(width)
    device = batch.device
    with torch.no_grad():
        steps = model.steps(batch)
        logits = [first(steps)]
        for size in model.codebook_sizes[:-1]:
            shape = len(batch), width
            parents = torch.randint(0, logits[-1].shape[1], shape, generator=draw)
            codes = torch.randint(0, size, shape, generator=draw)
            logits.append(later(steps, parents.to(device), codes.to(device)))
    return logits
