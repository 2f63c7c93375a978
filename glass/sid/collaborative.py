"""Item vectors from who was consumed near whom: truncated SVD of a PPMI matrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

_PAIRS_AT_ONCE = 1 << 24  # bounds the memory of pairs that are not counted yet


def cooccurrence(
    users: npt.NDArray[np.int32], items: npt.NDArray[np.int32], num_items: int, window: int
) -> sparse.csr_matrix:
    """How often two items lie at most `window` events apart in one user's training events.

    Args:
        users: int32 [T] user of each event, one user after another.
        items: int32 [T] item of each event, oldest first within a user.
        num_items: V.
        window: largest distance counted; 1 is neighbours only.

    Returns:
        Symmetric int32 [V, V]; the diagonal (an item repeated) is left out, since it says
        nothing about other items.
    """
    if window < 1:
        raise ValueError(f"sid.collaborative_window is {window}; it must be at least 1")
    counts = sparse.csr_matrix((num_items, num_items), dtype=np.int32)
    rows: list[npt.NDArray[np.int32]] = []
    columns: list[npt.NDArray[np.int32]] = []
    waiting = 0
    for distance in range(1, min(window, max(len(items) - 1, 0)) + 1):
        same_user = users[distance:] == users[:-distance]
        first, second = items[:-distance][same_user], items[distance:][same_user]
        differ = first != second
        first, second = first[differ], second[differ]
        rows.append(np.minimum(first, second))
        columns.append(np.maximum(first, second))
        waiting += len(first)
        if waiting >= _PAIRS_AT_ONCE:
            counts = counts + _count(rows, columns, num_items)
            rows, columns, waiting = [], [], 0
    if waiting:
        counts = counts + _count(rows, columns, num_items)
    return (counts + counts.T).tocsr()


def _count(
    rows: list[npt.NDArray[np.int32]], columns: list[npt.NDArray[np.int32]], num_items: int
) -> sparse.csr_matrix:
    row, column = np.concatenate(rows), np.concatenate(columns)
    ones = np.ones(len(row), np.int32)
    return sparse.coo_matrix((ones, (row, column)), shape=(num_items, num_items)).tocsr()


def ppmi(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Positive pointwise mutual information, max(0, log(c_ij N / (c_i c_j))).

    Args:
        counts: symmetric [V, V] co-occurrence.

    Returns:
        float64 [V, V], only the positive entries stored.
    """
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    grand_total = totals.sum()
    result = counts.tocsr().astype(np.float64, copy=True)
    row_of_entry = np.repeat(totals, np.diff(result.indptr))
    result.data *= grand_total
    result.data /= row_of_entry
    result.data /= totals[result.indices]
    np.log(result.data, out=result.data)
    np.maximum(result.data, 0.0, out=result.data)
    result.eliminate_zeros()
    return result


def collaborative_vectors(
    users: npt.NDArray[np.int32],
    items: npt.NDArray[np.int32],
    num_items: int,
    *,
    dim: int,
    window: int,
    seed: int,
) -> npt.NDArray[np.float32]:
    """U sqrt(S) of the rank-`dim` SVD of the PPMI matrix of training co-occurrence.

    The matrix is symmetric, so its singular vectors are the eigenvectors of largest magnitude,
    found at half the work. The largest component of each is made positive: signs are arbitrary
    otherwise.

    Args:
        users: int32 [T], items: int32 [T]: training events only, see `cooccurrence`.
        num_items: V. dim: D. window: see `cooccurrence`. seed: start vector of the iteration.

    Returns:
        float32 [V, D], strongest direction first, not normalised; zero rows for items that
        co-occur with none.

    Raises:
        ValueError: `dim` does not fit the catalogue, or nothing co-occurs.
    """
    if not 1 <= dim < num_items:
        raise ValueError(
            f"sid.collaborative_dim is {dim}; with {num_items} items it must be 1 to "
            f"{num_items - 1}"
        )
    matrix = ppmi(cooccurrence(users, items, num_items, window))
    if matrix.nnz == 0:
        raise ValueError(
            "no two items co-occur more than by chance in the training events; set sid.source to "
            "'text' or 'file', or prepare more data"
        )
    start = np.random.default_rng(seed).standard_normal(num_items)
    try:
        values, vectors = eigsh(matrix, k=dim, which="LM", v0=start, maxiter=100 * dim + 1000)
    except ArpackNoConvergence as error:
        raise ValueError(
            f"the SVD of the co-occurrence did not converge for sid.collaborative_dim {dim}; "
            "use fewer dimensions"
        ) from error
    order = np.argsort(-np.abs(values), kind="stable")
    values, vectors = values[order], vectors[:, order]
    peak = np.argmax(np.abs(vectors), axis=0)
    vectors = vectors * np.where(vectors[peak, np.arange(dim)] < 0, -1.0, 1.0)
    result: npt.NDArray[np.float32] = (vectors * np.sqrt(np.abs(values))).astype(np.float32)
    # The iteration leaves 1e-17 where an item has no entry; unit length would blow that up.
    result[np.diff(matrix.indptr) == 0] = 0.0
    return result
