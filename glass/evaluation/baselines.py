"""Baselines without SIDs or gradients: popularity, own frequency, item-kNN.

All of them may recommend items of the history again, and none an item that is no candidate of the
catalogue, though such an item counts as any other in histories and training. Popularity and
item-kNN are fitted on training events; the frequencies are read off a sample's history, which for
test samples includes validation events, as for every other system.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from glass.evaluation.arrays import (
    AnyIntArray,
    Int32Array,
    Int64Array,
    first_occurrences,
    keep_marked,
    ragged_chunks,
    ragged_positions,
)
from glass.evaluation.catalogue import SidCatalogue
from glass.evaluation.item_knn import rank_item_knn
from glass.evaluation.metrics import rank_metrics
from glass.evaluation.ranking import PopularityOrder, SystemRanking, checked_width, padded
from glass.evaluation.targets import Targets

if TYPE_CHECKING:
    from glass.data import Dataset, Samples

__all__ = [
    "HALF_LIVES",
    "choose_half_life",
    "rank_item_knn",
    "rank_own_frequency",
    "rank_popularity",
    "rank_recent_frequency",
]

HALF_LIVES = (10.0, 30.0, 100.0, 300.0, 1000.0, math.inf)
"""Half-lives in events that `choose_half_life` tries; infinity is own frequency."""


def rank_popularity(
    dataset: Dataset, samples: Samples, catalogue: SidCatalogue, width: int
) -> SystemRanking:
    """The same list for everyone: items by training events, SIDs by the sum over their items.

    Args:
        width: W, places of a list.

    Raises:
        ValueError: `width` below 1, or a catalogue of other items.
    """
    width = checked_width(width)
    order = PopularityOrder.fit(dataset, catalogue)
    num_samples = len(samples.users)
    return SystemRanking(
        sids=np.tile(padded(order.sids[None], width), (num_samples, 1)),
        items=np.tile(padded(order.items[None], width), (num_samples, 1)),
    )


def rank_own_frequency(
    dataset: Dataset, samples: Samples, catalogue: SidCatalogue, width: int
) -> SystemRanking:
    """Items by how often they occur in the history.

    Equal counts: the item seen more recently first. Items outside the history follow in order of
    training popularity. A SID's count is the sum over its items.

    Args:
        width: W, places of a list.

    Raises:
        ValueError: `width` below 1, or a catalogue of other items.
    """
    return rank_recent_frequency(dataset, samples, catalogue, width, half_life=math.inf)


def rank_recent_frequency(
    dataset: Dataset, samples: Samples, catalogue: SidCatalogue, width: int, *, half_life: float
) -> SystemRanking:
    """Own frequency in which an event counts 2^(-age / half_life), age 0 for the newest event.

    Ties and items outside the history as in `rank_own_frequency`.

    Args:
        width: W, places of a list.
        half_life: in events; see `choose_half_life`.

    Raises:
        ValueError: `width` below 1, `half_life` not above 0, or a catalogue of other items.
    """
    order = PopularityOrder.fit(dataset, catalogue)
    own_item = np.where(catalogue.candidates, np.arange(catalogue.num_items), -1)
    return SystemRanking(
        sids=_rank_history(dataset, samples, catalogue.sid_of_item, order.sids, width, half_life),
        items=_rank_history(dataset, samples, own_item, order.items, width, half_life),
    )


def choose_half_life(
    dataset: Dataset,
    catalogue: SidCatalogue,
    *,
    grid: Sequence[float] = HALF_LIVES,
    k: int = 20,
) -> float:
    """The half-life with the best SID-level NDCG@k on the validation targets.

    Args:
        grid: half-lives to try; of equally good ones the first is taken.
        k: cut-off.

    Raises:
        ValueError: an empty grid, or no validation samples.
    """
    samples = dataset.samples("valid")
    if not len(grid) or not len(samples.users):
        raise ValueError(
            f"choosing a half-life needs candidates (grid={list(grid)}) and validation samples "
            f"(there are {len(samples.users)})"
        )
    targets = Targets.from_samples(dataset, samples)
    order = PopularityOrder.fit(dataset, catalogue).sids

    def quality(half_life: float) -> float:
        sids = _rank_history(dataset, samples, catalogue.sid_of_item, order, k, half_life)
        return rank_metrics(sids, targets, catalogue, (k,)).summary()[f"ndcg@{k}"]

    return max(grid, key=quality)


def _rank_history(
    dataset: Dataset,
    samples: Samples,
    labels: AnyIntArray,
    fill: Int64Array,
    width: int,
    half_life: float,
) -> Int32Array:
    """Ranks the labels (items or SIDs) of each history, completed from `fill`: int32 [S, W].

    `labels` [V] is -1 for an item that is not ranked; it keeps its place in the history.
    """
    checked_width(width)
    if not half_life > 0:
        raise ValueError(f"half_life={half_life} must be above 0 (in events)")
    ranked = np.empty((len(samples.users), width), np.int32)
    lengths = samples.history_end - samples.history_start
    for rows in ragged_chunks(lengths + 4 * width):
        start, end = samples.history_start[rows], samples.history_end[rows]
        row, position = ragged_positions(start, end)
        label = labels[dataset.items[position]].astype(np.int64)
        kept = label >= 0
        own = _top_labels(
            row=row[kept],
            label=label[kept],
            age=(end[row] - 1 - position)[kept],
            shape=(len(start), width),
            num_labels=len(labels),
            half_life=half_life,
        )
        popular = np.broadcast_to(padded(fill[None], width), own.shape)
        candidates = np.concatenate([own, popular], axis=1)
        ranked[rows] = keep_marked(candidates, first_occurrences(candidates), width)
    return ranked


def _top_labels(
    *,
    row: Int64Array,
    label: Int64Array,
    age: Int64Array,
    shape: tuple[int, int],
    num_labels: int,
    half_life: float,
) -> Int32Array:
    """The best labels of each row by summed weight, then by recency: int32 [rows, W], -1 padded."""
    key = row * num_labels + label
    by_key = np.argsort(key, kind="stable")
    sorted_key = key[by_key]
    begin = np.flatnonzero(np.diff(sorted_key, prepend=-1))
    if not len(begin):
        return np.full(shape, -1, np.int32)
    score = np.add.reduceat(np.exp2(-age[by_key] / half_life), begin)
    # The sort is stable and rows are in time order: the last event of a run is its newest.
    newest_age = age[by_key[np.append(begin[1:], len(key)) - 1]]
    pair_row, pair_label = np.divmod(sorted_key[begin], num_labels)
    best = np.lexsort((newest_age, -score, pair_row))
    pair_row, pair_label = pair_row[best], pair_label[best]
    place = np.arange(len(best)) - np.searchsorted(pair_row, pair_row)
    kept = place < shape[1]
    top = np.full(shape, -1, np.int32)
    top[pair_row[kept], place[kept]] = pair_label[kept]
    return top
