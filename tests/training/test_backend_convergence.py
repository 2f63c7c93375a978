"""Training on the fast backends is training on the references, step by step, and learns."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch
from backends import every_op_on, other_backends
from planted import GLASS, planted
from toy import collator

from glass.data.batches import epoch_batches
from glass.models import Glass

STEPS, BATCH = 60, 64
LEARNING_RATE = 3e-3
"""Small enough that training does not amplify rounding: at 1e-2 runs part after 40 steps."""
CONFIG = dataclasses.replace(GLASS, num_decoder_layers=2, train_retrieved=True, num_neighbours=2)


@cache
def losses(backend: str, dtype: torch.dtype) -> list[float]:
    """Loss of every step of a training from seed 0."""
    dataset, sids = planted()
    samples = dataset.samples("train")
    collate = collator(dataset, samples, CONFIG)
    lengths = np.minimum(samples.history_end - samples.history_start, CONFIG.short_length)
    torch.manual_seed(0)
    model = Glass.from_data(CONFIG, sids, dataset).to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    found: list[float] = []
    epoch = 0
    with every_op_on(backend) as called:
        while len(found) < STEPS:
            for rows in epoch_batches(lengths, BATCH, seed=0, epoch=epoch):
                output = model(collate(rows))
                optimizer.zero_grad()
                output.loss.backward()
                optimizer.step()
                found.append(output.loss.item())
            epoch += 1
    assert called
    return found[:STEPS]


def unigram_entropy() -> float:
    """Loss of the best model that sees no history: mean entropy of the training targets' codes."""
    dataset, sids = planted()
    samples = dataset.samples("train")
    targets = dataset.items[samples.history_end]  # groups of one item
    entropies = []
    for level, size in enumerate(sids.codebook_sizes):
        share = np.bincount(sids.codes[targets, level], minlength=size) / len(targets)
        share = share[share > 0]
        entropies.append(-(share * np.log(share)).sum())
    return float(np.mean(entropies))


@pytest.mark.parametrize("backend", ["reference", *other_backends()])
def test_training_learns_what_no_prior_knows(backend: str) -> None:
    """The tier token gives sid_1, the searched items leave two for sid_2: about ln(2) / 2."""
    found = losses(backend, torch.float32)
    assert found[0] > unigram_entropy() > 1.7
    assert np.mean(found[-5:]) < 0.25 * unigram_entropy()


@pytest.mark.parametrize("backend", other_backends())
def test_every_loss_of_a_training_in_float64_is_the_references(backend: str) -> None:
    wanted, found = (losses(one, torch.float64) for one in ("reference", backend))
    assert found == pytest.approx(wanted, abs=1e-8)


@pytest.mark.parametrize("backend", other_backends())
def test_losses_in_float32_are_the_references(backend: str) -> None:
    """Sums are taken in another order; float64, above, shows that this is all."""
    wanted, found = (losses(one, torch.float32) for one in ("reference", backend))
    assert found[:10] == pytest.approx(wanted[:10], abs=1e-5)
    assert found == pytest.approx(wanted, abs=1e-3)
