"""top_items(): the rule of `rank_items` over the beams, less what a request leaves out."""

from __future__ import annotations

import math

import pytest
import torch
from generation_cases import SIDS, TRIE, histories, sharp_model
from toy import NUM_ITEMS, toy_dataset

from glass.data import Samples
from glass.evaluation import SidCatalogue, rank_items
from glass.generation import Beams, generate, top_items
from glass_kernels import lengths_to_offsets

COUNTS = torch.arange(1, NUM_ITEMS + 1) % 7 + 1
PAST = [[2, 2, 3], [], [7, 30, 30, 30, 4], [39]]
Lists = list[list[int]]


def jagged(lists: Lists) -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.tensor([item for part in lists for item in part], dtype=torch.int64)
    return values, lengths_to_offsets(torch.tensor([len(part) for part in lists]))


def beams_of(width: int = 12) -> Beams:
    return generate(sharp_model(), histories(), TRIE, beam_width=width)


def test_ranking_is_that_of_rank_items() -> None:
    beams = beams_of()
    dataset = toy_dataset([[*([item] for item in past), [1]] for past in PAST])
    start, stop = dataset.user_offsets[:-1], dataset.user_offsets[1:]
    samples = Samples(torch.arange(4).int().numpy(), start, stop - 1, stop)
    catalogue = SidCatalogue(SIDS)
    dataset.train_counts[:] = COUNTS.numpy() - 1
    expected = rank_items(
        catalogue.lookup(beams.codes.numpy()), beams.scores.numpy(), dataset, samples, catalogue,
        width=15, prior=2.0,
    )  # fmt: skip
    ranked = top_items(beams, TRIE, 15, popularity=COUNTS, history=jagged(PAST), prior=2.0)
    assert ranked.items.dtype == torch.int32
    assert ranked.items.tolist() == expected.items.tolist()
    torch.testing.assert_close(
        ranked.scores, torch.from_numpy(expected.scores).float(), rtol=0, atol=1e-6
    )
    there = ranked.items >= 0
    sids = torch.from_numpy(SIDS).long()[ranked.items.clamp(min=0)]
    assert torch.equal(ranked.sids[there], sids[there])
    assert (ranked.sids[~there] == -1).all()


def test_items_of_a_sid_share_its_probability_and_ties_go_to_the_lower_id() -> None:
    ranked = top_items(beams_of(60), TRIE, NUM_ITEMS)
    assert [sorted(row) for row in ranked.items.tolist()] == [list(range(NUM_ITEMS))] * 4
    assert ranked.scores.exp().sum(1).tolist() == pytest.approx([1] * 4, abs=1e-5)
    shared = [(a, b) for a in range(NUM_ITEMS) for b in range(a) if (SIDS[a] == SIDS[b]).all()]
    assert shared
    row = ranked.items[0].tolist()
    assert all(row.index(low) < row.index(high) for high, low in shared)


def test_left_out_items_change_no_score() -> None:
    beams = beams_of(60)
    seen, wanted = jagged([[0, 1], [], list(range(40)), [9]]), jagged([[3, 1, 5], [4], [2], []])
    everything = top_items(beams, TRIE, NUM_ITEMS)
    score = {
        (user, item): float(everything.scores[user, place])
        for user in range(4)
        for place, item in enumerate(everything.items[user].tolist())
    }
    ranked = top_items(beams, TRIE, 4, exclude=seen, allow=wanted)
    kept = [[item for item in row if item >= 0] for row in ranked.items.tolist()]
    assert [sorted(row) for row in kept] == [[3, 5], [4], [], []]
    for user, items in enumerate(kept):
        found = ranked.scores[user, : len(items)].tolist()
        assert found == [score[user, item] for item in items] == sorted(found, reverse=True)
    assert ranked.scores[ranked.items < 0].isneginf().all()
    without = top_items(beams, TRIE, NUM_ITEMS, exclude=seen)
    assert (without.items >= 0).sum(1).tolist() == [38, 40, 0, 39]


def test_dead_beams_have_no_items() -> None:
    nobody = TRIE.filter(allow=jagged([[]] * 4))
    beams = generate(sharp_model(), histories(), TRIE, beam_width=3, filter=nobody)
    ranked = top_items(beams, TRIE, 5)
    assert (ranked.items == -1).all()
    assert ranked.scores.isneginf().all()


@pytest.mark.parametrize(
    ("message", "options"),
    [
        (r"n must be at least 1, was 0", {"n": 0}),
        (r"prior must be a number above 0, was 0", {"prior": 0}),
        (r"prior must be a number above 0, was nan", {"prior": math.nan}),
        (r"exclude must be of the 4 users of the beams, was of 1", {"exclude": jagged([[1]])}),
        (r"allow item_ids must be in \[0, 40\), held 40", {"allow": jagged([[40], [], [], []])}),
        (r"popularity must have shape \[40\]", {"popularity": COUNTS[:3]}),
        (r"popularity must be above 0 everywhere", {"popularity": COUNTS - 1}),
    ],
)
def test_bad_input_is_refused(message: str, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=message):
        top_items(beams_of(60), TRIE, **{"n": 3, **options})  # type: ignore[arg-type]
