"""Item-based nearest neighbours on training co-occurrence.

Deshpande and Karypis, "Item-Based Top-N Recommendation Algorithms", TOIS 2004.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from glass.evaluation.arrays import BoolArray, FloatArray, ragged_positions, row_chunks, top_columns
from glass.evaluation.catalogue import SidCatalogue
from glass.evaluation.ranking import PopularityOrder, SystemRanking, checked_width, padded

if TYPE_CHECKING:
    from glass.data import Dataset, Samples


def rank_item_knn(
    dataset: Dataset,
    samples: Samples,
    catalogue: SidCatalogue,
    width: int,
    *,
    num_neighbours: int = 100,
    count_weight: bool = False,
) -> SystemRanking:
    """Ranks items by their similarity to the items of the history.

    sim(i, j) is the cosine of the 0/1 columns of users over training events; each item keeps its
    `num_neighbours` most similar others among the candidates. An item's score is the sum of sim
    over the distinct items of the history that have it as a neighbour. A SID's score is the sum
    over its candidates. Ties, and with them the items without a score, go by training popularity.

    Memory is bounded by chunks of samples and items; time grows as S * C and V * C, with C of the
    V items candidates.

    Args:
        width: W, places of a list.
        num_neighbours: neighbours an item keeps.
        count_weight: weigh a history item by 1 + ln(its count) instead of 1.

    Raises:
        ValueError: `width` or `num_neighbours` below 1, or a catalogue of other items.
    """
    checked_width(width)
    order = PopularityOrder.fit(dataset, catalogue)
    # Columns in order of popularity turn "ties go to the lower column" into "to the more popular".
    neighbours = item_neighbours(dataset, num_neighbours, catalogue.candidates)[:, order.items]
    place_of_sid = np.empty(catalogue.num_sids, np.int64)
    place_of_sid[order.sids] = np.arange(catalogue.num_sids)
    num_items = len(order.items)
    sid_sum = sparse.csr_array(
        (
            np.ones(num_items),
            (np.arange(num_items), place_of_sid[catalogue.sid_of_item[order.items]]),
        ),
        shape=(num_items, catalogue.num_sids),
    )
    num_samples = len(samples.users)
    sids = np.empty((num_samples, width), np.int32)
    items = np.empty((num_samples, width), np.int32)
    for rows in row_chunks(num_samples, num_items):
        history = _history_matrix(dataset, samples, rows, count_weight)
        scores: FloatArray = (history @ neighbours).toarray()
        best = top_columns(scores, min(width, num_items))
        items[rows] = padded(order.items[best], width)
        best = top_columns(scores @ sid_sum, min(width, catalogue.num_sids))
        sids[rows] = padded(order.sids[best], width)
    return SystemRanking(sids=sids, items=items)


def item_neighbours(
    dataset: Dataset, num_neighbours: int, candidates: BoolArray | None = None
) -> Any:
    """Cosine of each item and its nearest others, from training events.

    Equally similar neighbours: the lower item id. An item without co-occurrence has none.

    Args:
        num_neighbours: neighbours an item keeps.
        candidates: bool [V], the items that may be neighbours; None: all.

    Returns:
        scipy.sparse.csr_array float64 [V, V], at most `num_neighbours` entries a row.

    Raises:
        ValueError: `num_neighbours` below 1.
    """
    if num_neighbours < 1:
        raise ValueError(
            f"num_neighbours={num_neighbours} must be at least 1 (eval.knn_neighbours)"
        )
    users, items = dataset.train_events()
    num_items = dataset.num_items
    pair = np.unique(users.astype(np.int64) * num_items + items)
    user, item = np.divmod(pair, num_items)
    seen = sparse.csr_array(
        (np.ones(len(pair)), (user, item)), shape=(dataset.num_users, num_items)
    )
    users_of_item = seen.T.tocsr()
    norm = np.sqrt(np.maximum(np.bincount(item, minlength=num_items), 1))
    if candidates is None:
        candidates = np.ones(num_items, dtype=bool)
    near = np.flatnonzero(candidates)
    seen = seen[:, near]
    parts = []
    for rows in row_chunks(num_items, len(near)):
        own = np.arange(rows.start, rows.stop)
        cosine: FloatArray = (users_of_item[own] @ seen).toarray()
        cosine /= norm[own, None] * norm[near]
        itself = np.flatnonzero(candidates[own])
        cosine[itself, np.searchsorted(near, own[itself])] = 0
        column = top_columns(cosine, min(num_neighbours, len(near)))
        value = np.take_along_axis(cosine, column, axis=1)
        row, place = np.nonzero(value)
        parts.append((value[row, place], own[row], near[column[row, place]]))
    values, row, column = (np.concatenate(part) for part in zip(*parts, strict=True))
    return sparse.csr_array((values, (row, column)), shape=(num_items, num_items))


def _history_matrix(dataset: Dataset, samples: Samples, rows: slice, count_weight: bool) -> Any:
    """csr_array [rows, V]: weight of each distinct item of each history."""
    start, end = samples.history_start[rows], samples.history_end[rows]
    row, position = ragged_positions(start, end)
    history = sparse.csr_array(
        (np.ones(len(row)), (row, dataset.items[position])), shape=(len(start), dataset.num_items)
    )
    history.sum_duplicates()
    history.data = 1 + np.log(history.data) if count_weight else np.ones_like(history.data)
    return history
