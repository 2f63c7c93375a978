"""A recommender whose trie holds some items offers these alone, and as many as are asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from serving_cases import GLASS, item_table, items_of, raw
from toy import NUM_ITEMS, SIZES, toy_model, toy_sids

from glass.serving import Recommender
from glass_kernels import SidTrie

RNG = np.random.default_rng(5)
HISTORIES = {f"u{u}": RNG.integers(0, NUM_ITEMS, n).tolist() for u, n in enumerate((3, 30, 12))}
OFFERED = set(range(0, NUM_ITEMS, 3))


def recommender(**settings: bool) -> Recommender:
    trie = SidTrie.build(torch.from_numpy(toy_sids().codes), SIZES)
    trie = trie.restrict(torch.tensor(sorted(OFFERED)))
    made = Recommender(toy_model(GLASS).eval(), trie, item_table(**settings))
    for user, items in HISTORIES.items():
        made.observe(user, [raw(item) for item in items])
    return made


def test_sids_are_shared_across_the_border() -> None:
    codes = list(map(tuple, toy_sids().codes.tolist()))
    offered = {codes[item] for item in OFFERED}
    assert offered & {codes[item] for item in range(NUM_ITEMS) if item not in OFFERED}


@pytest.mark.parametrize("n", [3, 7, NUM_ITEMS])
def test_n_candidates_come_whenever_there_are_n(n: int) -> None:
    made = recommender()
    # Most of what is left out could not come anyway: it must not count as missing.
    out = {item for item in range(NUM_ITEMS) if item not in OFFERED} | {0, 3}
    allow = set(range(20))
    for seen, allowed, excluded in [
        (False, None, None),
        (True, None, None),
        (False, None, out),
        (True, allow, out),
        (False, allow, None),
    ]:
        lists = made.recommend(
            list(HISTORIES),
            n,
            exclude_seen=seen,
            allowed=None if allowed is None else [raw(item) for item in allowed],
            exclude=None if excluded is None else [raw(item) for item in excluded],
        )
        for listed, history in zip(lists, HISTORIES.values(), strict=True):
            left = OFFERED & (allowed or OFFERED) - (excluded or set())
            left -= set(history) if seen else set()
            assert set(items_of(listed)) <= left
            assert len(set(items_of(listed))) == len(listed) == min(n, len(left))


def test_no_more_is_searched_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    made, widths = recommender(), []
    beams = made.searcher.beams

    def counted(batch, wanted, beam_width, most=None):  # type: ignore[no-untyped-def]
        widths.append(beam_width)
        return beams(batch, wanted, beam_width, most)

    monkeypatch.setattr(made.searcher, "beams", counted)
    few = [raw(item) for item in range(8)]  # 0, 3 and 6 of them are offered
    [listed] = made.recommend(["u0"], 8, allowed=few)
    assert set(items_of(listed)) == {0, 3, 6}
    assert widths == [6]
    assert len(made.item_set(few)) == 3


def test_nothing_of_an_allowed_list_is_offered() -> None:
    assert recommender().recommend(["u0"], allowed=["i1", "i2"], exclude=["i3"]) == [[]]


def test_without_constraint_too() -> None:
    for listed in recommender(constrained=False).recommend(list(HISTORIES), 10, beam_width=60):
        assert listed
        assert set(items_of(listed)) <= OFFERED
