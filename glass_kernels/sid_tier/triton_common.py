"""Triton: what both SID-Tier kernels share. Who counts which events, and how counts are written.

The flat events are cut at every multiple of `chunk`, so that no program counts more than `chunk`
of them however long a history is. Program "user b" counts what user b has before the first cut
after its start; program "cut j" what its user has from event (j + 1) * chunk to the next cut. That
needs no lengths on the host and no prefix sum: there are B users and T // chunk cuts, and cut j
finds its user by bisection. A user without a cut is finished at once. Else `_merge_kernel` adds the
integer partial counts of its cuts: whatever the order, the sum is the same.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

MAX_BINS = 4096
CHUNKS = (4096, 2048, 1024)
ENOUGH_PROGRAMS = 1024  # several for every multiprocessor of the largest cards
MERGE_ROWS, MERGE_BLOCK = 16, 128


@triton.jit
def _bounds(offsets, user, total):
    """First and last + 1 event of a user, inside [0, total] whatever `offsets` holds."""
    start = tl.minimum(tl.maximum(tl.load(offsets + user), 0), total)
    stop = tl.minimum(tl.maximum(tl.load(offsets + user + 1), start), total)
    return start, stop


@triton.jit
def _next_cut(event, chunk):
    """First cut after an event; a chunk is a power of two, so nothing is divided."""
    return (event | (chunk - 1)) + 1


@triton.jit
def _user_of(offsets, num_users, event):
    """Last user b with offsets[b] <= event."""
    low = tl.zeros([], tl.int64)
    high = low + num_users
    while high - low > 1:
        middle = (low + high) // 2
        below = tl.load(offsets + middle) <= event
        low = tl.where(below, middle, low)
        high = tl.where(below, high, middle)
    return low


@triton.jit
def _slot(slot, offsets, num_users, total, chunk, num_cuts):
    """Begin and end of the events that a program counts."""
    position = (slot + 1).to(tl.int64) * chunk
    user = (slot - num_cuts).to(tl.int64)
    if slot < num_cuts:
        user = _user_of(offsets, num_users, position)
    start, stop = _bounds(offsets, user, total)
    begin = tl.where(slot < num_cuts, tl.maximum(position, start), start)
    end = tl.minimum(stop, _next_cut(begin, chunk))
    if (slot < num_cuts) & (start >= position):  # a user who starts at the cut has no part there
        end = begin
    return begin, end


@triton.jit
def _add(counts, tiers, counted, BK: tl.constexpr, NT: tl.constexpr, BE: tl.constexpr):
    """Adds a tile [BE, BK] of tiers to counts [BK * NT], where `counted`.

    A histogram of (code, tier) pairs: counters of the block in shared memory. Its cost hardly
    depends on NT; comparing the tile with every tier and summing took nearly three times the
    instructions at 4 tiers.
    """
    index = tl.arange(0, BK)[None, :] * NT + tiers
    flat = tl.reshape(index, [BE * BK])
    mask = tl.reshape(counted, [BE * BK])
    return counts + tl.histogram(flat, BK * NT, mask=mask)


@triton.jit
def _write(
    counts, offsets, out, partial, slot, total, first_code, chunk, num_cuts,
    K, N: tl.constexpr, BK: tl.constexpr, NT: tl.constexpr, NORMALIZE: tl.constexpr,
):  # fmt: skip
    """Writes counts [BK * NT] of a program: partial, or finished when no cut is in the user."""
    bins = tl.arange(0, BK * NT)
    code, tier = first_code + bins // NT, bins % NT
    mask = (code < K) & (tier < N)
    inside = code.to(tl.int64) * N + tier
    if slot < num_cuts:
        tl.store(partial + slot.to(tl.int64) * K * N + inside, counts, mask=mask)
    else:
        user = (slot - num_cuts).to(tl.int64)
        value = counts.to(tl.float32)  # exact: chunk < 2^24
        if NORMALIZE:
            # read again rather than kept in registers over the counting
            start, stop = _bounds(offsets, user, total)
            whole = stop <= _next_cut(start, chunk)
            length = tl.maximum(tl.where(whole, stop - start, 1), 1).to(tl.float32)
            value = tl.div_rn(value, tl.zeros_like(value) + length)
        tl.store(out + user * K * N + inside, value, mask=mask)


@triton.jit(do_not_specialize=["num_users", "total", "num_cuts"])
def _merge_kernel(
    offsets, partial, out, num_users, total, chunk, num_cuts, size,
    NORMALIZE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adds a user's partial counts to what its first program wrote; the first cut does it."""
    cut = tl.program_id(0).to(tl.int64)
    position = (cut + 1) * chunk
    user = _user_of(offsets, num_users, position)
    start, stop = _bounds(offsets, user, total)
    if (start < position) & (start >= position - chunk) & (stop > position):
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = column < size
        place = out + user * size + column
        count = tl.load(place, mask=inside, other=0.0).to(tl.int64)
        last = tl.minimum((stop - 1) // chunk, num_cuts)
        for row in range(cut, last, ROWS):
            rows = row + tl.arange(0, ROWS)
            tile = partial + rows[:, None] * size + column[None, :]
            mask = (rows < last)[:, None] & inside[None, :]
            count += tl.sum(tl.load(tile, mask=mask, other=0).to(tl.int64), 0)
        value = count.to(tl.float64)
        if NORMALIZE:
            value = value / (stop - start).to(tl.float64)
        tl.store(place, value.to(tl.float32), mask=inside)


def fitting(configs: list[triton.Config], K: int, NT: int) -> list[triton.Config]:
    """Settings whose counters fit and whose codes are not mostly padding; a BK of 16 always is."""
    return [
        config
        for config in configs
        if config.kwargs["BK"] * NT <= MAX_BINS and config.kwargs["BK"] < 2 * max(K, 16)
    ]


def chunk_of(total: int, num_users: int, blocks: int) -> int:
    """Most events that one program counts: long, while there are programs for the whole card."""
    for chunk in CHUNKS[:-1]:
        if (num_users + total // chunk) * blocks >= ENOUGH_PROGRAMS:
            return chunk
    return CHUNKS[-1]


def merge(
    offsets: Tensor, partial: Tensor, out: Tensor, total: int, chunk: int, normalize: bool
) -> None:
    """Finishes the users that have cuts, in place; does nothing when there is none."""
    num_cuts, size = partial.shape[0], out.shape[1] * out.shape[2]
    if num_cuts == 0:
        return
    grid = (num_cuts, triton.cdiv(size, MERGE_BLOCK))
    _merge_kernel[grid](
        offsets, partial, out, out.shape[0], total, chunk, num_cuts, size,
        NORMALIZE=normalize, ROWS=MERGE_ROWS, BLOCK=MERGE_BLOCK,
    )  # fmt: skip
