"""Item lists from ranked semantic IDs: the one rule behind item metrics and recommendations.

A generated SID says how probable its items are together; which of them, the user's own habits and
the popularity of the items say:

    P(item | user) = P(SID | user) q(item | SID, user)
    q = (own(item) + a pop(item) / pop(SID)) / (own(SID) + a)

own counts the user's history, pop is 1 + training events, and both are summed over the items of a
SID, so the q of a SID sum to 1. The pseudo-count a weighs popularity against habit: a user with a
events of the SID is believed half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from glass.evaluation.arrays import (
    AnyIntArray,
    FloatArray,
    Int32Array,
    Int64Array,
    first_occurrences,
    ragged_chunks,
    ragged_positions,
)
from glass.evaluation.catalogue import SidCatalogue
from glass.evaluation.ranking import checked_width

if TYPE_CHECKING:
    from glass.data import Dataset, Samples


@dataclass(frozen=True)
class ItemRanking:
    """Items of S samples by P(item | user), best first; equal ones by item id."""

    items: Int32Array
    """int32 [S, W'], -1 = none."""
    scores: FloatArray
    """float64 [S, W'] log P(item | user); -inf beside an item of -1."""


def rank_items(
    sids: AnyIntArray,
    log_probs: NDArray[np.floating[Any]],
    dataset: Dataset,
    samples: Samples,
    catalogue: SidCatalogue,
    *,
    width: int | None = None,
    prior: float = 1.0,
) -> ItemRanking:
    """Ranks the items of all listed SIDs together, by the rule above.

    Only the events of each sample's history are read, so nothing at or after its target counts. A
    SID that occurs twice counts once, at its first place.

    Args:
        sids: integer [S, W] SID indices in any order, -1 = none.
        log_probs: float [S, W] log P(SID | user); ignored beside a SID of -1.
        dataset: events and training counts.
        samples: S samples; only their histories are read, which may be empty.
        catalogue: the items of each SID.
        width: W', places of a list; None: as many as the longest list needs.
        prior: a > 0, in events.

    Raises:
        ValueError: shapes, SIDs or items that do not fit, NaN among `log_probs`, a `width` below
            1, or a `prior` that is not a positive number.
    """
    if catalogue.num_items != dataset.num_items:
        raise ValueError(
            f"catalogue has SIDs for {catalogue.num_items} items but the data set has "
            f"{dataset.num_items}; build the SIDs from this data set"
        )
    _check(sids, log_probs, len(samples.users), catalogue, prior)
    start, end = samples.history_start, samples.history_end
    if width is None:
        width = _widest(sids, catalogue)
    items = np.full((len(sids), checked_width(width)), -1, np.int32)
    scores = np.full(items.shape, -np.inf)
    for rows in ragged_chunks(end - start + _num_items(sids, catalogue)):
        own = OwnCounts.of_histories(dataset.items, start[rows], end[rows], dataset.num_items)
        part = rank_items_of_sids(
            sids[rows],
            log_probs[rows],
            own,
            dataset.train_counts,
            catalogue,
            width=width,
            prior=prior,
        )
        items[rows], scores[rows] = part.items, part.scores
    return ItemRanking(items, scores)


@dataclass(frozen=True)
class OwnCounts:
    """How often the history of each of S users holds each item."""

    keys: Int64Array
    """int64 [P] user * num_items + item for each pair that occurs, rising."""
    counts: Int64Array
    """int64 [P]"""
    num_items: int
    """V."""

    @classmethod
    def of_histories(
        cls, items: AnyIntArray, start: Int64Array, end: Int64Array, num_items: int
    ) -> OwnCounts:
        """Of the histories items[start[s] : end[s]]."""
        row, position = ragged_positions(start, end)
        keys, counts = np.unique(row * num_items + items[position], return_counts=True)
        return cls(keys, counts, num_items)

    def of(self, row: Int64Array, item: Int64Array) -> FloatArray:
        """Events of each (row, item) [n]: float64 [n]."""
        if not len(self.keys):
            return np.zeros(len(item))
        wanted = row * self.num_items + item
        place = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[place] == wanted, self.counts[place], 0).astype(np.float64)


