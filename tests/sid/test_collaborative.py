import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glass.sid import collaborative
from glass.sid.collaborative import collaborative_vectors, cooccurrence, ppmi


def arrays(sequences):
    users = np.repeat(np.arange(len(sequences)), [len(s) for s in sequences]).astype(np.int32)
    return users, np.array([i for s in sequences for i in s], np.int32)


def brute_force(sequences, num_items, window):
    counts = np.zeros((num_items, num_items))
    for sequence in sequences:
        for a in range(len(sequence)):
            for b in range(a + 1, min(a + window, len(sequence) - 1) + 1):
                if sequence[a] != sequence[b]:
                    counts[sequence[a], sequence[b]] += 1
                    counts[sequence[b], sequence[a]] += 1
    return counts


def test_cooccurrence_by_hand():
    users, items = arrays([[0, 1, 2], [2, 0]])
    # Window 1: 0-1, 1-2, 2-0; items 2 and 2 of different users never meet.
    assert cooccurrence(users, items, 4, 1).toarray().tolist() == [
        [0, 1, 1, 0],
        [1, 0, 1, 0],
        [1, 1, 0, 0],
        [0, 0, 0, 0],
    ]
    assert cooccurrence(users, items, 4, 2).toarray()[0].tolist() == [0, 1, 2, 0]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 5), max_size=9), min_size=1, max_size=4), st.integers(1, 12)
)
def test_cooccurrence_equals_brute_force(sequences, window):
    users, items = arrays(sequences)
    result = cooccurrence(users, items, 6, window).toarray()
    assert np.array_equal(result, brute_force(sequences, 6, window))


def test_pairs_are_counted_alike_in_small_portions(monkeypatch):
    rng = np.random.default_rng(0)
    users, items = arrays([rng.integers(0, 9, 50).tolist() for _ in range(3)])
    whole = cooccurrence(users, items, 9, 8).toarray()
    monkeypatch.setattr(collaborative, "_PAIRS_AT_ONCE", 10)
    assert np.array_equal(cooccurrence(users, items, 9, 8).toarray(), whole)


def test_ppmi_by_hand():
    # Pairs 0-1 three times, 0-2 once, 2-3 three times: totals 4, 3, 4, 3, together 14.
    users, items = arrays([[0, 1]] * 3 + [[0, 2]] + [[2, 3]] * 3)
    result = ppmi(cooccurrence(users, items, 5, 1)).toarray()
    expected = np.zeros((5, 5))
    expected[0, 1] = expected[1, 0] = np.log(3 * 14 / (4 * 3))
    expected[2, 3] = expected[3, 2] = np.log(3 * 14 / (4 * 3))
    # 0-2: 1 * 14 / (4 * 4) < 1, so that the logarithm is negative and cut.
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def random_events():
    rng = np.random.default_rng(1)
    return arrays([rng.zipf(1.5, 40).clip(max=30).tolist() for _ in range(20)])


def test_vectors_are_the_truncated_svd():
    users, items = random_events()
    matrix = ppmi(cooccurrence(users, items, 31, 3)).toarray()
    vectors = collaborative_vectors(users, items, 31, dim=5, window=3, seed=0).astype(np.float64)
    left, singular, _ = np.linalg.svd(matrix)
    # U S U^T is free of signs; a gap between values 5 and 6 makes it unique.
    assert singular[4] - singular[5] > 1e-3
    expected = (left[:, :5] * singular[:5]) @ left[:, :5].T
    np.testing.assert_allclose(vectors @ vectors.T, expected, atol=1e-4)


def test_vectors_do_not_depend_on_the_seed_or_sign():
    users, items = random_events()
    first = collaborative_vectors(users, items, 31, dim=5, window=3, seed=0)
    assert np.array_equal(first, collaborative_vectors(users, items, 31, dim=5, window=3, seed=0))
    second = collaborative_vectors(users, items, 31, dim=5, window=3, seed=9)
    np.testing.assert_allclose(first, second, atol=1e-4)
    peak = np.abs(first).argmax(axis=0)
    assert (first[peak, np.arange(5)] > 0).all()


def test_item_without_cooccurrence_is_zero():
    users, items = random_events()
    assert 0 not in items
    vectors = collaborative_vectors(users, items, 31, dim=5, window=3, seed=0)
    assert not vectors[0].any()
    assert vectors[1].any()


@pytest.mark.parametrize("dim", [0, 4, 9])
def test_dim_must_fit_the_catalogue(dim):
    users, items = arrays([[0, 1, 2, 3]])
    with pytest.raises(ValueError, match=f"collaborative_dim is {dim}; with 4 items"):
        collaborative_vectors(users, items, 4, dim=dim, window=1, seed=0)


def test_nothing_cooccurs():
    users, items = arrays([[0], [1], [2, 2]])
    with pytest.raises(ValueError, match="no two items co-occur"):
        collaborative_vectors(users, items, 4, dim=2, window=5, seed=0)
    with pytest.raises(ValueError, match="collaborative_window is 0"):
        cooccurrence(users, items, 4, 0)
