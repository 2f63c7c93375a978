"""The plainly written GLASS is the same function as ours, and a difference is seen."""

from __future__ import annotations

import pytest
import torch

from benchmarks import training_step
from benchmarks.agreement import DiffersError
from benchmarks.plain_glass import PlainGlass
from glass.data.batches import Batch
from glass.models import Glass

SETUP = training_step.Setup(batch_size=2, targets=2)


def models() -> tuple[Glass, PlainGlass, Batch]:
    glass, vectors = training_step.make_model(SETUP)
    batch = training_step.make_training_batch(SETUP, 0, glass.config.short_length)
    return glass, PlainGlass(glass, vectors), batch


def test_plain_model_is_ours() -> None:
    glass, plain, batch = models()
    training_step.check(glass, plain, batch)
    assert glass.training
    assert plain.training


def test_another_weight_is_seen() -> None:
    glass, plain, batch = models()
    with torch.no_grad():
        plain.decoder.layers[2].fusion.bias.add_(0.1)
    with pytest.raises(DiffersError, match="plain"):
        training_step.check(glass, plain, batch)


def test_every_parameter_is_copied() -> None:
    glass, plain, _ = models()
    mine, theirs = dict(glass.named_parameters()), dict(plain.named_parameters())
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert not any(mine[name].data_ptr() == theirs[name].data_ptr() for name in mine)


def test_floor_grows_with_the_batch() -> None:
    glass, _ = training_step.make_model(SETUP)
    one = training_step.floor_flops(glass, training_step.Setup(batch_size=1))
    assert training_step.floor_flops(glass, training_step.Setup(batch_size=64)) == 64 * one
    # 151 tokens x 4 layers x (4 x 96 x 192 + 2 x 96 x 1024) weights alone, 2 operations, 3 passes.
    assert one > 6 * 151 * 4 * (4 * 96 * 192 + 2 * 96 * 1024)