def rank_items_of_sids(
    sids: AnyIntArray,
    log_probs: NDArray[np.floating[Any]],
    own: OwnCounts,
    train_counts: Int64Array,
    catalogue: SidCatalogue,
    *,
    width: int | None = None,
    prior: float = 1.0,
) -> ItemRanking:
    """`rank_items` for users whose items are counted already; what it costs is for the items alone.

    Args:
        sids, log_probs, catalogue, width, prior: as in `rank_items`.
        own: of S users.
        train_counts: int64 [V] training events of each item.

    Raises:
        ValueError: shapes or SIDs that do not fit, NaN among `log_probs`, a `width` below 1, or a
            `prior` that is not a positive number.
    """
    _check(sids, log_probs, len(sids), catalogue, prior)
    if width is None:
        width = _widest(sids, catalogue)
    items = np.full((len(sids), checked_width(width)), -1, np.int32)
    scores = np.full(items.shape, -np.inf)
    row, column = np.nonzero(first_occurrences(sids))
    sid = sids[row, column]
    # `of` says which of these SIDs a candidate item comes from.
    of, position = ragged_positions(catalogue.item_offsets[sid], catalogue.item_offsets[sid + 1])
    item = catalogue.item_ids[position].astype(np.int64)
    popularity = train_counts[item].astype(np.float64) + 1
    share = _share_of_sid(own.of(row[of], item), popularity, of, len(sid), prior)
    score = log_probs[row, column].astype(np.float64)[of] + np.log(share)
    best = np.lexsort((item, -score, row[of]))
    row, item, score = row[of][best], item[best], score[best]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    kept = place < width
    items[row[kept], place[kept]] = item[kept]
    scores[row[kept], place[kept]] = score[kept]
    return ItemRanking(items, scores)


def _share_of_sid(
    own: FloatArray, popularity: FloatArray, of: Int64Array, num_sids: int, prior: float
) -> FloatArray:
    """q(item | SID, user) of each candidate: float64 [candidates]."""
    own_of_sid = np.bincount(of, own, minlength=num_sids)[of]
    popularity_of_sid = np.bincount(of, popularity, minlength=num_sids)[of]
    share: FloatArray = (own + prior * popularity / popularity_of_sid) / (own_of_sid + prior)
    return share


def _num_items(sids: AnyIntArray, catalogue: SidCatalogue) -> Int64Array:
    """Items of the SIDs of each list: int64 [S]."""
    sizes = np.where(first_occurrences(sids), catalogue.sizes[sids], 0)
    total: Int64Array = sizes.sum(axis=1, dtype=np.int64)
    return total


def _widest(sids: AnyIntArray, catalogue: SidCatalogue) -> int:
    return max(1, int(_num_items(sids, catalogue).max(initial=0)))


def _check(
    sids: AnyIntArray,
    log_probs: NDArray[np.floating[Any]],
    num_lists: int,
    catalogue: SidCatalogue,
    prior: float,
) -> None:
    if not 0 < prior < np.inf:
        raise ValueError(f"prior={prior} must be a number above 0 (in events)")
    if sids.ndim != 2 or len(sids) != num_lists or log_probs.shape != sids.shape:
        raise ValueError(
            f"sids {list(sids.shape)} and log_probs {list(log_probs.shape)} must both be "
            f"[{num_lists}, W], a list a sample"
        )
    if sids.size and not -1 <= int(sids.min()) <= int(sids.max()) < catalogue.num_sids:
        raise ValueError(
            f"sids must be in -1..{catalogue.num_sids - 1}, got {int(sids.min())}.."
            f"{int(sids.max())}"
        )
    if np.isnan(log_probs[sids >= 0]).any():
        raise ValueError("log_probs holds NaN; the model that made it is not usable")
