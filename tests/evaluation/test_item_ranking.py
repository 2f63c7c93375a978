"""Item lists of semantic IDs: by hand, against a slow reference, and without a look ahead."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import exp, inf, log

import numpy as np
import pytest

from glass.evaluation import (
    SidCatalogue,
    Targets,
    rank_items,
    rank_metrics,
    read_predictions,
    write_predictions,
)
from glass.evaluation import arrays as evaluation_arrays

# Items 0..5 -> SIDs: 0 has item 0, 1 has items 1 to 3, 2 has items 4 and 5.
CATALOGUE = SidCatalogue(np.array([[0, 0], [1, 0], [1, 0], [1, 0], [2, 7], [2, 7]]))
# Training counts 0, 3, 1, 0, 2, 2.
OTHERS = [("train", [1, 1, 1, 2, 4, 4, 5, 5])]


def slow(sids, log_probs, dataset, samples, catalogue, prior):
    """[(item, log P(item | user))] of each sample, best first, one loop after the other."""
    lists = []
    for s in range(len(samples.users)):
        history = dataset.items[samples.history_start[s] : samples.history_end[s]]
        own = Counter(history.tolist())
        found = []
        for sid in dict.fromkeys(sid for sid in sids[s].tolist() if sid >= 0):
            place = sids[s].tolist().index(sid)
            items = [v for v in range(catalogue.num_items) if catalogue.sid_of_item[v] == sid]
            own_sid = sum(own[v] for v in items)
            popular = sum(int(dataset.train_counts[v]) + 1 for v in items)
            for v in items:
                share = prior * (int(dataset.train_counts[v]) + 1) / popular
                q = (own[v] + share) / (own_sid + prior)
                found.append((v, float(log_probs[s, place]) + log(q)))
        lists.append(sorted(found, key=lambda pair: (-pair[1], pair[0])))
    return lists


class TestByHand:
    @pytest.fixture
    def dataset(self, dataset_of):
        # The second user took item 3 twice and item 4 once before the test basket.
        return dataset_of([OTHERS, [("valid", [3, 4, 3]), ("test", [2])]], 6)

    def test_habit_beats_popularity_within_a_sid(self, dataset):
        ranked = rank_items(
            np.array([[1, 2, -1]]),
            np.log(np.array([[0.5, 0.25, 0.125]])),
            dataset,
            dataset.samples("test"),
            CATALOGUE,
            width=7,
        )
        # SID 1: own 0, 0, 2; popularity 4, 2, 1 of 7. SID 2: own 1, 0; popularity 3, 3 of 6.
        chance = {
            1: 0.5 * (0 + 4 / 7) / 3,
            2: 0.5 * (0 + 2 / 7) / 3,
            3: 0.5 * (2 + 1 / 7) / 3,
            4: 0.25 * (1 + 1 / 2) / 2,
            5: 0.25 * (0 + 1 / 2) / 2,
        }
        # Item 4 of the second SID stands before the rest of the first.
        order = [3, 4, 1, 5, 2]
        assert ranked.items.tolist() == [[*order, -1, -1]]
        assert ranked.scores[0, :5] == pytest.approx([log(chance[item]) for item in order])
        assert ranked.scores[0, 5:].tolist() == [-inf, -inf]
        assert sum(chance.values()) == pytest.approx(0.75)
        assert ranked.items.dtype == np.int32
        assert ranked.scores.dtype == np.float64

    def test_prior_weighs_popularity_against_habit(self, dataset):
        given = (np.array([[1]]), np.zeros((1, 1)), dataset, dataset.samples("test"), CATALOGUE)
        habit = rank_items(*given, prior=0.01)
        assert habit.items.tolist() == [[3, 1, 2]]
        popular = rank_items(*given, prior=1000.0)
        assert popular.items.tolist() == [[1, 2, 3]]
        assert np.exp(popular.scores) == pytest.approx(np.array([[4, 2, 1]]) / 7, abs=2e-3)

    def test_of_a_sid_with_one_item_only_the_sid_counts(self, dataset):
        ranked = rank_items(
            np.array([[0]]),
            np.array([[-2.5]], np.float32),
            dataset,
            dataset.samples("test"),
            CATALOGUE,
        )
        assert ranked.items.tolist() == [[0]]  # never seen in training, and yet possible
        assert ranked.scores.tolist() == [[-2.5]]

    def test_ties_go_to_the_lower_item_whatever_the_order_of_the_beams(self, dataset_of):
        catalogue = SidCatalogue(np.array([[0], [1], [0], [1]]))
        dataset = dataset_of([[("train", [0]), ("test", [0])]], 4)
        samples = replace(dataset.samples("test"), history_end=np.array([0]))  # no history
        dataset = replace(dataset, split=np.array([1, 2], np.int8))  # no training counts
        for sids in ([[0, 1]], [[1, 0]]):
            ranked = rank_items(np.array(sids), np.full((1, 2), -1.0), dataset, samples, catalogue)
            assert ranked.items.tolist() == [[0, 1, 2, 3]]
            assert ranked.scores.tolist() == [[-1 + log(0.5)] * 4]

    def test_a_repeated_sid_counts_once_at_its_first_place(self, dataset):
        samples = dataset.samples("test")
        once = rank_items(np.array([[2]]), np.array([[-1.0]]), dataset, samples, CATALOGUE)
        twice = rank_items(
            np.array([[-1, 2, 2]]), np.array([[0.0, -1.0, -3.0]]), dataset, samples, CATALOGUE
        )
        assert twice.items.tolist() == once.items.tolist() == [[4, 5]]
        assert twice.scores.tolist() == once.scores.tolist()

    def test_empty_beams_and_no_samples(self, dataset):
        samples = dataset.samples("test")
        dead = rank_items(
            np.full((1, 3), -1), np.full((1, 3), -inf), dataset, samples, CATALOGUE, width=4
        )
        assert dead.items.tolist() == [[-1] * 4]
        assert dead.scores.tolist() == [[-inf] * 4]
        none = rank_items(
            np.zeros((0, 3), int), np.zeros((0, 3)), dataset, dataset.samples("valid"), CATALOGUE
        )
        assert len(none.items) == 0

    def test_refuses_bad_input(self, dataset):
        samples = dataset.samples("test")

        def attempt(sids=((0, 1),), scores=((0.0, -1.0),), catalogue=CATALOGUE, **settings):
            rank_items(np.array(sids), np.array(scores), dataset, samples, catalogue, **settings)

        attempt()
        for prior in (0.0, -1.0, inf, float("nan")):
            with pytest.raises(ValueError, match="prior="):
                attempt(prior=prior)
        with pytest.raises(ValueError, match="width=0"):
            attempt(width=0)
        with pytest.raises(ValueError, match=r"-1\.\.2, got 0\.\.3"):
            attempt(sids=((0, 3),))
        with pytest.raises(ValueError, match="NaN"):
            attempt(scores=((0.0, float("nan")),))
        with pytest.raises(ValueError, match="a list a sample"):
            attempt(scores=((0.0,),))
        with pytest.raises(ValueError, match="build the SIDs from this data set"):
            attempt(catalogue=SidCatalogue(np.arange(5)[:, None]))


def random_case(random_data, seed, width):
    """Random baskets, SIDs and beams; some samples have no history, some beams are dead."""
    rng = np.random.default_rng(seed)
    dataset = random_data(seed, num_users=6, num_items=25)
    samples = dataset.samples("test")
    end = np.where(rng.random(len(samples.users)) < 0.2, samples.history_start, samples.history_end)
    samples = replace(samples, history_end=end)
    catalogue = SidCatalogue(rng.integers(0, 3, size=(25, 2)))
    sids = rng.integers(-1, catalogue.num_sids, size=(len(end), width))
    return dataset, samples, catalogue, sids, rng.normal(size=sids.shape)


@pytest.mark.parametrize("prior", [0.1, 1.0, 7.0])
@pytest.mark.parametrize(("seed", "width"), [(seed, 1 + 3 * seed % 8) for seed in range(12)])
def test_against_the_slow_reference(random_data, seed, width, prior):
    dataset, samples, catalogue, sids, log_probs = random_case(random_data, seed, width)
    ranked = rank_items(sids, log_probs, dataset, samples, catalogue, prior=prior)
    expected = slow(sids, log_probs, dataset, samples, catalogue, prior)
    assert ranked.items.shape[1] == max(1, *map(len, expected))
    for row, pairs in enumerate(expected):
        n = len(pairs)
        assert ranked.items[row, :n].tolist() == [item for item, _ in pairs]
        assert ranked.scores[row, :n] == pytest.approx([score for _, score in pairs])
        assert (ranked.items[row, n:] == -1).all()
        # The shares of a SID sum to 1, so those of the list to what its SIDs have.
        first = {sid: at for at, sid in reversed(list(enumerate(sids[row].tolist())))}
        total = sum(exp(log_probs[row, at]) for sid, at in first.items() if sid >= 0)
        assert sum(exp(score) for _, score in pairs) == pytest.approx(total)
    short = rank_items(sids, log_probs, dataset, samples, catalogue, prior=prior, width=3)
    common = min(3, ranked.items.shape[1])
    assert np.array_equal(short.items[:, :common], ranked.items[:, :common])


def test_chunks_change_nothing(random_data, monkeypatch):
    dataset, samples, catalogue, sids, log_probs = random_case(random_data, 5, 6)
    whole = rank_items(sids, log_probs, dataset, samples, catalogue)
    monkeypatch.setattr(evaluation_arrays, "MAX_CELLS", 17)
    parts = rank_items(sids, log_probs, dataset, samples, catalogue)
    assert np.array_equal(parts.items, whole.items)
    assert np.array_equal(parts.scores, whole.scores)


def test_nothing_at_or_after_the_target_counts(random_data):
    dataset, _, catalogue, sids, log_probs = random_case(random_data, 3, 6)
    samples = dataset.samples("test")
    before = rank_items(sids, log_probs, dataset, samples, catalogue)
    rng = np.random.default_rng(0)
    differs = False
    for row in range(len(samples.users)):
        # Everything of this user from the target on, which may be another sample's history.
        later = slice(samples.history_end[row], dataset.user_offsets[samples.users[row] + 1])
        items = dataset.items.copy()
        items[later] = rng.integers(0, 25, size=items[later].shape)
        changed = replace(dataset, items=items)
        assert np.array_equal(changed.train_counts, dataset.train_counts)
        after = rank_items(sids, log_probs, changed, samples, catalogue)
        assert np.array_equal(after.items[row], before.items[row])
        assert np.array_equal(after.scores[row], before.scores[row])
        differs |= not np.array_equal(after.scores, before.scores)
    assert differs  # of later samples of the same user, whose history it is


def test_metrics_judge_the_list_and_predictions_keep_it(random_data, tmp_path):
    dataset, _, catalogue, sids, log_probs = random_case(random_data, 8, 6)
    samples = dataset.samples("test")
    targets = Targets.from_samples(dataset, samples)
    items = rank_items(sids, log_probs, dataset, samples, catalogue, width=6).items
    path = tmp_path / "glass.parquet"
    write_predictions(path, samples.users, sids, log_probs, items)
    stored = read_predictions(path).items
    assert stored is not None
    assert np.array_equal(stored, items)
    metrics = rank_metrics(sids, targets, catalogue, (1, 5), items=stored)
    hits = [
        int(item in items[sample, :5].tolist())
        for item, sample in zip(targets.item.tolist(), targets.sample.tolist(), strict=True)
    ]
    assert metrics.per_target("item_hit@5").tolist() == hits
    assert 0 < sum(hits) < len(hits)
