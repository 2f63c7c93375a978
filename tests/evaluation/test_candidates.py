"""Items that may be recommended: which they are, and that nothing ranks another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from glass.evaluation import (
    SidCatalogue,
    candidate_items,
    choose_half_life,
    generation_diagnostics,
    rank_item_knn,
    rank_items,
    rank_metrics,
    rank_own_frequency,
    rank_popularity,
    rank_recent_frequency,
)
from glass.evaluation.baselines import HALF_LIVES
from glass.evaluation.item_knn import item_neighbours
from glass.evaluation.targets import Targets

NUM_ITEMS = 40
BASELINES = {
    "popularity": rank_popularity,
    "own_frequency": rank_own_frequency,
    "recent_frequency": lambda *args: rank_recent_frequency(*args, half_life=3.0),
    # Neighbours without end: a limit is another one among candidates, see below.
    "item_knn": lambda *args: rank_item_knn(*args, num_neighbours=NUM_ITEMS),
}


def some(seed: int) -> np.ndarray:
    """bool [V]: every third item or so is a candidate, rare and frequent ones."""
    return np.random.default_rng(seed).random(NUM_ITEMS) < 0.4


def catalogues(seed: int) -> tuple[SidCatalogue, SidCatalogue]:
    """A catalogue of few candidates, and one of all items in which the others have SIDs of their
    own, numbered behind those of the candidates: what is left of its lists without these is what
    the first must give."""
    codes = np.random.default_rng(seed).integers(0, 4, size=(NUM_ITEMS, 2))
    chosen = some(100 + seed)
    apart = codes.copy()
    apart[~chosen, 0] = 10 + np.flatnonzero(~chosen)
    few = SidCatalogue(codes, chosen)
    assert len({*map(tuple, codes[chosen].tolist())} & {*map(tuple, codes[~chosen].tolist())}) > 2
    return few, SidCatalogue(apart)


def without(lists: np.ndarray, gone: np.ndarray, width: int) -> np.ndarray:
    """Lists [S, W] without numbers of which `gone` is true, padded with -1."""
    kept = [[n for n in row if n >= 0 and not gone[n]][:width] for row in lists.tolist()]
    return np.array([row + [-1] * (width - len(row)) for row in kept])


class TestWhichItems:
    def test_by_hand(self, dataset_of):
        dataset = dataset_of(
            [
                [("train", [0, 1]), ("train", [2, 1]), ("valid", [3]), ("test", [4])],
                [("train", [5]), ("valid", [5]), ("test", [5])],  # a history alone, then no target
                [("train", [6]), ("train", [2]), ("train", [7])],
                [("valid", [8]), ("valid", [0]), ("test", [8])],
            ],
            10,
        )
        chosen = candidate_items(dataset, "training_targets")
        assert chosen.dtype == np.bool_
        assert np.flatnonzero(chosen).tolist() == [1, 2, 7]
        assert candidate_items(dataset, "catalogue") is None

    @pytest.mark.parametrize("seed", range(5))
    def test_are_the_targets_of_the_training_samples(self, random_data, seed):
        dataset = random_data(seed)
        samples = dataset.samples("train")
        expected = {
            int(item)
            for begin, end in zip(samples.history_end, samples.target_end, strict=True)
            for item in dataset.items[begin:end]
        }
        assert set(np.flatnonzero(candidate_items(dataset, "training_targets"))) == expected

    def test_no_later_event_decides_it(self, random_data):
        dataset = random_data(3)
        before = candidate_items(dataset, "training_targets")
        assert 5 < before.sum() < NUM_ITEMS
        rng = np.random.default_rng(0)
        for part in ({1}, {2}, {1, 2}):
            later = np.isin(dataset.split, list(part))
            items = np.where(later, rng.integers(0, NUM_ITEMS, len(later)), dataset.items)
            assert (items != dataset.items).any()
            changed = candidate_items(replace(dataset, items=items), "training_targets")
            assert np.array_equal(changed, before)
        kept = dataset.split == 0
        lengths = np.add.reduceat(kept, dataset.user_offsets[:-1])
        alone = replace(
            dataset,
            items=dataset.items[kept],
            groups=dataset.groups[kept],
            split=dataset.split[kept],
            user_offsets=np.concatenate([[0], np.cumsum(lengths)]),
        )
        assert np.array_equal(candidate_items(alone, "training_targets"), before)

    def test_refuses_to_leave_nothing(self, dataset_of):
        dataset = dataset_of([[("train", [0, 1]), ("valid", [1]), ("test", [0])]], 2)
        object.__setattr__(dataset, "name", "shop")
        with pytest.raises(ValueError, match=r"eval.candidates is 'training_targets'.*'shop'.*set"):
            candidate_items(dataset, "training_targets")
        with pytest.raises(ValueError, match=r"eval.candidates is 'some'; it must be one of cat"):
            candidate_items(dataset, "some")


class TestCatalogue:
    def test_by_hand(self):
        codes = np.array([[1, 1], [0, 2], [1, 1], [0, 2], [0, 0], [3, 3]])
        catalogue = SidCatalogue(codes, np.array([True, True, False, True, False, False]))
        assert catalogue.unique_codes.tolist() == [[0, 2], [1, 1]]
        assert catalogue.sid_of_item.tolist() == [1, 0, -1, 0, -1, -1]
        assert catalogue.sizes.tolist() == [2, 1]
        assert [catalogue.items_of(sid).tolist() for sid in range(2)] == [[1, 3], [0]]
        assert (catalogue.num_items, catalogue.num_sids) == (6, 2)
        assert catalogue.lookup(codes).tolist() == [1, 0, 1, 0, -1, -1]
        assert catalogue.lookup(np.array([[3, 3], [-1, -1]])).tolist() == [-1, -1]

    def test_all_items_are_what_none_is(self):
        codes = np.random.default_rng(0).integers(0, 3, size=(30, 3))
        one, other = SidCatalogue(codes), SidCatalogue(codes, np.ones(30, bool))
        for name in ("unique_codes", "sid_of_item", "sizes", "item_ids", "item_offsets"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
            assert getattr(one, name).dtype == getattr(other, name).dtype

    @pytest.mark.parametrize(
        ("candidates", "message"),
        [
            (np.ones(2, bool), r"candidates must be bool \[3\].*bool \[2\]"),
            (np.array([0, 1, 2]), r"candidates must be bool \[3\].*int64 \[3\]"),
            (np.zeros(3, bool), "candidates holds no item"),
        ],
    )
    def test_refuses(self, candidates, message):
        with pytest.raises(ValueError, match=message):
            SidCatalogue(np.arange(3)[:, None], candidates)


class TestBaselines:
    @pytest.mark.parametrize("width", [5, NUM_ITEMS])
    @pytest.mark.parametrize("name", BASELINES)
    @pytest.mark.parametrize("seed", range(3))
    def test_rank_candidates_alone(self, random_data, name, seed, width):
        dataset = random_data(seed)
        samples = dataset.samples("test")
        few, apart = catalogues(seed)
        found = BASELINES[name](dataset, samples, few, width)
        whole = BASELINES[name](dataset, samples, apart, NUM_ITEMS)
        gone = np.arange(apart.num_sids) >= few.num_sids
        assert found.items.tolist() == without(whole.items, ~few.candidates, width).tolist()
        assert found.sids.tolist() == without(whole.sids, gone, width).tolist()

    def test_neighbours_are_candidates(self, random_data):
        dataset, chosen = random_data(1), some(1)
        cosine = item_neighbours(dataset, NUM_ITEMS).toarray()
        assert (cosine.diagonal() == 0).all()
        found = item_neighbours(dataset, 3, chosen).toarray()
        assert found.shape == cosine.shape
        for item, row in enumerate(np.where(chosen, cosine, 0)):
            best = np.argsort(-row, kind="stable")[:3]
            assert np.flatnonzero(found[item]).tolist() == sorted(b for b in best if row[b] > 0)
            assert np.allclose(found[item][best], row[best])
        samples = dataset.samples("test")
        few = SidCatalogue(np.arange(NUM_ITEMS)[:, None], chosen)
        ranked = rank_item_knn(dataset, samples, few, 5, num_neighbours=3)
        popular = np.argsort(-np.where(chosen, dataset.train_counts, -1), kind="stable")
        for row, (start, end) in enumerate(
            zip(samples.history_start, samples.history_end, strict=True)
        ):
            score = found[np.unique(dataset.items[start:end])].sum(axis=0)[popular]
            best = popular[np.argsort(-score.round(9), kind="stable")]
            assert ranked.items[row].tolist() == best[chosen[best]][:5].tolist()

    def test_half_life_is_chosen_on_candidates(self, random_data):
        others = 0
        for seed in range(8):
            dataset = random_data(seed)
            few = SidCatalogue(np.arange(NUM_ITEMS)[:, None], some(seed))
            samples = dataset.samples("valid")
            targets = Targets.from_samples(dataset, samples)

            def quality(half_life, catalogue=few, of=(dataset, samples), targets=targets):
                found = rank_recent_frequency(*of, catalogue, 3, half_life=half_life)
                return rank_metrics(found.sids, targets, catalogue, (3,)).summary()["ndcg@3"]

            grid = (0.5, 2.0, *HALF_LIVES)
            chosen = choose_half_life(dataset, few, grid=grid, k=3)
            assert chosen == max(grid, key=quality)
            every = SidCatalogue(np.arange(NUM_ITEMS)[:, None])
            others += chosen != choose_half_life(dataset, every, grid=grid, k=3)
        assert others  # it makes a difference


@pytest.mark.parametrize("seed", range(3))
def test_items_of_sids_are_candidates(random_data, seed):
    dataset = random_data(seed)
    samples = dataset.samples("test")
    few, apart = catalogues(seed)
    rng = np.random.default_rng(seed)
    sids = rng.integers(-1, few.num_sids, size=(len(samples.users), 6))
    scores = np.log(rng.random(sids.shape))
    found = rank_items(sids, scores, dataset, samples, few)
    expected = rank_items(sids, scores, dataset, samples, apart)
    assert few.candidates[found.items[found.items >= 0]].all()
    assert found.items.tolist() == expected.items.tolist()
    assert np.array_equal(found.scores, expected.scores)


class TestMisses:
    # Items 0 and 1 share a SID, and 1 is no candidate; nor is 3, alone with its SID.
    CATALOGUE = SidCatalogue(
        np.array([[0, 0], [0, 0], [0, 1], [1, 1]]), np.array([True, False, True, False])
    )

    def test_a_target_that_is_no_candidate(self, targets_of):
        targets = targets_of([0, 1, 2, 3], [0, 0, 0, 0])
        ranked, items = np.array([[0, 1, -1]]), np.array([[1, 0, 2, 3]])
        metrics = rank_metrics(ranked, targets, self.CATALOGUE, (1, 3), items=items)
        assert metrics.sid_rank.tolist() == [1, 0, 2, 0]
        assert metrics.item_rank.tolist() == [2, 0, 3, 0]
        assert metrics.split_first.tolist() == [1, 0, 2, 0]
        assert metrics.split_places.tolist() == [1, 0, 1, 0]
        assert len(metrics) == 4  # none is dropped
        assert metrics.summary()["hit@3"] == 0.5

    def test_in_the_diagnostics(self, targets_of):
        codes = np.array([[[0, 0], [0, 1]], [[1, 1], [0, 0]], [[-1, -1], [-1, -1]]])
        found = generation_diagnostics(
            codes, targets_of([0, 1, 3, 3], [0, 0, 1, 2]), self.CATALOGUE
        )
        assert (found["P_1"], found["P_12"]) == (0.25, 0.25)  # the first alone
        assert (found["rank_1"], found["rank_2"], found["kept_2"]) == (1, 1, 1)
        assert found["invalid_rate"] == 0.25  # (1, 1) is of no candidate
