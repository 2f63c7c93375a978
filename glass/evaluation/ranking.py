"""What a baseline hands over, and the order by training popularity that completes short lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from glass.evaluation.arrays import AnyIntArray, Int32Array, Int64Array
from glass.evaluation.catalogue import SidCatalogue

if TYPE_CHECKING:
    from glass.data import Dataset


@dataclass(frozen=True)
class SystemRanking:
    """A baseline's lists; it ranks SIDs and items each by their own full scores."""

    sids: Int32Array
    """int32 [S, W] SID indices, best first, -1 = none."""
    items: Int32Array
    """int32 [S, W] item ids, best first, -1 = none."""


@dataclass(frozen=True)
class PopularityOrder:
    """Candidates and their SIDs by training events, most first; equal counts by number."""

    items: Int64Array
    """int64 [C]."""
    sids: Int64Array
    """int64 [U]; a SID's count is the sum over its candidates."""

    @classmethod
    def fit(cls, dataset: Dataset, catalogue: SidCatalogue) -> PopularityOrder:
        """Raises ValueError where data set and catalogue differ in their items."""
        if catalogue.num_items != dataset.num_items:
            raise ValueError(
                f"catalogue has SIDs for {catalogue.num_items} items but the data set has "
                f"{dataset.num_items}; build the SIDs from this data set"
            )
        counts = np.asarray(dataset.train_counts, np.int64)
        chosen = np.flatnonzero(catalogue.candidates)
        of_sid = np.bincount(
            catalogue.sid_of_item[chosen], weights=counts[chosen], minlength=catalogue.num_sids
        )
        return cls(
            items=chosen[np.argsort(-counts[chosen], kind="stable")],
            sids=np.argsort(-of_sid, kind="stable"),
        )


def checked_width(width: int) -> int:
    """Raises ValueError unless `width` is at least 1."""
    if width < 1:
        raise ValueError(f"width={width} must be at least 1: the places of a ranked list")
    return width


def padded(lists: AnyIntArray, width: int) -> Int32Array:
    """int32 [S, width]: the first `width` columns, -1 where there are fewer."""
    result = np.full((len(lists), width), -1, np.int32)
    kept = min(width, lists.shape[1])
    result[:, :kept] = lists[:, :kept]
    return result
