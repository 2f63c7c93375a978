"""The Triton kernel that scores the continuations of beams and keeps each program's best."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
from __future__ import annotations

import triton
import triton.language as tl

from glass_kernels.trie.triton_select import _keep_best


@triton.jit
def _codes_of(child_codes, child, legal, TRIE: tl.constexpr):
    """Codes of children; without a trie a child is a code."""
    if TRIE:
        return tl.load(child_codes + child, mask=legal, other=0)
    return child.to(tl.int32)


@triton.jit
def _logits_of(logits, row, code, legal, K, LARGEST: tl.constexpr, T: tl.constexpr):
    """Logits of codes [BW, BC]; NaN and what is not legal as -inf, +inf as the largest number."""
    legal = legal & (code >= 0) & (code < K)
    x = tl.load(logits + row[:, None] * K + code, mask=legal, other=float("-inf")).to(T)
    x = tl.where(x == x, x, float("-inf"))
    return tl.where(x == float("inf"), LARGEST, x)


@triton.jit
def _lower_bound(values, low, high, wanted, steps):
    """First place in low : high whose value is not below `wanted`; the values rise."""
    for _ in range(0, steps):
        left = low < high
        middle = (low + high) // 2
        below = tl.load(values + middle, mask=left, other=0) < wanted
        high = tl.where(left & (below == 0), middle, high)
        low = tl.where(left & below, middle + 1, low)
    return low


@triton.jit
def _is_listed(
    filter_offsets, filter_nodes, request, begin, number, child, legal, num_filtered, steps,
    child_steps,
):  # fmt: skip
    """Whether children [BW, BC] are in the request's list of nodes.

    Those of a beam, begin : begin + number, are one part of it, so only that part is searched.
    """
    zero = begin.to(tl.int64) * 0
    low = zero + tl.minimum(tl.maximum(tl.load(filter_offsets + request), 0), num_filtered)
    high = zero + tl.minimum(tl.load(filter_offsets + request + 1), num_filtered)
    low = _lower_bound(filter_nodes, low, high, begin, steps)
    high = _lower_bound(filter_nodes, low, high, begin + number, steps)
    wide = child.to(tl.int64) * 0
    first, end = low[:, None] + wide, high[:, None] + wide
    place = _lower_bound(filter_nodes, first, end, child, child_steps)
    found = tl.load(filter_nodes + place, mask=legal & (place < end), other=-1)
    return found == child


@triton.jit(
    do_not_specialize=[
        "W", "num_parents", "num_children", "max_children", "num_filtered", "steps", "child_steps",
        "beam_blocks", "child_blocks", "width",
    ]
)  # fmt: skip
def _candidates_kernel(
    logits, scores, nodes, child_offsets, child_codes, filter_offsets, filter_nodes,
    out_scores, out_children, out_parents,
    W, K, num_parents, num_children, max_children, num_filtered, steps, child_steps,
    beam_blocks, child_blocks, width,
    TRIE: tl.constexpr, MASKED: tl.constexpr, FILTERED: tl.constexpr, KEEPS: tl.constexpr,
    LARGEST: tl.constexpr, BW: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """A program has BW beams of a request and BC children of each (BW = 1 if there are more)."""
    program = tl.program_id(0).to(tl.int64)
    part = program % (beam_blocks * child_blocks)
    request = program // (beam_blocks * child_blocks)
    beam = ((part // child_blocks) * BW + tl.arange(0, BW)).to(tl.int32)
    row = request * W + beam
    T: tl.constexpr = out_scores.dtype.element_ty
    score = tl.load(scores + row, mask=beam < W, other=float("-inf")).to(T)
    alive = score > float("-inf")  # NaN is not
    if TRIE:
        node = tl.load(nodes + row, mask=alive, other=-1).to(tl.int64)
        alive = alive & (node >= 0) & (node < num_parents)
        begin = tl.load(child_offsets + node, mask=alive, other=0)
        begin = tl.minimum(tl.maximum(begin, 0), num_children)
        end = tl.load(child_offsets + node + 1, mask=alive, other=0)
        number = tl.minimum(tl.maximum(tl.minimum(end, num_children) - begin, 0), max_children)
    else:
        begin = tl.zeros([BW], tl.int32)
        number = tl.where(alive, K, 0)

    largest = tl.full([BW], float("-inf"), T)
    total = tl.zeros([BW], T)
    limit = tl.max(number, 0)
    if not MASKED:
        limit = tl.where(limit > 0, K, 0)
    for first in range(0, limit, BC):
        rank = first + tl.arange(0, BC)[None, :]
        if MASKED:
            legal = rank < number[:, None]
            code = _codes_of(child_codes, begin[:, None] + rank, legal, TRIE)
        else:
            legal = (rank < K) & (number[:, None] > 0)
            code = rank + tl.zeros([BW, 1], tl.int32)
        x = _logits_of(logits, row, code, legal, K, LARGEST, T)
        new = tl.maximum(largest, tl.max(x, 1))
        base = tl.where(new > float("-inf"), new, 0.0)
        total = total * tl.exp(largest - base) + tl.sum(tl.exp(x - base[:, None]), 1)
        largest = new
    base = tl.where(largest > float("-inf"), largest, 0.0)
    log_total = tl.log(tl.where(total > 0, total, 1.0))

    rank = (part % child_blocks).to(tl.int32) * BC + tl.arange(0, BC)[None, :]
    child = begin[:, None] + rank
    legal = rank < number[:, None]
    code = _codes_of(child_codes, child, legal, TRIE)
    x = _logits_of(logits, row, code, legal, K, LARGEST, T)
    value = x - base[:, None] - log_total[:, None] + score[:, None]
    value = tl.where(code < 0, score[:, None], value)  # the SID has ended: nothing is added
    if FILTERED:
        listed = _is_listed(
            filter_offsets, filter_nodes, request, begin, number, child, legal, num_filtered,
            steps, child_steps,
        )  # fmt: skip
        legal = legal & (listed == KEEPS)
    value = tl.where(legal & (value > float("-inf")), value, float("-inf"))
    value = tl.where(value == 0, 0.0, value)  # no -0
    parent = beam[:, None] + tl.zeros([1, BC], tl.int32)
    out = program * width
    _keep_best(
        tl.reshape(value, [BW * BC]), tl.reshape(child, [BW * BC]), tl.reshape(parent, [BW * BC]),
        out_scores + out, out_children + out, out_parents + out, width,
    )  # fmt: skip
