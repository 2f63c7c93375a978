"""Hit@K and NDCG@K of ranked semantic IDs, at SID level and at item level."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glass.evaluation.arrays import (
    AnyIntArray,
    BoolArray,
    FloatArray,
    Int64Array,
    first_occurrences,
    row_chunks,
)
from glass.evaluation.catalogue import SidCatalogue
from glass.evaluation.targets import Targets

_NAME = re.compile(r"(item_|split_item_)?(hit|ndcg)@(\d+)")


@dataclass(frozen=True)
class RankMetrics:
    """Ranks of N targets and the metrics that follow from them.

    With one relevant item a target, Hit@K (= Recall@K) is [rank <= K] and NDCG@K is
    [rank <= K] / log2(rank + 1). Where a SID's items split its credit, the rank is uniform over
    `split_places` places that begin at `split_first`, and both are expectations over it.
    """

    ks: tuple[int, ...]
    """Cut-offs."""
    sid_rank: Int64Array
    """int64 [N] rank of the target's SID from 1; 0: not ranked."""
    split_first: Int64Array
    """int64 [N] first place from 1 of the items of the target's SID; 0: not ranked."""
    split_places: Int64Array
    """int64 [N] places that the target item may take, all equally likely."""
    item_rank: Int64Array | None = None
    """int64 [N] rank of the target in the item list from 1; 0: not ranked. None: no such list."""

    def __len__(self) -> int:
        return len(self.sid_rank)

    @property
    def names(self) -> tuple[str, ...]:
        """Metric names, "hit@1" .. "split_item_ndcg@<largest K>"."""
        levels = ("", "split_item_") if self.item_rank is None else ("", "item_", "split_item_")
        return tuple(
            f"{level}{kind}@{k}" for level in levels for kind in ("hit", "ndcg") for k in self.ks
        )

    def per_target(self, name: str) -> FloatArray:
        """Metric of each target.

        Args:
            name: one of `names`: "hit@K" or "ndcg@K" with a K of `ks`, of the SID as it is, of
                the item list with "item_", of split credit with "split_item_" before it.

        Returns:
            float64 [N] in [0, 1].

        Raises:
            ValueError: an unknown name or cut-off.
        """
        match = _NAME.fullmatch(name)
        if match is None or name not in self.names:
            raise ValueError(f"name={name!r} is no metric here; choose of {', '.join(self.names)}")
        if match[1] == "split_item_":
            first, places = self.split_first, self.split_places
        else:
            rank = self.item_rank if match[1] else self.sid_rank
            assert rank is not None, "item metrics are named only where items are ranked"
            first, places = rank, np.ones_like(rank)
        return _expected_gain(first, places, int(match[3]), discounted=match[2] == "ndcg")

    def summary(self, mask: BoolArray | None = None) -> dict[str, float]:
        """Means over targets.

        Args:
            mask: bool [N], the targets that count; None: all.

        Returns:
            Metric name -> mean; empty where no target counts.

        Raises:
            ValueError: `mask` is not a bool array [N].
        """
        if mask is not None and (mask.dtype != np.bool_ or mask.shape != self.sid_rank.shape):
            raise ValueError(
                f"mask must be bool [{len(self)}], got {mask.dtype} {list(mask.shape)}"
            )
        if not (len(self) if mask is None else mask.any()):
            return {}
        chosen = slice(None) if mask is None else mask
        return {name: float(self.per_target(name)[chosen].mean()) for name in self.names}


def rank_metrics(
    ranked: AnyIntArray,
    targets: Targets,
    catalogue: SidCatalogue,
    ks: Sequence[int],
    *,
    items: AnyIntArray | None = None,
) -> RankMetrics:
    """Ranks every target in the list of its sample.

    A SID counts once, at its best place. Entries of -1 (a beam whose codes the catalogue does not
    hold, or no beam) take no place: a server would drop them, and the share of such beams is
    reported beside the metrics. Item metrics judge `items`, the list that would be shown
    (`rank_items` makes it of SIDs), and there are none without it. Split credit needs `ranked`
    only: the m items of a SID stand in random order, so the target's rank is uniform over the m
    places that follow the items of better SIDs. A target that is no candidate of the catalogue is a
    miss at every level, also where a candidate shares its SID: nobody would be shown it.

    Args:
        ranked: integer [S, W] SID indices, best first, -1 = invalid or none.
        targets: N targets whose `sample` is a row of `ranked`.
        catalogue: the items of each SID.
        ks: cut-offs K >= 1.
        items: integer [S, W'] item ids, best first, -1 = none.

    Raises:
        ValueError: bad shapes, ids out of range, or lists shorter than the largest cut-off.
    """
    cutoffs = _checked_ks(ks)
    _check_lists("ranked", ranked, targets, catalogue.num_sids, cutoffs[-1])
    if len(targets) and int(targets.item.max()) >= catalogue.num_items:
        raise ValueError(
            f"targets hold item {int(targets.item.max())} but the catalogue has "
            f"{catalogue.num_items} items; evaluate with the SIDs of the same data set"
        )
    truth = catalogue.sid_of_item[targets.item]
    sizes = catalogue.sizes.astype(np.int64)
    rank, before = _find(ranked, targets.sample, truth, sizes)
    item_rank = None
    if items is not None:
        _check_lists("items", items, targets, catalogue.num_items, cutoffs[-1])
        wanted = np.where(truth >= 0, targets.item, -1)
        item_rank, _ = _find(items, targets.sample, wanted, None)
    return RankMetrics(
        ks=cutoffs,
        sid_rank=rank,
        split_first=np.where(rank > 0, before + 1, 0),
        split_places=np.where(rank > 0, sizes[truth], 0),
        item_rank=item_rank,
    )


