"""No user's beams depend on who else is in the batch, on its order or on its padding."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from generation_cases import TIGER, TRIE, sharp_model
from toy import SMALL, random_histories, toy_batch

from glass.config import ModelConfig
from glass.generation import Beams, generate
from glass.generation import beam as beam_module

HISTORIES = [*random_histories(6, (1, 25), seed=5), [], [3]]
USERS = len(HISTORIES)
TOLERANCE = 1e-5


def assert_close(one: Beams, other: Beams, rows: torch.Tensor) -> None:
    """`one` is `other` of users `rows`."""
    assert torch.equal(one.codes, other.codes[rows])
    assert torch.equal(one.nodes, other.nodes[rows])
    torch.testing.assert_close(one.scores, other.scores[rows], rtol=0, atol=TOLERANCE)
    for mine, theirs in zip(one.prefixes, other.prefixes, strict=True):
        assert torch.equal(mine, theirs[rows])


@pytest.mark.parametrize(
    "config",
    [SMALL, dataclasses.replace(SMALL, tier_token_last=False), TIGER],
    ids=["glass", "tier first", "tiger"],
)
def test_users_one_by_one_permuted_and_in_parts(
    config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sharp_model(config)
    batch = toy_batch(HISTORIES, [[1]] * USERS, config)
    assert batch.padded
    together = generate(model, batch, TRIE, beam_width=6)
    for row in range(USERS):
        alone = toy_batch([HISTORIES[row]], [[1]], config)
        assert_close(generate(model, alone, TRIE, beam_width=6), together, torch.tensor([row]))
    order = torch.tensor([5, 1, 7, 0, 6, 2, 4, 3])
    shuffled = toy_batch([HISTORIES[row] for row in order], [[1]] * USERS, config)
    assert_close(generate(model, shuffled, TRIE, beam_width=6), together, order)
    wider = torch.full((USERS, 2), -1)
    parts = (batch.short_items, wider) if not config.tier_token_last else (wider, batch.short_items)
    padded = dataclasses.replace(batch, short_items=torch.cat(parts, dim=1))
    assert_close(generate(model, padded, TRIE, beam_width=6), together, torch.arange(USERS))
    monkeypatch.setattr(beam_module, "_PART", 3)
    assert_close(generate(model, batch, TRIE, beam_width=6), together, torch.arange(USERS))


def test_part_of_a_batch_is_the_batch_of_those_users() -> None:
    rows = torch.tensor([4, 0, 6])
    part = toy_batch(HISTORIES, [[1]] * USERS).part(rows)
    again = toy_batch([HISTORIES[row] for row in rows], [[1]] * 3)
    for field in dataclasses.fields(part):
        mine, theirs = getattr(part, field.name), getattr(again, field.name)
        if field.name == "rows":
            assert torch.equal(mine, rows)
        elif isinstance(mine, torch.Tensor):
            assert torch.equal(mine, theirs), field.name
        else:
            assert mine == theirs
