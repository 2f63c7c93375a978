"""What is kept event by event is what the model makes of the whole histories."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from serving_cases import CONFIGS, History, full_batch, raw, toy_recommender
from toy import NUM_ITEMS

from glass.generation import generate
from glass.serving import Recommender
from glass.serving.filters import Wanted

USERS = 5


def check(recommender: Recommender, histories: list[list[tuple[int, int]]]) -> None:
    """Counts and beams against those of the batch of the histories."""
    search = recommender.searcher
    batch = full_batch(histories, search.model.config)
    snapshots = recommender.snapshots([f"u{user}" for user in range(USERS)])
    if search.model.tier is not None:
        recount = search.model.tier.histogram(
            batch.long_items, batch.long_offsets, normalize=False
        ).numpy()
        assert all(np.array_equal(s.tiers, c) for s, c in zip(snapshots, recount, strict=True))
    for snapshot, history in zip(snapshots, histories, strict=True):
        distinct, counts = np.unique([item for item, _ in history], return_counts=True)
        assert np.array_equal(snapshot.counted[0], distinct)
        assert np.array_equal(snapshot.counted[1], counts)
    everything = [Wanted(None, np.zeros(0, np.int32))] * USERS
    beams = search.beams(snapshots, everything, beam_width=8)
    expected = generate(search.model, batch, search.trie, beam_width=8)
    torch.testing.assert_close(beams.scores, expected.scores, rtol=0, atol=1e-5)
    assert torch.equal(beams.codes, expected.codes)


@pytest.mark.parametrize("most", [None, 9, 3])  # more and fewer than the short history
@pytest.mark.parametrize("config", CONFIGS)
def test_thousands_of_events_against_the_whole_histories(config: str, most: int | None) -> None:
    recommender = toy_recommender(CONFIGS[config], max_history=most)
    histories: list[list[tuple[int, int]]] = [[] for _ in range(USERS)]
    rng = np.random.default_rng(0)
    popular = rng.zipf(1.3, 100_000) % NUM_ITEMS  # long buckets and short ones
    now = 1_000_000
    for call in range(600):
        user = int(rng.integers(0, USERS - 1))  # the last one stays without events
        # Few at once, and more than are put in one by one.
        count = int(rng.choice([1, 1, 2, 7, 150], p=[0.4, 0.3, 0.2, 0.08, 0.02]))
        now += int(rng.integers(0, 2)) * 40_000
        items = rng.choice(popular, count).tolist()
        recommender.observe(f"u{user}", [raw(item) for item in items], now)
        histories[user] += [(item, now) for item in items]
        if most is not None:
            histories[user] = histories[user][-most:]
        if call in (0, 3, 10, 50, 200, 599):
            check(recommender, histories)
    assert recommender.num_users == USERS - 1


def test_a_history_that_came_at_once_is_that_of_single_events() -> None:
    rng = np.random.default_rng(1)
    items = rng.integers(0, NUM_ITEMS, 300).tolist()
    history: History = [(item, 7) for item in items]
    for config in CONFIGS.values():
        recommender = toy_recommender(config)
        recommender.observe("u0", [raw(item) for item in items], 7)
        for item in items:
            recommender.observe("u1", [raw(item)], 7)
        check(recommender, [list(history), list(history), [], [], []])


def test_what_a_reader_took_does_not_change() -> None:
    for config in ("older", "copying"):
        recommender = toy_recommender(CONFIGS[config], max_history=20)
        recommender.observe("u0", [raw(item % 7) for item in range(18)], 1)
        [taken] = recommender.snapshots(["u0"])
        parts = [taken.short, taken.tiers, *taken.counted, *(taken.buckets or ())]
        parts += list(taken.events or ())
        before = [part.copy() for part in parts]
        for item in range(60):
            recommender.observe("u0", [raw(item % NUM_ITEMS)], 2)
        assert all(np.array_equal(a, b) for a, b in zip(parts, before, strict=True))


def test_buckets_hold_no_more_than_a_search_can_find() -> None:
    config = CONFIGS["all"]
    recommender = toy_recommender(config)
    rng = np.random.default_rng(2)
    sizes = []
    for _ in range(40):
        items = rng.integers(0, NUM_ITEMS, 50)
        recommender.observe("u0", [raw(item) for item in items], 1)
        buckets = recommender.snapshots(["u0"])[0].buckets
        assert buckets is not None
        sizes.append(len(buckets[0]))
    assert max(sizes) <= 5 * config.search_max_items