def _expected_gain(
    first: Int64Array, places: Int64Array, k: int, *, discounted: bool
) -> FloatArray:
    """Expected gain at cut-off k of a rank that is uniform over places first .. first + m - 1."""
    gain = np.zeros(k + 1)
    rank = np.arange(1, k + 1)
    gain[1:] = np.cumsum(1 / np.log2(rank + 1) if discounted else np.ones(k))
    found = first > 0
    low = np.minimum(np.where(found, first - 1, 0), k)
    high = np.minimum(np.where(found, first - 1 + places, 0), k)
    expected: FloatArray = (gain[high] - gain[low]) / np.maximum(places, 1)
    return expected


def _find(
    lists: AnyIntArray, sample: Int64Array, wanted: AnyIntArray, sizes: Int64Array | None
) -> tuple[Int64Array, Int64Array]:
    """Rank from 1 (0: absent) of each wanted number, and the total size of the numbers before it.

    Both count distinct numbers >= 0 only; a wanted number below 0 is absent.
    """
    rank = np.zeros(len(sample), np.int64)
    before = np.zeros(len(sample), np.int64)
    by_sample = np.argsort(sample, kind="stable")
    sorted_sample = sample[by_sample]
    for rows in row_chunks(len(lists), lists.shape[1]):
        chunk = lists[rows]
        counted = first_occurrences(chunk)
        place = np.cumsum(counted, axis=1)
        weight = counted * sizes[chunk] if sizes is not None else counted.astype(np.int64)
        ahead = np.cumsum(weight, axis=1) - weight
        begin, end = np.searchsorted(sorted_sample, (rows.start, rows.stop))
        # A basket may hold far more targets than the chunk has rows, hence chunks of targets.
        for part in row_chunks(int(end - begin), lists.shape[1]):
            target = by_sample[begin:end][part]
            row = sample[target] - rows.start
            match = (chunk[row] == wanted[target, None]) & counted[row]
            column = match.argmax(axis=1)
            found = match[np.arange(len(row)), column]
            rank[target] = np.where(found, place[row, column], 0)
            before[target] = np.where(found, ahead[row, column], 0)
    return rank, before


def _checked_ks(ks: Sequence[int]) -> tuple[int, ...]:
    cutoffs = tuple(sorted({int(k) for k in ks}))
    if not cutoffs or cutoffs[0] < 1:
        raise ValueError(f"ks must be cut-offs >= 1, got {list(ks)}")
    return cutoffs


def _check_lists(name: str, lists: AnyIntArray, targets: Targets, num_ids: int, max_k: int) -> None:
    if lists.ndim != 2 or not np.issubdtype(lists.dtype, np.integer):
        raise ValueError(
            f"{name} must be an integer array [S, W], got {lists.dtype} {list(lists.shape)}"
        )
    if lists.shape[1] < min(max_k, num_ids):
        raise ValueError(
            f"{name} holds {lists.shape[1]} places but the largest cut-off is {max_k}; "
            "rank more (eval.beam_width) or lower eval.ks"
        )
    if lists.size and not -1 <= int(lists.min()) <= int(lists.max()) < num_ids:
        raise ValueError(
            f"{name} must be in -1..{num_ids - 1}, got {int(lists.min())}..{int(lists.max())}"
        )
    if not len(targets):
        return
    first, last = int(targets.sample.min()), int(targets.sample.max())
    if not 0 <= first <= last < len(lists):
        raise ValueError(
            f"{name} has {len(lists)} rows but targets refer to samples {first}..{last}; "
            "pass one list a sample"
        )
