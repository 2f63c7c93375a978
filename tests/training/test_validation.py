"""The validator's NDCG against one sample at a time."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from toy import SIZES, collator, random_dataset, toy_dataset, toy_model, toy_sids

from glass.config import EvalConfig
from glass.evaluation import SidCatalogue
from glass.generation import generate
from glass.training import Validator
from glass_kernels import SidTrie

DATASET = random_dataset(8, seed=3)
EVAL = EvalConfig(beam_width=20, batch_size=3)
SIDS = toy_sids()
TRIE = SidTrie.build(torch.from_numpy(SIDS.codes), SIZES)


def validator(num_groups: int = 0, seed: int = 0, **settings: object) -> Validator:
    return Validator(
        DATASET,
        "valid",
        collator,
        dataclasses.replace(EVAL, **settings),  # type: ignore[arg-type]
        num_groups=num_groups,
        catalogue=SidCatalogue(SIDS.codes),
        trie=TRIE,
        seed=seed,
    )


def test_ndcg_is_the_mean_over_all_targets_of_all_groups() -> None:
    model = toy_model().eval()
    samples = DATASET.samples("valid")
    gains = []
    for row in range(len(samples.users)):
        batch = collator(DATASET, samples)(np.array([row]))
        beams = generate(model, batch, TRIE, beam_width=20).codes[0].tolist()
        start, stop = int(samples.history_end[row]), int(samples.target_end[row])
        for item in DATASET.items[start:stop]:
            sid = SIDS.codes[item].tolist()
            gains.append(1 / math.log2(beams.index(sid) + 2) if sid in beams else 0.0)
    metrics = validator()(model)
    assert metrics["ndcg@20"] == pytest.approx(np.mean(gains), abs=1e-9)
    assert metrics["hit@20"] == pytest.approx(np.mean(np.array(gains) > 0))
    assert 0 < metrics["hit@20"] < 1


@pytest.mark.parametrize("training", [True, False])
def test_mode_of_the_model_returns(training: bool) -> None:
    model = toy_model().train(training)
    assert validator()(model) == validator(batch_size=100)(model)
    assert model.training == training
    assert all(layer.training == training for layer in model.modules())


def test_groups_are_drawn_once() -> None:
    one, two, other = validator(4), validator(4), validator(4, seed=1)
    assert len(one.samples.users) == 4
    assert one.samples.history_end.tolist() == two.samples.history_end.tolist()
    assert one.samples.history_end.tolist() != other.samples.history_end.tolist()
    everything = DATASET.samples("valid")
    assert set(one.samples.history_end) <= set(everything.history_end)
    assert len(validator(1000).samples.users) == len(everything.users)


def test_split_without_samples_is_refused() -> None:
    dataset = toy_dataset([[[1], [2]]])  # one test group, one validation group without history
    with pytest.raises(ValueError, match=r"valid split of data set 'toy' has no sample"):
        Validator(
            dataset,
            "valid",
            collator,
            EVAL,
            num_groups=0,
            catalogue=SidCatalogue(SIDS.codes),
            trie=TRIE,
        )
