"""Models, histories and comparisons shared by the tests of generation."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from slow_beam import Sid
from toy import SIZES, SMALL, random_histories, toy_batch, toy_model, toy_sids

from glass.config import ModelConfig
from glass.data.batches import Batch
from glass.generation import Beams
from glass.models import Glass
from glass_kernels import SidTrie

TIGER = dataclasses.replace(SMALL, use_sid_tier=False, use_hard_search=False)
HISTORIES = [*random_histories(3, (1, 25), seed=2), [7]]
SIDS = toy_sids().codes
CATALOGUE: set[Sid] = {tuple(codes) for codes in SIDS.tolist()}
TRIE = SidTrie.build(torch.from_numpy(SIDS), SIZES)


def sharp_model(config: ModelConfig = SMALL) -> Glass:
    """Weights large enough that codes differ clearly in probability."""
    model = toy_model(config).eval()
    with torch.no_grad():
        model.decoder.norm.weight.mul_(4)
    return model


def histories(config: ModelConfig = SMALL, rows: slice = slice(None)) -> Batch:
    chosen = HISTORIES[rows]
    return toy_batch(chosen, [[1]] * len(chosen), config)


def alive(beams: Beams, row: int) -> list[tuple[float, Sid]]:
    pairs = zip(beams.scores[row].tolist(), beams.codes[row].tolist(), strict=True)
    return [(score, tuple(codes)) for score, codes in pairs if score > -math.inf]


def assert_same(found: list[tuple[float, Sid]], expected: list[tuple[float, Sid]]) -> None:
    assert [sid for _, sid in found] == [sid for _, sid in expected]
    scores = [score for score, _ in expected]
    assert [score for score, _ in found] == pytest.approx(scores, abs=1e-5)
