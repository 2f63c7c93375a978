import numpy as np
import pytest
from sklearn.cluster import KMeans

from glass.sid.assign import assign
from glass.sid.rkmeans import _lloyd, fit_residual_kmeans, kmeans, nearest, restart_dead


def blobs(num_blobs, points_each, dim=6, seed=0):
    rng = np.random.default_rng(seed)
    centers = 10 * rng.normal(size=(num_blobs, dim))
    points = centers[:, None] + 0.1 * rng.normal(size=(num_blobs, points_each, dim))
    return points.reshape(-1, dim).astype(np.float32)


def test_two_levels_by_hand():
    # Coarse corners 0 and 100, each with offsets 0 and 2; the middle is what level 1 finds.
    vectors = np.array([[0], [2], [100], [102]], np.float32)
    fitted = fit_residual_kmeans(vectors, (2, 2), seed=0)
    assert sorted(fitted.codebooks[0].ravel().tolist()) == [1, 101]
    assert sorted(fitted.codebooks[1].ravel().tolist()) == [-1, 1]
    total = (vectors.astype(float) ** 2).sum()
    assert fitted.relative_error == pytest.approx((4 / total, 0.0))
    codes = assign(vectors, fitted.codebooks)
    assert codes[0, 0] == codes[1, 0] != codes[2, 0] == codes[3, 0]
    assert codes[0, 1] == codes[2, 1] != codes[1, 1] == codes[3, 1]


def test_finds_separate_blobs_as_scikit_learn_does():
    points = blobs(8, 30)
    centroids = kmeans(points, 8, iterations=25, seed=0)
    error = nearest(points, centroids)[1].sum()
    oracle = KMeans(8, n_init=5, random_state=0).fit(points).inertia_
    assert error == pytest.approx(oracle, rel=1e-4)


def test_start_is_kmeans_plus_plus():
    # Ten points far from two thousand: random starts miss them, and one iteration cannot move over.
    points = blobs(1, 2000)
    points[:10] += 100
    for seed in range(5):
        centroids = _lloyd(points, 4, 1, seed)
        assert nearest(points[:10], centroids)[1].max() < 1


def test_equal_seeds_give_equal_codebooks():
    rng = np.random.default_rng(3)
    points = rng.normal(size=(400, 5)).astype(np.float32)
    first, again, other = (fit_residual_kmeans(points, (8, 16), seed=s) for s in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first.codebooks, again.codebooks, strict=True))
    assert not np.array_equal(first.codebooks[0], other.codebooks[0])


def test_dead_code_moves_to_the_farthest_point():
    points = np.array([[0, 0], [1, 0], [0, 7], [0, 7], [0, 5]], np.float32)
    centroids = np.array([[0, 0], [50, 50], [60, 60]], np.float32)
    moved, count = restart_dead(points, centroids)
    # The two equal points at 7 are one start, so that the second goes to 5.
    assert count == 2
    assert moved.tolist() == [[0, 0], [0, 7], [0, 5]]
    assert centroids[1].tolist() == [50, 50]
    same, count = restart_dead(points, moved)
    assert count == 0
    assert same is moved


def test_nothing_to_restart_on_when_every_point_is_a_centroid():
    points = np.array([[0.0], [3.0]], np.float32)
    centroids = np.array([[0.0], [3.0], [9.0]], np.float32)
    assert restart_dead(points, centroids)[1] == 0


def test_no_code_stays_dead_among_many_equal_points():
    # 300 of 320 points are one; k-means++ alone leaves codes empty here.
    rng = np.random.default_rng(0)
    points = np.vstack([np.zeros((300, 3)), rng.normal(size=(20, 3))]).astype(np.float32)
    centroids = kmeans(points, 16, iterations=10, seed=0)
    assert len(np.unique(nearest(points, centroids)[0])) == 16


def test_fewer_distinct_points_than_codes():
    points = np.array([[1, 1], [2, 2], [1, 1], [3, 3]], np.float32)
    centroids = kmeans(points, 4, iterations=5, seed=0)
    assert np.unique(centroids, axis=0).tolist() == [[1, 1], [2, 2], [3, 3]]
    assert assign(points, [centroids]).ravel().tolist() == [0, 1, 0, 2]


def test_dead_codes_are_told(caplog):
    points = np.array([[1, 1], [2, 2], [1, 1], [3, 3]], np.float32)
    fit_residual_kmeans(points, (4,))
    assert "level 1: 1 of 4 codes have no item" in caplog.text


def test_normalized_residuals():
    vectors = blobs(4, 20)
    fitted = fit_residual_kmeans(vectors, (4, 4), normalize_residual=True)
    codes = assign(vectors, fitted.codebooks, normalize_residual=True)
    # Decode: each level's centroid is scaled by the length that its residual had.
    residual, decoded, scale = vectors.astype(np.float64), np.zeros(vectors.shape), 1.0
    for level, book in enumerate(fitted.codebooks):
        length = np.linalg.norm(residual, axis=1, keepdims=True)
        scale = scale * length
        decoded += scale * book[codes[:, level]]
        residual = residual / length - book[codes[:, level]]
        error = ((vectors - decoded) ** 2).sum() / (vectors.astype(np.float64) ** 2).sum()
        assert fitted.relative_error[level] == pytest.approx(error, rel=1e-3)
    # Length is gone from the first level: twice as long is the same code.
    assert np.array_equal(assign(2 * vectors, fitted.codebooks, normalize_residual=True), codes)


def test_error_falls_with_every_level():
    points = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    errors = fit_residual_kmeans(points, (8, 8, 8)).relative_error
    assert 1 > errors[0] > errors[1] > errors[2] > 0


@pytest.mark.parametrize("sizes", [(5,), (2, 5)])
def test_more_codes_than_items(sizes):
    with pytest.raises(ValueError, match=r"more codes than the catalogue .* \(4\); make"):
        fit_residual_kmeans(np.zeros((4, 2), np.float32), sizes)


@pytest.mark.parametrize("sizes", [(), (0,), (4, -1)])
def test_sizes_must_be_sizes(sizes):
    with pytest.raises(ValueError, match="at least one level"):
        fit_residual_kmeans(np.zeros((4, 2), np.float32), sizes)
