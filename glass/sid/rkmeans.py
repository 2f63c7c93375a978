"""Residual k-means: each level clusters what the levels before left over."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

log = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]

_RESTART_ROUNDS = 10
_SETTLING_ITERATIONS = 3  # Lloyd iterations after a restart
_POINTS_PER_CODE = 1024  # faiss draws a sample of the points above this many a code


@dataclass(frozen=True)
class Quantizer:
    """Codebooks of a residual quantiser and how well they fit."""

    codebooks: tuple[Vectors, ...]
    """One float32 [K, D] a level."""
    relative_error: tuple[float, ...]
    """Squared length of the residual after each level over that of the vectors."""


def fit_residual_kmeans(
    vectors: Vectors,
    codebook_sizes: Sequence[int],
    *,
    iterations: int = 25,
    normalize_residual: bool = False,
    seed: int = 0,
) -> Quantizer:
    """Fit a codebook a level by k-means on the residuals (RK-Means of arXiv 2602.20704).

    Args:
        vectors: float32 [V, D], the items to fit on.
        codebook_sizes: codes of each level.
        iterations: Lloyd iterations a level.
        normalize_residual: scale residuals to unit length before each level, the first included.
        seed: level l is seeded with seed + l.

    Raises:
        ValueError: fewer vectors than codes on a level.
    """
    check_enough_items(len(vectors), codebook_sizes)
    residual = np.ascontiguousarray(vectors, np.float32).copy()
    codebooks, errors = [], []
    # With normalised residuals, the vector's share that is left shrinks by every scale.
    scale = np.ones((len(vectors), 1), np.float64)
    total = float((residual.astype(np.float64) ** 2).sum()) or 1.0
    for level, size in enumerate(codebook_sizes):
        if normalize_residual:
            length = np.linalg.norm(residual, axis=1, keepdims=True)
            residual /= np.where(length > 0, length, 1)
            scale *= length
        centroids = kmeans(residual, size, iterations=iterations, seed=seed + level)
        codes, _ = nearest(residual, centroids)
        residual -= centroids[codes]
        codebooks.append(centroids)
        errors.append(float((scale**2 * residual.astype(np.float64) ** 2).sum()) / total)
        dead = size - len(np.unique(codes))
        if dead:
            log.warning("level %d: %d of %d codes have no item", level + 1, dead, size)
    return Quantizer(tuple(codebooks), tuple(errors))


def check_enough_items(num_items: int, codebook_sizes: Sequence[int]) -> None:
    """Refuse codebooks with more codes than there are items.

    Raises:
        ValueError: a level has more codes than items, or fewer than 1.
    """
    if not codebook_sizes or min(codebook_sizes) < 1:
        raise ValueError(
            f"sid.codebook_sizes is {list(codebook_sizes)}; it must list at least one level with "
            "at least one code each"
        )
    if num_items < max(codebook_sizes):
        raise ValueError(
            f"sid.codebook_sizes {list(codebook_sizes)} has more codes than the catalogue has "
            f"items with training events to fit them on ({num_items}); make the codebooks smaller, "
            "raise sid.fit_items or lower data.min_item_events"
        )


def nearest(points: Vectors, centroids: Vectors) -> tuple[npt.NDArray[np.int64], Vectors]:
    """Index [N] of each point's nearest centroid, and the squared distance [N]."""
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(centroids)
    distance, code = index.search(points, 1)
    return code[:, 0], distance[:, 0]


def kmeans(points: Vectors, num_codes: int, *, iterations: int, seed: int) -> Vectors:
    """Centroids float32 [num_codes, D] by Lloyd's algorithm from a k-means++ start.

    A code without points is restarted at one of the points farthest from their centroid. Points
    with no more distinct values than codes become the centroids themselves; the codes left over
    repeat the first one, so that no point, by the lowest index on ties, is ever theirs.
    """
    points = np.ascontiguousarray(points, np.float32)
    distinct = np.unique(points, axis=0)
    if len(distinct) <= num_codes:
        return np.vstack([distinct, np.repeat(distinct[:1], num_codes - len(distinct), axis=0)])
    centroids = _lloyd(points, num_codes, iterations, seed)
    for round_ in range(_RESTART_ROUNDS):
        centroids, restarted = restart_dead(points, centroids)
        if not restarted:
            break
        if round_ < _RESTART_ROUNDS - 1:  # the last restart stays where the points are
            centroids = _lloyd(points, num_codes, _SETTLING_ITERATIONS, seed, start=centroids)
    return centroids


def restart_dead(points: Vectors, centroids: Vectors) -> tuple[Vectors, int]:
    """Move centroids without points onto distinct points that are farthest from theirs.

    Args:
        points: float32 [N, D]. centroids: float32 [K, D].

    Returns:
        The centroids, a copy if any moved, and how many moved.
    """
    codes, distance = nearest(points, centroids)
    dead = np.flatnonzero(np.bincount(codes, minlength=len(centroids)) == 0)
    if len(dead) == 0:
        return centroids, 0
    farthest = np.argsort(-distance, kind="stable")
    farthest = farthest[distance[farthest] > 0]
    # Equal points would share one centroid and leave the other dead.
    _, first = np.unique(points[farthest], axis=0, return_index=True)
    chosen = farthest[np.sort(first)[: len(dead)]]
    moved = centroids.copy()
    moved[dead[: len(chosen)]] = points[chosen]
    return moved, len(chosen)


def _lloyd(
    points: Vectors, num_codes: int, iterations: int, seed: int, start: Vectors | None = None
) -> Vectors:
    settings = {} if start is not None else _plus_plus()
    clustering = faiss.Kmeans(
        points.shape[1],
        num_codes,
        niter=iterations,
        seed=seed + 1,  # faiss reads some seeds <= 0 as "use the clock"
        min_points_per_centroid=1,
        max_points_per_centroid=_POINTS_PER_CODE,
        **settings,
    )
    clustering.train(points, init_centroids=start)
    centroids: Vectors = np.array(clustering.centroids, np.float32)
    return centroids


def _plus_plus() -> dict[str, int]:
    """k-means++ where faiss offers it (1.14 and later); older ones start from random points."""
    method = getattr(faiss, "ClusteringInitMethod_KMEANS_PLUS_PLUS", None)
    return {} if method is None else {"init_method": method}
