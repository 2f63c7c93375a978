"""Triton: the bag of every retrieved set, and what forward and backward share.

Without positional bias a token that a set holds c times has the weight c exp(score), so attention
is dense over the small table with log2 c as bias (-inf: absent). Its work is matrix products of
tiles of rows with blocks of the table, where a row is one position of one set: small P fills tiles
as well as large P does. Only the bag depends on M. Bytes: 4 Vt a set for the bias, at most
BIAS_BYTES at a time; the backward makes it anew.

The work grows with B S P Vt, that of gathering tokens with B S P M n_tok: where Vt is many times
M n_tok, gathering has less of it, though not for tensor cores. Blocks are not looked at for being
empty: even of 3 x 8192 tokens, the sets of one tile (some tens, of 100 events) leave empty only
most blocks of the first level, and a branch around the loads would keep them from being in flight.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_BINS, BAG_SLOTS = 1024, 256
COLUMNS = 64  # the bias is padded to a multiple, so that no tile of it needs a mask
BIAS_BYTES = 1 << 28  # of one launch; more sets take several
LOG2_E = math.log2(math.e)


@triton.jit(do_not_specialize=["num_events", "max_items"])
def _bag_kernel(
    tokens, positions, lengths, bias, num_events, max_items, num_tokens, stride,
    PER_ITEM: tl.constexpr, BINS: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """bias[set, v] = log2 of how often the set holds token v; -inf for absent ones and padding.

    A program owns (set, BINS tokens) and counts in shared memory. Slots from the length on, absent
    events (-1) and ids out of range count nowhere.
    """
    blocks = tl.cdiv(stride, BINS)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    first = (tl.program_id(0) % blocks) * BINS
    filled = tl.minimum(tl.load(lengths + row), max_items).to(tl.int32) * PER_ITEM
    counts = tl.zeros([BINS], tl.int32)
    for start in range(0, filled, SLOTS):
        slot = start + tl.arange(0, SLOTS)
        place = positions + row * max_items + slot // PER_ITEM
        event = tl.load(place, mask=slot < filled, other=-1).to(tl.int64)
        held = (event >= 0) & (event < num_events)
        token = tl.load(tokens + event * PER_ITEM + slot % PER_ITEM, mask=held, other=-1)
        known = held & (token >= first) & (token < first + BINS) & (token < num_tokens)
        index = tl.where(known, token - first, 0).to(tl.int32)
        counts += tl.histogram(index, BINS, mask=known)
    column = first + tl.arange(0, BINS)
    logs = tl.log2(tl.maximum(counts, 1).to(tl.float32))
    value = tl.where(counts > 0, logs, -float("inf"))
    tl.store(bias + row * stride + column, value, mask=column < stride)


@triton.jit
def _tile(index, kept, head, H, D, BD: tl.constexpr):
    """Offsets and mask [index, BD] of one head in a tensor [.., H, D]."""
    column = tl.arange(0, BD)
    offset = (index.to(tl.int64) * H + head)[:, None] * D + column[None, :]
    return offset, kept[:, None] & (column < D)[None, :]


@triton.jit
def _scores(a, b, bias, mask, factor, PRECISION: tl.constexpr):
    """log2 of the weights before they are normalised: of score and count together."""
    logs = tl.load(bias, mask=mask, other=-float("inf"))
    scores = tl.dot(a, tl.trans(b), input_precision=PRECISION) * factor + logs
    # an absent token has no weight whatever its score, be it NaN
    return tl.where(logs > -float("inf"), scores, -float("inf"))


def padded(num_tokens: int) -> int:
    """Columns of the bias."""
    return -(-num_tokens // COLUMNS) * COLUMNS


def slabs(num_sets: int, num_tokens: int) -> Iterator[slice]:
    """Sets of each launch, so that the bias takes at most BIAS_BYTES (or one set)."""
    most = max(1, BIAS_BYTES // (4 * padded(num_tokens)))
    for first in range(0, num_sets, most):
        yield slice(first, min(first + most, num_sets))


def make_bias(tokens: Tensor, positions: Tensor, lengths: Tensor, num_tokens: int) -> Tensor:
    """float32 [N, padded(num_tokens)] of tokens [T, n_tok], positions [N, M] and lengths [N]."""
    num_sets, max_items = positions.shape
    stride = padded(num_tokens)
    shape = (num_sets, stride)
    if max_items == 0 or tokens.numel() == 0:
        return torch.full(shape, -math.inf, dtype=torch.float32, device=tokens.device)
    bias = torch.empty(shape, dtype=torch.float32, device=tokens.device)
    bins = min(MAX_BINS, triton.next_power_of_2(stride))
    _bag_kernel[(num_sets * triton.cdiv(stride, bins),)](
        tokens, positions, lengths, bias, tokens.shape[0], max_items, num_tokens, stride,
        PER_ITEM=tokens.shape[1], BINS=bins, SLOTS=BAG_SLOTS,
    )  # fmt: skip
    return bias


def padded_head(head_dim: int) -> int:
    """A head's columns in a product: a power of two, and no fewer than tensor cores take."""
    return max(16, 1 << (head_dim - 1).bit_length())


def flat_sets(tokens: Tensor, positions: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Contiguous, and the sets of all users one after another: [T, n_tok], [N, M], [N]."""
    return tokens.contiguous(), positions.flatten(0, 1).contiguous(), lengths.flatten().contiguous()
