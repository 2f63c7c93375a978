"""Semantic hard search in plain PyTorch: the semantics every other backend is judged by."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class HistoryIndex(NamedTuple):
    """Events of every user grouped by first-level code.

    Attributes:
        order: int32 [T]; positions in the flat history, user after user, code after code, and
            inside a bucket oldest first.
        bucket_offsets: int32 [B, K+1]; the bucket of user b and code k is
            `order[bucket_offsets[b, k]:bucket_offsets[b, k + 1]]`.
    """

    order: Tensor
    bucket_offsets: Tensor


def bucket_history_reference(sid1: Tensor, offsets: Tensor, num_codes: int) -> HistoryIndex:
    """One stable sort by (user, code); shapes as in `bucket_history`."""
    num_events, num_users = sid1.numel(), offsets.numel() - 1
    events = torch.arange(num_events, device=sid1.device)
    users = torch.searchsorted(offsets, events, right=True) - 1
    # Where codes are not checked (GPU), a wrong one must not leak an event to another user.
    keys = users * num_codes + sid1.long().clamp(0, num_codes - 1)
    keys, order = torch.sort(keys, stable=True)
    buckets = torch.arange(num_users * num_codes, device=sid1.device)
    starts = torch.searchsorted(keys, buckets).view(num_users, num_codes)
    bucket_offsets = torch.cat([starts, offsets[1:, None].long()], dim=1)
    return HistoryIndex(order.int(), bucket_offsets.int())


def usable_neighbours(neighbours: Tensor) -> Tensor:
    """bool [K, n]: False for a neighbour that is negative, the code itself, or a repetition."""
    num_codes, width = neighbours.shape
    own = torch.arange(num_codes, device=neighbours.device)[:, None]
    usable = (neighbours >= 0) & (neighbours < num_codes) & (neighbours != own)
    equal = neighbours[:, :, None] == neighbours[:, None, :]
    earlier = torch.ones(width, width, dtype=torch.bool, device=neighbours.device).tril(-1)
    return usable & ~(equal & earlier).any(dim=2)


def hard_search_reference(
    index: HistoryIndex,
    query_sid1: Tensor,
    *,
    max_items: int,
    neighbours: Tensor | None = None,
    min_items: int = 0,
) -> tuple[Tensor, Tensor]:
    """Index arithmetic over all queries at once; shapes as in `hard_search`.

    The sources of a query are its own bucket, then its neighbours'. Slot m of the output belongs
    to the source whose running total of taken events first exceeds m.
    """
    bucket_offsets = index.bucket_offsets.long()
    num_codes = bucket_offsets.shape[1] - 1
    known = (query_sid1 >= 0) & (query_sid1 < num_codes)
    codes = query_sid1.long().clamp(0, num_codes - 1)[..., None]  # [B, S, sources]
    usable = known[..., None]
    if neighbours is not None and min_items > 0:
        near = usable_neighbours(neighbours)[codes[..., 0]] & known[..., None]
        usable = torch.cat([usable, near], dim=2)
        codes = torch.cat([codes, neighbours.long().clamp(0, num_codes - 1)[codes[..., 0]]], dim=2)

    flat = codes.flatten(1)
    starts = bucket_offsets.gather(1, flat).view_as(codes)
    ends = bucket_offsets.gather(1, flat + 1).view_as(codes)
    sizes = (ends - starts).masked_fill(~usable, 0)
    # The own bucket fills up to M; the neighbours' only reach for tau.
    totals = sizes.cumsum(dim=2).clamp(max=min(min_items, max_items))
    own = sizes[..., :1].clamp(max=max_items)
    totals = torch.maximum(totals, own)
    lengths = totals[..., -1]

    slots = torch.arange(max_items, device=codes.device).expand(*lengths.shape, -1).contiguous()
    source = torch.searchsorted(totals, slots, right=True).clamp(max=codes.shape[2] - 1)
    before = torch.cat([torch.zeros_like(own), totals[..., :-1]], dim=2)
    newest_first = ends.gather(2, source) - 1 - (slots - before.gather(2, source))
    filled = slots < lengths[..., None]
    positions = torch.full_like(slots, -1, dtype=torch.int32)
    if index.order.numel() > 0:
        found = index.order[newest_first.clamp(0, index.order.numel() - 1)]
        positions = torch.where(filled, found.int(), positions)
    return positions, lengths.int()
