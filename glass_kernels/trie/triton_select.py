"""Triton kernels that keep the best candidates of a list and put the last ones in order.

A list [B, M] holds scores, children and parents; a score of -inf is no candidate. Its order is that
of (parent, code), and all but the last kernel keep it, so ties go to the lower place. Nothing is
sorted: a threshold is found by halving, and few enough candidates are ranked by counting.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _choose(value, width):
    """Where the best `width` of value [N], N < 2^15, go in their order: (slot, chosen, how many).

    NaN and -0 must not come. Floats are looked at as whole numbers of the same order, and the
    interval that holds the width-th best is halved until a bound has just `width` above it or, with
    ties, is a single number.
    """
    there = value > float("-inf")
    WIDE: tl.constexpr = value.dtype.primitive_bitwidth == 64
    INT: tl.constexpr = tl.int64 if WIDE else tl.int32
    largest: tl.constexpr = 0x7FFFFFFFFFFFFFFF if WIDE else 0x7FFFFFFF
    image = value.to(INT, bitcast=True)
    image = tl.where(image < 0, image ^ largest, image)
    image = tl.where(there, image, -largest)  # below that of -inf
    low = tl.min(tl.where(there, image, largest), 0)
    high = tl.max(image, 0)
    count = tl.sum(there.to(tl.int32), 0)  # not below `low`
    while (low < high) & (count > width):
        middle = (low | high) - ((low ^ high) >> 1)  # rounded up, and never past the largest
        above = tl.sum((image >= middle).to(tl.int32), 0)
        high = tl.where(above < width, middle - 1, high)
        count = tl.where(above < width, count, above)
        low = tl.where(above < width, low, middle)
    better = (image > low).to(tl.int32)
    equal = (there & (image == low)).to(tl.int32)
    both = better * 65536 + equal  # two running sums in one
    before = tl.cumsum(both, 0) - both
    room = width - tl.sum(better, 0)
    earlier = before & 65535
    chosen = (better > 0) | ((equal > 0) & (earlier < room))
    slot = (before >> 16) + tl.minimum(earlier, room)
    return slot, chosen, tl.minimum(count, width)


@triton.jit
def _keep_best(value, child, parent, scores, children, parents, width):
    """Stores the best `width` of value, child and parent [N] at the pointers, in their order."""
    slot, chosen, number = _choose(value, width)
    tl.store(scores + slot, value, mask=chosen)
    tl.store(children + slot, child, mask=chosen)
    tl.store(parents + slot, parent, mask=chosen)
    empty = tl.full([64], float("-inf"), value.dtype)
    for first in range(number, width, 64):
        rest = first + tl.arange(0, 64)
        tl.store(scores + rest, empty, mask=rest < width)


@triton.jit(do_not_specialize=["length", "groups", "width"])
def _merge_kernel(
    scores, children, parents, out_scores, out_children, out_parents,
    length, groups, width, TILE: tl.constexpr,
):  # fmt: skip
    """A program keeps the best `width` of TILE entries of a request's list of `length`."""
    program = tl.program_id(0).to(tl.int64)
    entry = (program % groups) * TILE + tl.arange(0, TILE)
    place = (program // groups) * length + entry
    value = tl.load(scores + place, mask=entry < length, other=float("-inf"))
    there = value > float("-inf")
    child = tl.load(children + place, mask=there, other=0)
    parent = tl.load(parents + place, mask=there, other=0)
    out = program * width
    _keep_best(value, child, parent, out_scores + out, out_children + out, out_parents + out, width)


@triton.jit(do_not_specialize=["length", "blocks", "width"])
def _rank_kernel(
    scores, children, parents, child_codes, out_scores, out_nodes, out_parents, out_codes,
    length, blocks, width,
    TRIE: tl.constexpr, BI: tl.constexpr, BJ: tl.constexpr,
):  # fmt: skip
    """A program places BI entries of a request's list, at most `width`, by how many are better.

    Slots that no entry has stand for one that is -inf.
    """
    request = tl.program_id(0).to(tl.int64) // blocks
    entry = (tl.program_id(0) % blocks) * BI + tl.arange(0, BI)
    own = scores + request * length
    value = tl.load(own + entry, mask=entry < length, other=float("-inf"))
    rank = tl.zeros([BI], tl.int32)
    for first in range(0, width, BJ):
        other = first + tl.arange(0, BJ)
        theirs = tl.load(own + other, mask=other < length, other=float("-inf"))
        better = (theirs[None, :] > value[:, None]) | (
            (theirs[None, :] == value[:, None]) & (other[None, :] < entry[:, None])
        )
        rank += tl.sum((better & (other[None, :] < width)).to(tl.int32), 1)
    there = value > float("-inf")
    place = request * length + entry
    child = tl.load(children + place, mask=there, other=-1)
    parent = tl.load(parents + place, mask=there, other=0)
    code = child
    if TRIE:
        code = tl.load(child_codes + child, mask=there, other=-1)
        code = tl.maximum(code, -1)
    out = request * width + rank
    inside = entry < width
    tl.store(out_scores + out, value, mask=inside)
    tl.store(out_parents + out, parent, mask=inside)
    tl.store(out_codes + out, code, mask=inside)
    if TRIE:
        tl.store(out_nodes + out, child, mask=inside)
