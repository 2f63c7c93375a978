"""Baselines by hand, against loops, and against leaks from later events."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from glass.evaluation import (
    SidCatalogue,
    Targets,
    choose_half_life,
    rank_item_knn,
    rank_metrics,
    rank_own_frequency,
    rank_popularity,
    rank_recent_frequency,
)
from glass.evaluation import arrays as evaluation_arrays
from glass.evaluation.item_knn import item_neighbours

BASELINES = {
    "popularity": rank_popularity,
    "own_frequency": rank_own_frequency,
    "recent_frequency": lambda *args: rank_recent_frequency(*args, half_life=3.0),
    "item_knn": lambda *args: rank_item_knn(*args, num_neighbours=5),
}
UNIQUE = SidCatalogue(np.arange(5)[:, None])
# Items 1 and 4 share SID 1; the SIDs of 0, 2, 3 are 0, 2, 3.
SHARED = SidCatalogue(np.array([[0], [1], [2], [3], [1]]))


def test_popularity_by_hand(dataset_of):
    dataset = dataset_of(
        [[("train", [3, 3, 3, 1, 1]), ("test", [0])], [("train", [2, 2, 4, 4]), ("valid", [0, 0])]],
        5,
    )
    ranking = rank_popularity(dataset, dataset.samples("test"), SHARED, 6)
    # Counts 0, 2, 2, 3, 2; equal counts by item id. SID 1 has 2 + 2.
    assert ranking.items.tolist() == [[3, 1, 2, 4, 0, -1]]
    assert ranking.sids.tolist() == [[1, 3, 2, 0, -1, -1]]
    assert ranking.items.dtype == ranking.sids.dtype == np.int32


def test_own_frequency_by_hand(dataset_of):
    dataset = dataset_of(
        [
            [("train", [4, 1, 2, 3]), ("valid", [2, 3]), ("test", [0])],
            [("train", [0, 0, 0, 1]), ("test", [2])],
        ],
        5,
    )
    ranking = rank_own_frequency(dataset, dataset.samples("test"), UNIQUE, 5)
    # 3 and 2 twice, 3 more recently (the validation basket is history); then 1, 4 by recency;
    # item 0 is the most popular one that is left. User 1: 0, 1, then popularity 2, 3, 4 (ties).
    assert ranking.items.tolist() == [[3, 2, 1, 4, 0], [0, 1, 2, 3, 4]]
    shared = rank_own_frequency(dataset, dataset.samples("test"), SHARED, 5)
    # SID 1 collects items 1 and 4: twice, but longer ago than 3 and 2.
    assert shared.sids.tolist() == [[3, 2, 1, 0, -1], [0, 1, 2, 3, -1]]


def test_recent_frequency_by_hand(dataset_of):
    # Newest first: 0 at age 0, 1 at ages 1 and 3, 2 at ages 2, 4, 5.
    dataset = dataset_of([[("train", [2, 2, 1, 2, 1, 0]), ("test", [3])]], 5)
    samples = dataset.samples("test")

    def ranked(half_life):
        ranking = rank_recent_frequency(dataset, samples, UNIQUE, 3, half_life=half_life)
        return ranking.items[0].tolist()

    # Half-life 1: 1, 1/2 + 1/8, 1/4 + 1/16 + 1/32.
    assert ranked(1.0) == [0, 1, 2]
    assert ranked(1e9) == [2, 1, 0]
    assert ranked(math.inf) == [2, 1, 0]
    # Half-life 3: 1, 2^(-1/3) + 2^(-1) = 1.29, 2^(-2/3) + 2^(-4/3) + 2^(-5/3) = 1.34.
    assert ranked(3.0) == [2, 1, 0]
    # Half-life 2: 1, 2^(-1/2) + 2^(-3/2) = 1.06, 2^-1 + 2^-2 + 2^(-5/2) = 0.93.
    assert ranked(2.0) == [1, 0, 2]


def test_recent_frequency_against_a_loop(random_data):
    dataset = random_data(3)
    catalogue = SidCatalogue(np.random.default_rng(0).integers(0, 4, size=(40, 2)))
    samples = dataset.samples("test")
    ranking = rank_recent_frequency(dataset, samples, catalogue, 12, half_life=4.0)
    of_sid = np.bincount(catalogue.sid_of_item, weights=dataset.train_counts)
    popular = np.argsort(-of_sid, kind="stable").tolist()
    for row in range(len(samples.users)):
        score, last = defaultdict(float), {}
        history = dataset.items[samples.history_start[row] : samples.history_end[row]]
        for position, item in enumerate(history):
            sid = int(catalogue.sid_of_item[item])
            score[sid] += 2 ** (-(len(history) - 1 - position) / 4.0)
            last[sid] = position
        own = sorted(score, key=lambda sid: (-score[sid], -last[sid]))
        expected = (own + [sid for sid in popular if sid not in score] + [-1] * 12)[:12]
        assert ranking.sids[row].tolist() == expected


def test_item_knn_by_hand(dataset_of):
    dataset = dataset_of(
        [
            [("train", [0, 1, 1])],
            [("train", [0, 1, 2])],
            [("train", [2, 3])],
            [("train", [0]), ("test", [1])],
        ],
        5,
    )
    # Users of 0: {0,1,3}, of 1: {0,1}, of 2: {1,2}, of 3: {2}.
    cosine = item_neighbours(dataset, 4).toarray()
    expected = np.zeros((5, 5))
    expected[0, 1] = 2 / math.sqrt(3 * 2)
    expected[0, 2] = 1 / math.sqrt(3 * 2)
    expected[1, 2] = 1 / 2
    expected[2, 3] = 1 / math.sqrt(2)
    assert cosine == pytest.approx(expected + expected.T)
    nearest = item_neighbours(dataset, 1).toarray()
    assert np.count_nonzero(nearest, axis=1).tolist() == [1, 1, 1, 1, 0]
    ranking = rank_item_knn(dataset, dataset.samples("test"), UNIQUE, 5, num_neighbours=4)
    # History {0}: 1 (.82), 2 (.41); no score: by training popularity 0 (3), 3 (1), 4 (0).
    assert ranking.items.tolist() == [[1, 2, 0, 3, 4]]


def test_item_knn_against_dense_algebra(random_data):
    dataset = random_data(5)
    rng = np.random.default_rng(0)
    catalogue = SidCatalogue(rng.integers(0, 4, size=(40, 2)))
    samples = dataset.samples("test")
    seen = np.zeros((dataset.num_users, 40))
    seen[dataset.train_events()] = 1
    norm = np.sqrt(np.maximum(seen.sum(0), 1))
    cosine = seen.T @ seen / np.outer(norm, norm)
    np.fill_diagonal(cosine, 0)
    for row in cosine:
        row[np.argsort(-row, kind="stable")[6:]] = 0
    for count_weight in (False, True):
        ranking = rank_item_knn(
            dataset, samples, catalogue, 10, num_neighbours=6, count_weight=count_weight
        )
        for row in range(len(samples.users)):
            history = dataset.items[samples.history_start[row] : samples.history_end[row]]
            items, counts = np.unique(history, return_counts=True)
            weight = 1 + np.log(counts) if count_weight else np.ones(len(items))
            score = weight @ cosine[items]
            of_sid = np.bincount(catalogue.sid_of_item, weights=score)
            # Scores rather than ids: equal sums may differ in their last bit.
            assert score[ranking.items[row]] == pytest.approx(np.sort(score)[::-1][:10])
            assert of_sid[ranking.sids[row]] == pytest.approx(np.sort(of_sid)[::-1][:10])


@pytest.mark.parametrize("name", BASELINES)
def test_lists_are_distinct_and_full(random_data, name):
    dataset = random_data(1)
    catalogue = SidCatalogue(np.random.default_rng(0).integers(0, 4, size=(40, 2)))
    samples = dataset.samples("test")
    ranking = BASELINES[name](dataset, samples, catalogue, 45)
    assert ranking.items.shape == ranking.sids.shape == (len(samples.users), 45)
    for lists, total in ((ranking.items, 40), (ranking.sids, catalogue.num_sids)):
        assert (lists[:, total:] == -1).all()
        assert (np.sort(lists[:, :total], axis=1) == np.arange(total)).all()


@pytest.mark.parametrize("name", BASELINES)
def test_chunks_change_nothing(random_data, monkeypatch, name):
    dataset = random_data(2)
    catalogue = SidCatalogue(np.random.default_rng(0).integers(0, 4, size=(40, 2)))
    samples = dataset.samples("test")
    whole = BASELINES[name](dataset, samples, catalogue, 8)
    monkeypatch.setattr(evaluation_arrays, "MAX_CELLS", 90)
    chunked = BASELINES[name](dataset, samples, catalogue, 8)
    assert np.array_equal(whole.items, chunked.items)
    assert np.array_equal(whole.sids, chunked.sids)


@pytest.mark.parametrize("name", BASELINES)
def test_a_sample_sees_nothing_of_its_targets_or_later(random_data, name):
    dataset = random_data(4)
    catalogue = SidCatalogue(np.random.default_rng(0).integers(0, 4, size=(40, 2)))
    rng = np.random.default_rng(9)
    samples = dataset.samples("test")
    before = BASELINES[name](dataset, samples, catalogue, 10)
    valid_before = BASELINES[name](dataset, dataset.samples("valid"), catalogue, 10)
    # Every test event changes: first test groups have unchanged histories, as has validation.
    test = dataset.split == 2
    items = np.where(test, (dataset.items + rng.integers(1, 40, len(test))) % 40, dataset.items)
    changed = replace(dataset, items=items.astype(np.int32))
    after = BASELINES[name](changed, samples, catalogue, 10)
    valid_after = BASELINES[name](changed, dataset.samples("valid"), catalogue, 10)
    first = np.r_[True, samples.users[1:] != samples.users[:-1]]
    for level in ("items", "sids"):
        assert np.array_equal(getattr(before, level)[first], getattr(after, level)[first])
        assert np.array_equal(getattr(valid_before, level), getattr(valid_after, level))
    if "frequency" in name:
        assert not np.array_equal(before.items[~first], after.items[~first])


@pytest.mark.parametrize("name", ["popularity", "item_knn"])
def test_nothing_is_fitted_on_validation_events(random_data, name):
    dataset = random_data(4)
    catalogue = SidCatalogue(np.arange(40)[:, None])
    samples = dataset.samples("valid")
    first = np.r_[True, samples.users[1:] != samples.users[:-1]]
    held_out = dataset.split > 0
    changed = replace(dataset, items=np.where(held_out, 39, dataset.items).astype(np.int32))
    before = BASELINES[name](dataset, samples, catalogue, 10)
    after = BASELINES[name](changed, samples, catalogue, 10)
    assert np.array_equal(before.items[first], after.items[first])


def test_half_life_is_chosen_on_validation(dataset_of):
    # Validation repeats the newest item (0), so a short half-life wins; tests say the opposite.
    users = [[("train", [1, 1, 1, 2, 2, 0]), ("valid", [0]), ("test", [1, 1, 1, 1])]] * 3
    dataset = dataset_of(users, 5)
    assert choose_half_life(dataset, UNIQUE, grid=(math.inf, 1.0), k=3) == 1.0
    users = [[("train", [1, 1, 1, 2, 2, 0]), ("valid", [1]), ("test", [0])]] * 3
    assert choose_half_life(dataset_of(users, 5), UNIQUE, grid=(1.0, math.inf), k=3) == math.inf
    assert choose_half_life(dataset_of(users, 5), UNIQUE, grid=(500.0, math.inf), k=3) == 500.0


def test_baselines_feed_the_metrics(random_data):
    dataset = random_data(6)
    catalogue = SidCatalogue(np.arange(40)[:, None])
    samples = dataset.samples("test")
    targets = Targets.from_samples(dataset, samples)
    ranking = rank_own_frequency(dataset, samples, catalogue, 40)
    metrics = rank_metrics(ranking.sids, targets, catalogue, (5, 40), items=ranking.items)
    summary = metrics.summary()
    # One item a SID: both levels are the same list.
    assert summary["hit@5"] == summary["item_hit@5"] > 0
    assert summary["hit@40"] == 1.0


def test_refuses_bad_input(random_data, dataset_of):
    dataset = random_data(0)
    catalogue = SidCatalogue(np.arange(40)[:, None])
    samples = dataset.samples("test")
    for name, rank in BASELINES.items():
        with pytest.raises(ValueError, match="width=0"):
            rank(dataset, samples, catalogue, 0)
        with pytest.raises(ValueError, match="5 items") as error:
            rank(dataset, samples, UNIQUE, 3)
        assert "40" in str(error.value), name
    with pytest.raises(ValueError, match="half_life=0"):
        rank_recent_frequency(dataset, samples, catalogue, 3, half_life=0)
    with pytest.raises(ValueError, match="num_neighbours=0"):
        rank_item_knn(dataset, samples, catalogue, 3, num_neighbours=0)
    with pytest.raises(ValueError, match="half-life"):
        choose_half_life(dataset, catalogue, grid=())
    with pytest.raises(ValueError, match="validation"):
        choose_half_life(dataset_of([[("train", [0, 1])]], 5), UNIQUE)


@pytest.mark.parametrize("name", BASELINES)
def test_no_samples(dataset_of, name):
    dataset = dataset_of([[("train", [0, 1])]], 5)
    ranking = BASELINES[name](dataset, dataset.samples("test"), UNIQUE, 4)
    assert ranking.items.shape == ranking.sids.shape == (0, 4)
