"""Recommenders of causal sequence models: the newest events, event by event, as one batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sequence_cases import KINDS, NUM_ITEMS, SIDS, histories_batch, sequence_model
from serving_cases import item_table, items_of, raw
from toy import SIZES, random_histories

from glass.generation import generate
from glass.serving import Recommender
from glass.serving.filters import Wanted
from glass_kernels import SidTrie

HISTORIES = [*random_histories(5, (1, 14), seed=2), []]  # max_items is 5; the last one has none
TIMES = [[1000 * user + 7 * place**3 for place in range(14)] for user in range(len(HISTORIES))]
TIMES[1] = [500] * 14  # all in one visit
NAMES = [f"u{user}" for user in range(len(HISTORIES))]


def recommender(system: str, hstu: str = "canonical", **options: int) -> Recommender:
    trie = SidTrie.build(torch.from_numpy(SIDS.codes), SIZES)
    model = sequence_model(system, hstu)
    return Recommender(model, trie, item_table(NUM_ITEMS), **options)


def observe(made: Recommender) -> Recommender:
    """Every event in a call of its own, users by turns."""
    for place in range(14):
        for name, history, times in zip(NAMES, HISTORIES, TIMES, strict=True):
            if place < len(history):
                made.observe(name, [raw(history[place])], times[place])
    return made


@pytest.mark.parametrize(("system", "hstu"), KINDS)
def test_beams_are_those_of_the_newest_events(system: str, hstu: str) -> None:
    made = observe(recommender(system, hstu))
    everything = [Wanted(None, np.zeros(0, np.int32))] * len(NAMES)
    beams = made.searcher.beams(made.snapshots(NAMES), everything, beam_width=6)
    newest = [history[-5:] for history in HISTORIES]
    times = [at[: len(h)][-5:] for at, h in zip(TIMES, HISTORIES, strict=True)]
    batch = histories_batch(newest, times)
    expected = generate(made.searcher.model, batch, made.searcher.trie, beam_width=6)
    torch.testing.assert_close(beams.scores, expected.scores, rtol=0, atol=1e-6)
    assert torch.equal(beams.codes, expected.codes)


@pytest.mark.parametrize("system", ["intrr_hstu", "flattened_transformer"])
def test_lists_do_not_depend_on_how_users_are_put_together(system: str, tmp_path: Path) -> None:
    whole = observe(recommender(system))
    lists = whole.recommend(NAMES, 8)
    for size in (1, 4):
        assert observe(recommender(system, batch_size=size)).recommend(NAMES, 8) == lists
    whole.save_state(tmp_path)
    restored = recommender(system)
    restored.load_state(tmp_path)
    assert restored.recommend(NAMES, 8) == lists
    assert all(len(listed) == 8 for listed in lists)


def test_times_are_kept_only_where_the_model_reads_them(tmp_path: Path) -> None:
    untimed, timed = observe(recommender("intrr_transformer")), recommender("intrr_hstu")
    assert not untimed.searcher.reading.reads.timed
    assert timed.searcher.reading.reads.timed
    untimed.save_state(tmp_path)
    with pytest.raises(ValueError, match="this model looks at times and the file holds none"):
        timed.load_state(tmp_path)


def test_filters_and_diversity_see_the_whole_history() -> None:
    made = observe(recommender("intrr_transformer"))
    user = max(range(len(HISTORIES)), key=lambda u: len(HISTORIES[u]))
    name, seen = NAMES[user], set(HISTORIES[user])
    assert len(HISTORIES[user]) > 5
    shown = made.recommend([name], NUM_ITEMS)[0]
    assert {item for item, r in zip(items_of(shown), shown, strict=True) if r.repeat} == seen
    fresh = items_of(made.recommend([name], NUM_ITEMS, exclude_seen=True)[0])
    assert fresh
    assert not seen & set(fresh)
    assert fresh == [item for item in items_of(shown) if item not in seen]
    spread = made.recommend([name], NUM_ITEMS, max_per_sid1=1)[0]
    assert len({r.sid for r in spread}) == len({r.sid[0] for r in spread})
