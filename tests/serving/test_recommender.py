"""Requests: ranking, filters, people without events, mistakes, and many threads at once."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import pytest
from serving_cases import CONFIGS, GLASS, TRAIN_COUNTS, full_batch, items_of, raw, toy_recommender
from toy import NUM_ITEMS, toy_sids

import glass
from glass.evaluation import OwnCounts, SidCatalogue, rank_items_of_sids
from glass.generation import generate
from glass.serving import Recommender
from glass.serving import recommender as serving
from glass.serving.filters import Wanted
from glass.serving.histories import Histories

RNG = np.random.default_rng(4)
HISTORIES = {f"u{u}": RNG.integers(0, NUM_ITEMS, n).tolist() for u, n in enumerate((3, 30, 12))}


@pytest.fixture(scope="module")
def recommender() -> Recommender:
    found = toy_recommender()
    for user, items in HISTORIES.items():
        found.observe(user, [raw(item) for item in items])
    return found


def test_the_package_hands_it_out() -> None:
    assert glass.Recommender is Recommender
    with pytest.raises(AttributeError, match="no attribute 'Recommend'"):
        _ = glass.Recommend


def test_lists_are_those_of_the_ranking_rule(recommender: Recommender) -> None:
    """Beams of the batch of the histories, ranked by `rank_items`' rule, and cut."""
    found = recommender.recommend(list(HISTORIES), 5)
    histories = [[(item, at) for at, item in enumerate(items)] for items in HISTORIES.values()]
    model, trie = recommender.searcher.model, recommender.searcher.trie
    beams = generate(model, full_batch(histories, GLASS), trie, beam_width=6)
    catalogue = SidCatalogue(toy_sids().codes)
    flat = np.concatenate([np.array(items) for items in HISTORIES.values()])
    ends = np.cumsum([len(items) for items in HISTORIES.values()])
    starts = np.concatenate(([0], ends[:-1]))
    own = OwnCounts.of_histories(flat, starts, ends, NUM_ITEMS)
    sids, scores = catalogue.lookup(beams.codes.numpy()), beams.scores.numpy()
    ranked = rank_items_of_sids(sids, scores, own, TRAIN_COUNTS, catalogue)
    for row, (items, listed) in enumerate(zip(HISTORIES.values(), found, strict=True)):
        assert items_of(listed) == ranked.items[row, :5].tolist()
        assert [r.score for r in listed] == pytest.approx(ranked.scores[row, :5], abs=1e-5)
        assert [r.rank for r in listed] == [1, 2, 3, 4, 5]
        assert [r.title for r in listed] == [f"Thing {item}" for item in items_of(listed)]
        assert [r.sid for r in listed] == [tuple(toy_sids().codes[i]) for i in items_of(listed)]
        assert [r.repeat for r in listed] == [item in items for item in items_of(listed)]


def test_company_and_batches_do_not_matter(recommender: Recommender) -> None:
    users = ["u2", "nobody", "u0", "u1", "u0", "other"]
    found = recommender.recommend(users, 7, exclude_seen=True)
    small = toy_recommender(batch_size=2)
    for user, items in HISTORIES.items():
        small.observe(user, [raw(item) for item in items])
    for listed, again in zip(found, small.recommend(users, 7, exclude_seen=True), strict=True):
        assert items_of(listed) == items_of(again)
        assert [r.score for r in listed] == pytest.approx([r.score for r in again], abs=1e-5)
    assert found[2] == found[4]
    assert found[1] == found[5]
    assert recommender.recommend([]) == []


@pytest.mark.parametrize("config", CONFIGS)
def test_people_without_events(config: str) -> None:
    recommender = toy_recommender(CONFIGS[config])
    alone = recommender.recommend(["nobody"], 4)[0]
    assert len(alone) == 4
    recommender.observe("u0", ["i3", "i4"])
    beside = recommender.recommend(["u0", "nobody"], 4)[1]
    assert items_of(beside) == items_of(alone)
    assert [r.score for r in beside] == pytest.approx([r.score for r in alone], abs=1e-5)
    assert recommender.num_users == 1
    with pytest.raises(ValueError, match="user 'nobody' has no events; observe them first"):
        recommender.recommend(["u0", "nobody"], unknown="error")


