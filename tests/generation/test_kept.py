"""A batch may bring what a server keeps of its histories: the beams are the same."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from toy import NUM_ITEMS, SIZES, SMALL, random_histories, toy_batch, toy_model, toy_sids

from glass.data.batches import Kept
from glass.generation import generate
from glass_kernels import SidTrie

HISTORIES = [*random_histories(4, (9, 25), seed=3), [4], [1, 2]]
TRIE = SidTrie.build(torch.from_numpy(toy_sids().codes), SIZES)
NOTHING = {"long_items": torch.zeros(0).long(), "long_offsets": torch.zeros(7).long()}


@pytest.mark.parametrize("copying", [False, True])
def test_kept_tiers_and_index_give_the_same_beams(copying: bool) -> None:
    config = dataclasses.replace(SMALL, copy_head=copying)
    model = toy_model(config).eval()
    batch = toy_batch(HISTORIES, [[1]] * len(HISTORIES), config)
    expected = generate(model, batch, TRIE, beam_width=6)
    assert model.tier is not None
    assert model.hard_search is not None
    tiers = model.tier.histogram(batch.long_items, batch.long_offsets)
    kept = Kept(tiers)
    if not copying:
        # Of every event its item, which is a row of the tokens of the whole catalogue.
        codes = model.codes[batch.long_items]
        index = model.hard_search.index(codes[:, 0], batch.long_offsets)
        items = batch.long_items[index.order.long()].int()
        kept = Kept(tiers, index._replace(order=items), model.item_tokens(torch.arange(NUM_ITEMS)))
        batch = dataclasses.replace(batch, **NOTHING)
    beams = generate(model, dataclasses.replace(batch, kept=kept).to("cpu"), TRIE, beam_width=6)
    assert torch.equal(beams.codes, expected.codes)
    assert torch.equal(beams.scores, expected.scores)
    wrong = dataclasses.replace(kept, tiers=tiers.flip(0))
    other = generate(model, dataclasses.replace(batch, kept=wrong), TRIE, beam_width=6)
    assert not torch.equal(other.scores, expected.scores)
