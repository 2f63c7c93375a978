"""Triton kernels of `bucket_history` and `hard_search`, and their launches."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from glass_kernels.sid_tier.triton_common import _bounds
from glass_kernels.triton_launch import on_device

EVENTS, CODES, WARPS = 64, 64, 8
"""Events and codes of a tile of `bucket_history`: 16 one-hot entries for each thread."""
SLOTS = 1024
"""Positions that a program of `hard_search` finds: of one query, or of several."""


@triton.jit
def _codes_of(sid1, event, end, K):
    """Codes of events, clamped where nobody checked them; past the end K, which no bucket has."""
    code = tl.load(sid1 + event, mask=event < end, other=0).to(tl.int64)
    code = tl.minimum(tl.maximum(code, 0), K - 1)
    return tl.where(event < end, code, K).to(tl.int32)


@triton.jit(do_not_specialize=["total"])
def _bucket_history_kernel(
    sid1, offsets, order, bucket_offsets, total, K, BE: tl.constexpr, BK: tl.constexpr
):
    """A program sorts the events of one user that have one of BK codes.

    It counts them, and those of lower codes, which come before them; then it walks over them again
    with a cursor for each code. The rank of an event among those of its tile is a running sum down
    the one-hot tile [BE, BK], so the order of time is kept. The cursors stay in registers.
    """
    blocks = tl.cdiv(K, BK)
    user = (tl.program_id(0) // blocks).to(tl.int64)
    first = (tl.program_id(0) % blocks) * BK
    code = first + tl.arange(0, BK)
    begin, end = _bounds(offsets, user, total)

    counts = tl.zeros([BK], tl.int32)
    below = tl.zeros([BE], tl.int32)
    for tile in range(begin, end, BE):
        found = _codes_of(sid1, tile + tl.arange(0, BE), end, K)
        counts += tl.sum((found[:, None] == code[None, :]).to(tl.int32), 0)
        below += (found < first).to(tl.int32)
    cursor = begin.to(tl.int32) + tl.sum(below, 0) + tl.cumsum(counts, 0) - counts
    row = bucket_offsets + user * (K + 1)
    tl.store(row + code, cursor, mask=code < K)
    if first + BK >= K:
        tl.store(row + K, end.to(tl.int32))

    for tile in range(begin, end, BE):
        event = tile + tl.arange(0, BE)
        found = _codes_of(sid1, event, end, K)
        one_hot = (found[:, None] == code[None, :]).to(tl.int32)
        rank = tl.cumsum(one_hot, 0) - 1
        place = tl.sum(one_hot * (rank + cursor[None, :]), 1)
        mine = (event < end) & (found >= first) & (found < first + BK)
        tl.store(order + place, event.to(tl.int32), mask=mine)
        cursor += tl.sum(one_hot, 0)


@triton.jit
def _bucket(bucket_offsets, user, code, usable, total, K):
    """(end, size) of buckets, inside [0, total] whatever is stored; empty where not `usable`."""
    place = bucket_offsets + user * (K + 1) + code
    begin = tl.load(place, mask=usable, other=0)
    end = tl.load(place + 1, mask=usable, other=0)
    begin = tl.minimum(tl.maximum(begin, 0), total)
    end = tl.minimum(tl.maximum(end, begin), total)
    return end, end - begin


@triton.jit
def _is_new(neighbours, row, near, code, known, number):
    """Whether no earlier neighbour of the row is `near`, nor the code itself."""
    new = known & (near != code)
    for earlier in range(0, number):
        new = new & (tl.load(neighbours + row + earlier, mask=known, other=-1).to(tl.int64) != near)
    return new


@triton.jit(do_not_specialize=["total", "num_queries", "num_rows", "tau"])
def _hard_search_kernel(
    order, bucket_offsets, query_sid1, neighbours, positions, lengths,
    total, num_queries, num_rows, K, num_near, tau, M,
    BQ: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """A program answers BQ queries: slot m belongs to the bucket whose running total exceeds m.

    First it finds out which place of `order` each slot shows; then all are read at once. Queries of
    a user that repeat a code do the same work again: it is a few words, which are in a cache.
    """
    query = tl.program_id(0).to(tl.int64) * BQ + tl.arange(0, BQ)
    inside = query < num_rows
    user = query // num_queries
    code = tl.load(query_sid1 + query, mask=inside, other=-1).to(tl.int64)
    known = (code >= 0) & (code < K)
    slot = tl.program_id(1) * BM + tl.arange(0, BM)[None, :]

    end, size = _bucket(bucket_offsets, user, code, known, total, K)
    taken = tl.minimum(size, M)
    place = tl.where(slot < taken[:, None], end[:, None] - 1 - slot, -1)

    row = code * num_near
    number = 0
    while (number < num_near) & (tl.max(tl.where(known, tau - taken, 0), 0) > 0):
        near = tl.load(neighbours + row + number, mask=known, other=-1).to(tl.int64)
        usable = known & (near >= 0) & (near < K) & (taken < tau)
        usable = usable & _is_new(neighbours, row, near, code, known, number)
        end, size = _bucket(bucket_offsets, user, near, usable, total, K)
        after = taken + tl.minimum(size, tl.maximum(tau - taken, 0))
        here = (slot >= taken[:, None]) & (slot < after[:, None])
        place = tl.where(here, end[:, None] - 1 - (slot - taken[:, None]), place)
        taken = after
        number += 1

    found = tl.load(order + place, mask=place >= 0, other=-1)
    out = positions + query[:, None] * M + slot
    tl.store(out, found, mask=inside[:, None] & (slot < M))
    if tl.program_id(1) == 0:
        tl.store(lengths + query, taken, mask=inside)


def bucket_history_launch(sid1: Tensor, offsets: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    """See `glass_kernels.bucket_history`: (order [T], bucket_offsets [B, K+1])."""
    sid1, offsets = sid1.contiguous(), offsets.contiguous()
    num_users, total = offsets.shape[0] - 1, sid1.shape[0]
    order = sid1.new_empty(total, dtype=torch.int32)
    bucket_offsets = sid1.new_empty((num_users, num_codes + 1), dtype=torch.int32)
    if num_users == 0:
        return order, bucket_offsets
    with on_device(sid1):
        _bucket_history_kernel[(num_users * triton.cdiv(num_codes, CODES),)](
            sid1, offsets, order, bucket_offsets, total, num_codes,
            BE=EVENTS, BK=CODES, num_warps=WARPS,
        )  # fmt: skip
    return order, bucket_offsets


def tile_of(max_items: int) -> tuple[int, int]:
    """(queries, slots) of a program of `hard_search`: powers of two."""
    slots = min(triton.next_power_of_2(max_items), SLOTS)
    return min(64, SLOTS // slots), slots


def hard_search_launch(
    order: Tensor,
    bucket_offsets: Tensor,
    query_sid1: Tensor,
    neighbours: Tensor | None,
    max_items: int,
    min_items: int,
) -> tuple[Tensor, Tensor]:
    """See `glass_kernels.hard_search`: (positions [B, S, M], lengths [B, S])."""
    order, bucket_offsets = order.contiguous(), bucket_offsets.contiguous()
    query = query_sid1.contiguous()
    near = query if neighbours is None else neighbours.contiguous()
    positions = order.new_empty((*query.shape, max_items))
    lengths = order.new_empty(query.shape)
    if query.numel() == 0:
        return positions, lengths
    queries, slots = tile_of(max_items)
    with on_device(order):
        _hard_search_kernel[(triton.cdiv(query.numel(), queries), triton.cdiv(max_items, slots))](
            order, bucket_offsets, query, near, positions, lengths,
            order.shape[0], query.shape[1], query.numel(), bucket_offsets.shape[1] - 1,
            0 if neighbours is None else near.shape[1], min(min_items, max_items), max_items,
            BQ=queries, BM=slots,
        )  # fmt: skip
    return positions, lengths