class TestFilters:
    @pytest.mark.parametrize("n", [3, 6, 11, NUM_ITEMS])
    @pytest.mark.parametrize("config", ["all", "tiger", "copying"])
    def test_n_items_come_whenever_there_are_n(self, config: str, n: int) -> None:
        recommender = toy_recommender(CONFIGS[config])
        for user, items in HISTORIES.items():
            recommender.observe(user, [raw(item) for item in items])
        allowed, excluded = set(range(0, NUM_ITEMS, 2)), {1, 2, 3, 4}
        for seen, allow, out in [
            (False, None, None),
            (True, None, None),
            (False, allowed, None),
            (True, allowed, excluded),
            (False, None, excluded),
        ]:
            lists = recommender.recommend(
                list(HISTORIES),
                n,
                exclude_seen=seen,
                allowed=None if allow is None else [raw(item) for item in allow],
                exclude=None if out is None else [raw(item) for item in out],
            )
            for listed, history in zip(lists, HISTORIES.values(), strict=True):
                left = set(range(NUM_ITEMS)) if allow is None else allow
                left = left - (out or set()) - (set(history) if seen else set())
                assert len(set(items_of(listed))) == len(listed) == min(n, len(left))
                assert set(items_of(listed)) <= left
                scores = [r.score for r in listed]
                assert scores == sorted(scores, reverse=True)

    def test_a_filter_leaves_the_order_and_scores_of_the_others(
        self, recommender: Recommender
    ) -> None:
        everything = {"n": NUM_ITEMS, "beam_width": NUM_ITEMS}
        whole = recommender.recommend(["u1"], **everything)[0]
        dropped = {item.raw_item_id for item in whole[1::3]}
        left = recommender.recommend(["u1"], exclude=dropped, **everything)[0]
        kept = [item for item in whole if item.raw_item_id not in dropped]
        assert items_of(left) == items_of(kept)
        assert [r.score for r in left] == pytest.approx([r.score for r in kept], abs=1e-5)

    def test_a_list_for_each_user(self, recommender: Recommender) -> None:
        found = recommender.recommend(
            ["u0", "u1", "u2"],
            allowed={"u0": ["i1", "i2"], "u1": [], "u2": ["i3"]},
            exclude={"u0": ["i2"]},
        )
        assert [items_of(listed) for listed in found] == [[1], [], [3]]
        with pytest.raises(ValueError, match="allowed has no list for user 'u1'"):
            recommender.recommend(["u0", "u1"], allowed={"u0": ["i1"]})

    @pytest.mark.parametrize("seen", [False, True])
    def test_a_set_for_all_is_the_list_of_each(self, recommender: Recommender, seen: bool) -> None:
        users = [*HISTORIES, "nobody"]
        for allowed in ([raw(item) for item in range(0, NUM_ITEMS, 3)], [], ["i0"]):
            prepared = recommender.item_set(allowed)
            given = {"exclude_seen": seen, "exclude": ["i3", "i6"]}
            each = recommender.recommend(users, allowed=dict.fromkeys(users, allowed), **given)
            for _ in range(2):
                assert recommender.recommend(users, allowed=prepared, **given) == each
            assert recommender.recommend(users, allowed=allowed, **given) == each
            assert [len(prepared)] == [len(allowed)]
            shared = recommender.searcher.beams(
                recommender.snapshots(users),
                [Wanted(prepared, np.array([3], np.int32))] * 4, beam_width=30
            )  # fmt: skip
            alive = shared.codes[shared.codes[..., 0] >= 0].tolist()
            left = [i for i in range(0, NUM_ITEMS, 3) if raw(i) in allowed and i != 3]
            codes = toy_sids().codes
            assert {tuple(sid) for sid in alive} == {tuple(codes[i].tolist()) for i in left}

    def test_long_lists_are_searched_in_smaller_batches(
        self, recommender: Recommender, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        allowed = recommender.item_set([raw(item) for item in range(0, NUM_ITEMS, 2)])
        whole = recommender.recommend(list(HISTORIES), 4, allowed=allowed)
        sizes = []
        search = recommender.searcher.beams

        def noting(batch: Any, *rest: Any) -> Any:
            sizes.append(len(batch))
            return search(batch, *rest)

        monkeypatch.setattr(recommender.searcher, "beams", noting)
        monkeypatch.setattr(serving, "_MOST_NODES", 2 * allowed.num_nodes + 1)
        parts = recommender.recommend(list(HISTORIES), 4, allowed=allowed)
        assert sizes == [2, 1]
        assert [items_of(listed) for listed in parts] == [items_of(listed) for listed in whole]

    def test_nothing_is_left(self, recommender: Recommender) -> None:
        everything = [raw(item) for item in range(NUM_ITEMS)]
        assert recommender.recommend(["u0", "u1"], exclude=everything) == [[], []]
        assert recommender.recommend(["u0", "u1"], allowed=[]) == [[], []]

    def test_diversity(self, recommender: Recommender) -> None:
        listed = recommender.recommend(["u1"], 30, max_per_sid1=1)[0]
        sids = {r.sid for r in listed}
        assert len({sid[0] for sid in sids}) == len(sids) > 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"n": 0}, "n is 0; it must be at least 1"),
        ({"beam_width": 0}, "beam_width is 0; it must be at least 1"),
        ({"max_per_sid1": 0}, "max_per_sid1 is 0; it must be at least 1"),
        ({"unknown": "raise"}, "unknown is 'raise'; it must be 'cold' or 'error'"),
        ({"users": "u0"}, "users is 'u0'; it must be a list of names"),
        ({"allowed": ["i1", "no"]}, "allowed holds 1 that the model does not know: 'no'; leave"),
        ({"exclude": {"u0": "i1"}}, "exclude is 'i1'; it must be a list of raw item ids"),
    ],
)
def test_refuses_requests(recommender: Recommender, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recommender.recommend(**{"users": ["u0"], **asked})


def test_refuses_events_and_keeps_what_it_has() -> None:
    recommender = toy_recommender(CONFIGS["copying"])
    recommender.observe("u0", ["i1"], 100)
    before = recommender.recommend(["u0"])
    for user, items, times, message in [
        ("u0", ["i1", "x", "y"], None, "items holds 2 that the model does not know: 'x', 'y'"),
        ("u0", [1, 2], None, r"holds 2 that .* 1, 2; .* \(it knows 'i0', 'i1'"),
        ("u0", "i1", None, "items is 'i1'; it must be a list of raw item ids"),
        (7, ["i1"], None, "user is 7; it must be a string"),
        ("u0", ["i1"], 99, r"times\[0\] is 99, earlier than 100 of the event before it"),
        ("u1", ["i1", "i2"], [5, 4], r"times\[1\] is 4, earlier than 5"),
        ("u0", ["i1", "i2"], [100], "times holds 1 numbers for 2 items"),
    ]:
        with pytest.raises(ValueError, match=message):
            recommender.observe(user, items, times)
    assert recommender.recommend(["u0"]) == before
    assert recommender.num_users == 1
    recommender.observe("u1", [])
    assert recommender.num_users == 1
    for settings in ({"max_history": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="is 0; it must be at least 1"):
            toy_recommender(**settings)


def test_now_is_a_visit_of_its_own() -> None:
    recommender = toy_recommender(CONFIGS["copying"])
    recommender.observe("u0", ["i1", "i2"])
    recommender.observe("u0", ["i3"], 2**40)  # a clock ahead of ours
    recommender.observe("u0", ["i4"])
    [taken] = recommender.snapshots(["u0"])
    assert taken.events is not None
    times, visits = (part.tolist() for part in taken.events[1:])
    assert times[0] == times[1] > 1.7e9
    assert times[2:] == [2**40, 2**40]
    assert visits == [0, 0, 1, 1]
    ordinal = toy_recommender(
        CONFIGS["copying"], settings={"time_unit": "ordinal", "target_group": "event"}
    )
    for _ in range(2):
        ordinal.observe("u0", ["i1", "i2"])
    [taken] = ordinal.snapshots(["u0"])
    assert taken.events is not None
    assert [part.tolist() for part in taken.events[1:]] == [[1, 1, 2, 2], [1, 2, 3, 4]]


@pytest.mark.parametrize("config", ["all", "copying"])
def test_threads_see_states_that_existed(config: str) -> None:
    """Users a and b act in turn, so of their events b has as many as a, or one less."""
    events = np.random.default_rng(3).integers(0, NUM_ITEMS, 40).tolist()
    single, expected = toy_recommender(CONFIGS[config]), []
    for item in [None, *events]:
        if item is not None:
            single.observe("a", [raw(item)], 1)
        expected.append(single.recommend(["a"], 4)[0])
    shared, problems = toy_recommender(CONFIGS[config]), []
    done = threading.Event()

    def step(listed: Any, first: int) -> int:
        for number in range(first, len(expected)):
            same = items_of(listed) == items_of(expected[number])
            if same and np.allclose(
                [r.score for r in listed], [r.score for r in expected[number]], atol=1e-5
            ):
                return number
        raise AssertionError("a list of no state, or of one that is over")

    def read() -> None:
        try:
            first = 0
            while True:
                last = done.is_set()
                a, b = shared.recommend(["a", "b"], 4)
                first = step(b, first)
                assert step(a, first) - first <= 1
                if last:
                    break
        except Exception as error:
            problems.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for reader in readers:
            reader.start()
        for item in events:
            shared.observe("a", [raw(item)], 1)
            shared.observe("b", [raw(item)], 1)
    finally:
        done.set()
        for reader in readers:
            reader.join()
        sys.setswitchinterval(interval)
    assert not problems
    assert shared.recommend(["a"], 4)[0] == shared.recommend(["b"], 4)[0]


def test_a_reader_waits_for_an_event_that_is_half_there(monkeypatch: pytest.MonkeyPatch) -> None:
    recommender = toy_recommender()
    recommender.observe("a", ["i1"] * 9, 1)
    inside, go_on, taken = threading.Event(), threading.Event(), []
    update = Histories._update_searched

    def slowly(self: Histories, *rest: Any) -> None:
        inside.set()
        assert go_on.wait(60)
        update(self, *rest)

    monkeypatch.setattr(Histories, "_update_searched", slowly)
    writer = threading.Thread(target=lambda: recommender.observe("a", ["i2"] * 9, 1))
    reader = threading.Thread(target=lambda: taken.extend(recommender.snapshots(["a"])))
    writer.start()
    assert inside.wait(60)
    reader.start()
    reader.join(0.3)
    assert reader.is_alive()
    go_on.set()
    for thread in (writer, reader):
        thread.join(60)
    assert taken[0].searched == taken[0].tiers[0].sum() == 18
