import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from glass.sid.assign import assign, number_duplicates


def test_assign_by_hand_with_codebooks_of_different_sizes():
    books = [
        np.array([[0, 0], [10, 10]], np.float32),
        np.array([[0, 0], [1, 0], [0, 1]], np.float32),
    ]
    vectors = np.array([[0, 0], [1.2, 0.1], [10, 11], [0, -3]], np.float32)
    codes = assign(vectors, books)
    assert codes.dtype == np.int32
    assert codes.tolist() == [[0, 0], [0, 1], [1, 2], [0, 0]]


def test_ties_take_the_lowest_code():
    books = [np.array([[1.0], [-1.0], [1.0]], np.float32)]
    assert assign(np.array([[0.0], [2.0]], np.float32), books).tolist() == [[0], [0]]


def test_residual_is_scaled_before_each_level():
    books = [np.array([[1, 0], [0, 1]], np.float32), np.array([[0, 1], [1, 0]], np.float32)]
    # [3, 0.4]/|.| - [1, 0] points along +y; unscaled, 3 - 1 = 2 along x would win.
    vectors = np.array([[3, 0.4]], np.float32)
    assert assign(vectors, books, normalize_residual=True).tolist() == [[0, 0]]
    assert assign(vectors, books).tolist() == [[0, 1]]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.booleans())
def test_assign_equals_float64_brute_force(seed, sizes, normalize):
    rng = np.random.default_rng(seed)
    books = [rng.normal(size=(size, 3)).astype(np.float32) for size in sizes]
    vectors = rng.normal(size=(17, 3)).astype(np.float32)
    codes = assign(vectors, books, normalize_residual=normalize)
    residual = vectors.astype(np.float64)
    for level, book in enumerate(books):
        if normalize:
            residual = residual / np.linalg.norm(residual, axis=1, keepdims=True)
        distance = ((residual[:, None] - book) ** 2).sum(-1)
        # Rounding may swap codes that are equally near.
        taken = distance[np.arange(17), codes[:, level]]
        np.testing.assert_allclose(taken, distance.min(1), atol=1e-5)
        residual = residual - book[codes[:, level]]


def test_duplicates_are_numbered_in_item_order():
    codes = np.array([[1, 2], [0, 0], [1, 2], [3, 3], [0, 0], [1, 2]], np.int32)
    number = number_duplicates(codes)
    assert number.dtype == np.int32
    assert number.tolist() == [1, 1, 2, 0, 2, 3]


@settings(max_examples=50, deadline=None)
@given(arrays(np.int32, st.tuples(st.integers(1, 30), st.just(2)), elements=st.integers(0, 3)))
def test_numbered_sids_are_unique(codes):
    number = number_duplicates(codes)
    assert len(np.unique(np.column_stack([codes, number]), axis=0)) == len(codes)
    seen = {}
    for sid, given_number in zip(map(tuple, codes), number, strict=True):
        seen.setdefault(sid, []).append(given_number)
    for numbers in seen.values():
        assert numbers == ([0] if len(numbers) == 1 else list(range(1, len(numbers) + 1)))
