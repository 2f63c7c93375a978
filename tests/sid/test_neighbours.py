import numpy as np
import pytest

from glass.sid import neighbours
from glass.sid.neighbours import neighbour_agreement


def brute_force(vectors, codes, count):
    """Shares of alike neighbours and of alike others, one item and one level after another."""
    present = [i for i in range(len(vectors)) if vectors[i].any()]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-9)
    near, far = [], []
    for depth in range(1, codes.shape[1] + 1):
        shares = []
        for i in present:
            others = np.array([j for j in present if j != i])
            order = np.argsort(-unit[others] @ unit[i], kind="stable")
            alike = (codes[others, :depth] == codes[i, :depth]).all(axis=1)
            shares.append((alike[order[:count]].mean(), alike.mean()))
        near.append(np.mean([share for share, _ in shares]))
        far.append(np.mean([share for _, share in shares]))
    return near, far


def test_by_hand():
    # Two pairs of near items; the first pair shares one code, the second both.
    vectors = np.array([[1, 0], [1, 0.1], [0, 2], [0.1, 3]], np.float32)
    codes = np.array([[0, 0], [0, 1], [1, 1], [1, 1]], np.int32)
    found = neighbour_agreement(vectors, codes, num_neighbours=1)
    assert found is not None
    assert found.nearest == (1.0, 0.5)
    assert found.chance == pytest.approx((2 / 6, 1 / 6))
    assert (found.num_neighbours, found.num_queries) == (1, 4)


def test_equals_brute_force_with_items_without_vectors():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 5)).astype(np.float32)
    vectors[[3, 17]] = 0
    codes = rng.integers(0, 3, (60, 3)).astype(np.int32)
    found = neighbour_agreement(vectors, codes, num_neighbours=10)
    near, far = brute_force(vectors, codes, 10)
    assert found is not None
    assert found.num_queries == 58
    assert found.nearest == pytest.approx(near)
    assert found.chance == pytest.approx(far)


def test_an_item_is_not_its_own_neighbour_among_many_equal_ones():
    vectors = np.ones((30, 4), np.float32)
    codes = np.arange(30, dtype=np.int32)[:, None]
    found = neighbour_agreement(vectors, codes)
    assert found is not None
    assert found.nearest == (0.0,)


def test_few_items():
    codes = np.zeros((3, 1), np.int32)
    assert neighbour_agreement(np.zeros((3, 2), np.float32), codes) is None
    assert neighbour_agreement(np.zeros((3, 0), np.float32), codes) is None
    found = neighbour_agreement(np.eye(3, dtype=np.float32), codes)
    assert found is not None
    assert (found.num_neighbours, found.nearest, found.chance) == (2, (1.0,), (1.0,))


def test_large_catalogues_are_sampled(monkeypatch):
    monkeypatch.setattr(neighbours, "_QUERIES", 300)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(1000, 4)).astype(np.float32)
    codes = (vectors[:, :1] > 0).astype(np.int32)
    found = neighbour_agreement(vectors, codes)
    assert found is not None
    assert found.num_queries == 300
    again = neighbour_agreement(vectors, codes)
    assert again == found
    monkeypatch.setattr(neighbours, "_QUERIES", 1000)
    whole = neighbour_agreement(vectors, codes)
    assert whole is not None
    assert whole.nearest[0] == pytest.approx(found.nearest[0], abs=0.03)
