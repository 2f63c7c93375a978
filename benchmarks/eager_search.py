"""The opponents: hard search as a good practitioner writes it in plain PyTorch, by masks.

Each takes padded codes int32 [B, L] (-1 after the end), the offset of every user int64 [B] and the
queries int64 [B, S], all made before the clock starts, to positions int32 [B, S, M] and lengths
int32 [B, S]. Positions grow with time, so the largest M that match are the newest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.searches import Searches

Found = tuple[Tensor, Tensor]
"""Places in the history int64 [R, M], newest first and then -1, and how many int64 [R]."""


@dataclass(frozen=True)
class Fill:
    """What is searched when a bucket is small."""

    min_items: int
    priority: Tensor
    """int32 [K, K+1] of every event's code (K: no event) to a query's: the nearest is largest, the
    query's own n + 1, all others 0."""

    @classmethod
    def of(cls, neighbours: Tensor, min_items: int) -> Fill:
        num_codes, count = neighbours.shape
        rows = torch.arange(num_codes, device=neighbours.device)
        priority = neighbours.new_zeros(num_codes, num_codes + 1, dtype=torch.int32)
        for rank in reversed(range(count)):
            priority[rows, neighbours[:, rank].long()] = count - rank
        priority[rows, rows] = count + 1
        return cls(min_items, priority)


def newest_by_topk(hit: Tensor, max_items: int, dtype: torch.dtype) -> Found:
    """Of bool [R, L]; `dtype` is what is sorted."""
    places = torch.arange(hit.shape[1], dtype=dtype, device=hit.device)
    score = torch.where(hit, places, places.new_full((), -1))
    top = score.topk(min(max_items, hit.shape[1]), dim=1).values.long()
    top = torch.nn.functional.pad(top, (0, max_items - top.shape[1]), value=-1)
    return top, (top >= 0).sum(1)


def newest_by_nonzero(hit: Tensor, max_items: int) -> Found:
    """Each hit's slot is the number of hits after it."""
    rows, places = hit.nonzero(as_tuple=True)
    lengths = torch.bincount(rows, minlength=len(hit))
    slots = lengths.cumsum(0)[rows] - 1 - torch.arange(len(rows), device=rows.device)
    kept = slots < max_items
    found = places.new_full((len(hit), max_items), -1)
    found[rows[kept], slots[kept]] = places[kept]
    return found, lengths.clamp_max(max_items)


def newest_with_neighbours(histories: Tensor, codes: Tensor, fill: Fill, max_items: int) -> Found:
    """Of codes [R] in `padded_index` [R, L]: own events, then neighbours', up to `min_items`."""
    length = histories.shape[1]
    priority = fill.priority[codes].gather(1, histories)
    places = torch.arange(length, dtype=torch.int32, device=histories.device)
    score = torch.where(priority > 0, priority * length + places, -1)
    top = score.topk(min(fill.min_items, max_items, length), dim=1).values.long()
    places = torch.where(top >= 0, top % length, -1)
    places = torch.nn.functional.pad(places, (0, max_items - places.shape[1]), value=-1)
    return places, (top >= 0).sum(1)


def search_all(
    batch: Searches, newest: Callable[[Tensor], Found], fill: Fill | None, *, distinct: bool
) -> tuple[Tensor, Tensor]:
    """`newest` of every query, or of every distinct pair of user and code."""
    padded, query = batch.padded, batch.query
    users = torch.arange(len(query), device=query.device)[:, None].expand_as(query).flatten()
    codes, back = query.flatten(), None
    if distinct:
        span = int(codes.max()) + 1
        keys, back = torch.unique(users * span + codes, return_inverse=True)
        users, codes = keys // span, keys % span
        hit = padded[users] == codes[:, None].int()
    else:
        hit = (padded[:, None] == query[..., None].int()).flatten(0, 1)
    places, lengths = newest(hit)
    if fill is not None:  # few buckets are small: those alone once more
        small = (lengths < fill.min_items).nonzero()[:, 0]
        places[small], lengths[small] = newest_with_neighbours(
            batch.padded_index[users[small]], codes[small], fill, places.shape[1]
        )
    positions = torch.where(places >= 0, places + batch.starts[users][:, None], -1).int()
    lengths = lengths.int()
    if back is not None:
        positions, lengths = positions[back], lengths[back]
    return positions.view(*query.shape, -1), lengths.view(query.shape)


def search_forms(
    max_items: int, neighbours: Tensor | None, min_items: int
) -> dict[str, Callable[[Searches], tuple[Tensor, Tensor]]]:
    fill = None if neighbours is None else Fill.of(neighbours, min_items)

    def topk(dtype: torch.dtype, distinct: bool) -> Callable[[Searches], tuple[Tensor, Tensor]]:
        return lambda batch: search_all(
            batch, lambda hit: newest_by_topk(hit, max_items, dtype), fill, distinct=distinct
        )

    def nonzero(distinct: bool) -> Callable[[Searches], tuple[Tensor, Tensor]]:
        return lambda batch: search_all(
            batch, lambda hit: newest_by_nonzero(hit, max_items), fill, distinct=distinct
        )

    return {
        "top-k int32": topk(torch.int32, False),
        "top-k float": topk(torch.float32, False),
        "top-k, distinct": topk(torch.int32, True),
        "nonzero": nonzero(False),
        "nonzero, distinct": nonzero(True),
    }
