"""Hit and NDCG by hand, against simulation and against ranx."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glass.evaluation import SidCatalogue, Targets, rank_metrics
from glass.evaluation import arrays as evaluation_arrays

# Items 0..5 -> SIDs: 0 has one item, 1 has three, 2 has two.
CODES = np.array([[0, 0], [1, 0], [1, 0], [1, 0], [2, 7], [2, 7]])


@pytest.fixture
def catalogue():
    return SidCatalogue(CODES)


def test_sid_level_by_hand(catalogue, targets_of):
    ranked = np.array([[2, -1, 2, 0, -1, 1]])
    metrics = rank_metrics(ranked, targets_of([4, 0, 3, 5], [0, 0, 0, 0]), catalogue, (1, 2, 3))
    # -1 and the repetition of 2 take no place.
    assert metrics.sid_rank.tolist() == [1, 2, 3, 1]
    assert metrics.per_target("hit@1").tolist() == [1, 0, 0, 1]
    assert metrics.per_target("hit@2").tolist() == [1, 1, 0, 1]
    assert metrics.per_target("ndcg@3") == pytest.approx([1, 1 / log2(3), 0.5, 1], rel=1e-12)
    assert metrics.per_target("ndcg@2") == pytest.approx([1, 1 / log2(3), 0, 1], rel=1e-12)
    assert metrics.summary()["hit@1"] == 0.5


def test_split_credit_by_hand(catalogue, targets_of):
    # SID 2 takes places 1-2, SID 0 place 3, SID 1 places 4-6.
    ranked = np.array([[2, 0, 1]])
    metrics = rank_metrics(ranked, targets_of([4, 0, 1], [0, 0, 0]), catalogue, (1, 2, 3, 5))
    assert metrics.per_target("split_item_hit@1").tolist() == [1 / 2, 0, 0]
    assert metrics.per_target("split_item_hit@2").tolist() == [1, 0, 0]
    assert metrics.per_target("split_item_hit@3").tolist() == [1, 1, 0]
    assert metrics.per_target("split_item_hit@5") == pytest.approx([1, 1, 2 / 3])
    gains = [1 / log2(rank + 1) for rank in range(1, 7)]
    expected = [(gains[0] + gains[1]) / 2, gains[2], (gains[3] + gains[4]) / 3]
    assert metrics.per_target("split_item_ndcg@5") == pytest.approx(expected)
    assert metrics.per_target("split_item_ndcg@1") == pytest.approx([0.5, 0, 0])


def test_absent_targets_score_zero(catalogue, targets_of):
    metrics = rank_metrics(np.array([[0, -1, -1]]), targets_of([4]), catalogue, (1, 3))
    assert metrics.sid_rank.tolist() == [0]
    assert set(metrics.summary().values()) == {0.0}


def test_own_item_ranking(catalogue, targets_of):
    targets = targets_of([2, 5], [0, 0])
    metrics = rank_metrics(
        np.array([[1, 2, 0]]), targets, catalogue, (1, 3), items=np.array([[-1, 1, 2, 1, 0, 5]])
    )
    assert metrics.item_rank is not None
    assert metrics.item_rank.tolist() == [2, 4]
    assert metrics.per_target("item_hit@3").tolist() == [1, 0]
    assert metrics.per_target("item_ndcg@3").tolist() == [1 / log2(3), 0]
    assert metrics.per_target("hit@1").tolist() == [1, 0]
    # The list of items changes nothing about the credit of SIDs: places 1-3 and 4-5.
    assert metrics.per_target("split_item_hit@3").tolist() == [1, 0]
    assert metrics.per_target("split_item_hit@1") == pytest.approx([1 / 3, 0])


def test_collision_credit_is_the_mean_over_random_orders(targets_of):
    rng = np.random.default_rng(0)
    catalogue = SidCatalogue(rng.integers(0, 3, size=(30, 2)))
    ranked = np.stack([rng.permutation(catalogue.num_sids) for _ in range(8)])
    targets = targets_of(rng.integers(0, 30, size=8))
    metrics = rank_metrics(ranked, targets, catalogue, (1, 5, 8))
    draws = 4000
    totals = {name: np.zeros(8) for name in metrics.names if name.startswith("split")}
    for row in range(8):
        # The SID's place in the list decides, a random number orders its items.
        key = np.argsort(ranked[row])[catalogue.sid_of_item] + rng.random((draws, 30))
        rank = 1 + (key < key[:, targets.item[row], None]).sum(axis=1)
        for k in (1, 5, 8):
            totals[f"split_item_hit@{k}"][row] = (rank <= k).sum()
            totals[f"split_item_ndcg@{k}"][row] = ((rank <= k) / np.log2(rank + 1)).sum()
    for name, total in totals.items():
        # Standard error of a mean of numbers in [0, 1] is at most 0.5 / sqrt(draws) = 0.008.
        assert np.abs(metrics.per_target(name) - total / draws).max() < 0.035, name


@pytest.mark.slow  # importing ranx
def test_ranx_agrees_at_sid_level(targets_of, monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # compiling its functions takes a minute
    ranx = pytest.importorskip("ranx")
    rng = np.random.default_rng(1)
    catalogue = SidCatalogue(np.arange(50)[:, None])
    ranked = np.stack([rng.permutation(50)[:20] for _ in range(40)])
    targets = targets_of(rng.integers(0, 50, size=40))
    metrics = rank_metrics(ranked, targets, catalogue, (1, 3, 10, 20))
    qrels = ranx.Qrels({str(row): {str(item): 1} for row, item in enumerate(targets.item)})
    run = ranx.Run(
        {
            str(row): {str(sid): 100.0 - place for place, sid in enumerate(sids)}
            for row, sids in enumerate(ranked)
        }
    )
    for k in (1, 3, 10, 20):
        expected = ranx.evaluate(qrels, run, [f"hit_rate@{k}", f"ndcg@{k}"])
        ours = metrics.summary()
        assert ours[f"hit@{k}"] == pytest.approx(expected[f"hit_rate@{k}"])
        assert ours[f"ndcg@{k}"] == pytest.approx(expected[f"ndcg@{k}"])
    assert 0 < metrics.summary()["hit@10"] < 1


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 12))
def test_ranks_against_a_loop(seed, num_samples, width):
    rng = np.random.default_rng(seed)
    catalogue = SidCatalogue(rng.integers(0, 3, size=(15, 2)))
    ranked = rng.integers(-1, catalogue.num_sids, size=(num_samples, width))
    n = int(rng.integers(0, 20))
    sample, item = rng.integers(0, num_samples, size=n), rng.integers(0, 15, size=n)
    targets = Targets(sample, sample.astype(np.int32), item.astype(np.int32), item > 7, item)
    metrics = rank_metrics(ranked, targets, catalogue, (1,))
    for row in range(n):
        kept = list(dict.fromkeys(sid for sid in ranked[sample[row]].tolist() if sid >= 0))
        truth = int(catalogue.sid_of_item[item[row]])
        if truth not in kept:
            assert (metrics.sid_rank[row], metrics.split_first[row]) == (0, 0)
            continue
        place = kept.index(truth)
        assert metrics.sid_rank[row] == place + 1
        assert metrics.split_first[row] == 1 + sum(catalogue.sizes[sid] for sid in kept[:place])
        assert metrics.split_places[row] == catalogue.sizes[truth]


def test_chunks_change_nothing(monkeypatch, targets_of):
    rng = np.random.default_rng(2)
    catalogue = SidCatalogue(rng.integers(0, 3, size=(15, 2)))
    ranked = rng.integers(-1, catalogue.num_sids, size=(9, 6))
    targets = targets_of(rng.integers(0, 15, size=40), rng.integers(0, 9, size=40))
    whole = rank_metrics(ranked, targets, catalogue, (1, 5)).summary()
    monkeypatch.setattr(evaluation_arrays, "MAX_CELLS", 13)
    assert rank_metrics(ranked, targets, catalogue, (1, 5)).summary() == whole


def test_summary_of_a_mask(catalogue, targets_of):
    targets = targets_of([4, 0, 1], [0, 0, 0], repeat=[True, False, True])
    metrics = rank_metrics(np.array([[2, 0, 1]]), targets, catalogue, (1, 3))
    assert metrics.summary(targets.repeat)["hit@1"] == 0.5
    assert metrics.summary(targets.first_time)["hit@1"] == 0.0
    assert metrics.summary(np.zeros(3, bool)) == {}
    assert list(metrics.summary()) == list(metrics.names)
    assert "split_item_ndcg@3" in metrics.names
    assert "item_ndcg@3" not in metrics.names  # no items were ranked
    with pytest.raises(ValueError, match="item_ndcg@3"):
        metrics.per_target("item_ndcg@3")
    with pytest.raises(ValueError, match="mask"):
        metrics.summary(np.zeros(2, bool))


def test_refuses_bad_input(catalogue, targets_of):
    targets = targets_of([0])
    good = np.array([[0, 1, 2]])
    with pytest.raises(ValueError, match="ks"):
        rank_metrics(good, targets, catalogue, ())
    with pytest.raises(ValueError, match="ks"):
        rank_metrics(good, targets, catalogue, (0, 1))
    with pytest.raises(ValueError, match="beam_width"):
        rank_metrics(good[:, :2], targets, catalogue, (1, 3))
    with pytest.raises(ValueError, match=r"-1\.\.2"):
        rank_metrics(np.array([[0, 1, 3]]), targets, catalogue, (1,))
    with pytest.raises(ValueError, match=r"-1\.\.5"):
        rank_metrics(good, targets, catalogue, (1,), items=np.array([[6]]))
    with pytest.raises(ValueError, match="samples"):
        rank_metrics(good, targets_of([0], [1]), catalogue, (1,))
    with pytest.raises(ValueError, match="same data set"):
        rank_metrics(good, targets_of([6]), catalogue, (1,))
    with pytest.raises(ValueError, match="integer"):
        rank_metrics(good.astype(float), targets, catalogue, (1,))
    with pytest.raises(ValueError, match="hit@7"):
        rank_metrics(good, targets, catalogue, (1,)).per_target("hit@7")


def test_a_catalogue_smaller_than_the_cut_off_is_fine(catalogue, targets_of):
    metrics = rank_metrics(np.array([[2, 1, 0]]), targets_of([0]), catalogue, (20,))
    assert metrics.summary()["hit@20"] == 1.0
