"""Triton: forward of `hard_search_attention`; a program owns (tile of rows, head)."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from glass_kernels.hard_search_attention.triton_common import (
    LOG2_E,
    _scores,
    _tile,
    flat_sets,
    make_bias,
    padded_head,
    slabs,
)
from glass_kernels.hard_search_attention.triton_settings import FORWARD
from glass_kernels.triton_launch import on_device, product_precision
from glass_kernels.triton_tuning import tuned


@tuned(
    FORWARD.all(),
    key=["BD", "PRECISION", "FIXED"],
    choose=FORWARD.choose,
)
@triton.jit(do_not_specialize=["num_rows", "P"])
def _attention_fwd_kernel(
    query, key_table, value_table, bias, out, log_sum,
    num_rows, P, num_tokens, stride, H, D, factor,
    BD: tl.constexpr, PRECISION: tl.constexpr, FIXED: tl.constexpr,
    BR: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    kept = row < num_rows
    own, own_mask = _tile(row, kept, head, H, D, BD)
    q = tl.load(query + own, mask=own_mask, other=0.0)
    most = tl.full([BR], -float("inf"), tl.float32)
    total = tl.zeros([BR], tl.float32)
    sums = tl.zeros([BR, BD], tl.float32)
    for first in range(0, num_tokens, BV):
        column = first + tl.arange(0, BV)
        place, mask = _tile(column, column < num_tokens, head, H, D, BD)
        k = tl.load(key_table + place, mask=mask, other=0.0)
        v = tl.load(value_table + place, mask=mask, other=0.0)
        logs = bias + (row // P)[:, None] * stride + column[None, :]
        scores = _scores(q, k, logs, kept[:, None], factor, PRECISION)
        above = tl.maximum(most, tl.max(scores, 1))
        shift = tl.where(above > -float("inf"), above, 0.0)  # a row without a token so far
        weights = tl.exp2(scores - shift[:, None])
        shrink = tl.exp2(most - shift)
        total = total * shrink + tl.sum(weights, 1)
        sums = tl.dot(weights.to(v.dtype), v, sums * shrink[:, None], input_precision=PRECISION)
        most = above
    empty = most == -float("inf")
    divisor = tl.where(empty, 1.0, total)
    tl.store(out + own, (sums / divisor[:, None]).to(out.dtype.element_ty), mask=own_mask)
    value = tl.where(empty, 0.0, most + tl.log2(divisor))
    tl.store(log_sum + row * H + head, value, mask=kept)


def attention_launch(
    query: Tensor,
    key_table: Tensor,
    value_table: Tensor,
    tokens: Tensor,
    positions: Tensor,
    lengths: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """See `glass_kernels.hard_search_attention`; also log2 of the denominators [B, S, P, H].

    Zeros for empty sets, in both.
    """
    query, key_table, value_table = (t.contiguous() for t in (query, key_table, value_table))
    out = torch.empty_like(query)
    log_sum = torch.empty(query.shape[:4], dtype=torch.float32, device=query.device)
    if query.numel() == 0:
        return out, log_sum.zero_()
    tokens, positions, lengths = flat_sets(tokens, positions, lengths)
    num_sets, num_tokens = positions.shape[0], key_table.shape[0]
    P, H, D = query.shape[2:]
    flat = tuple(t.view(num_sets, P, H, -1) for t in (query, out, log_sum))
    with on_device(query):
        for some in slabs(num_sets, num_tokens):
            bias = make_bias(tokens, positions[some], lengths[some], num_tokens)
            num_rows = bias.shape[0] * P
            grid = functools.partial(_grid, num_rows, H)
            _attention_fwd_kernel[grid](
                flat[0][some], key_table, value_table, bias, *(t[some] for t in flat[1:]),
                num_rows, P, num_tokens, bias.shape[1], H, D, scale * LOG2_E,
                BD=padded_head(D), PRECISION=product_precision(),
                FIXED=torch.are_deterministic_algorithms_enabled(),
            )  # fmt: skip
    return out, log_sum


def _grid(num_rows: int, H: int, meta: dict[str, int]) -> tuple[int, int]:
    return -(-num_rows // meta["BR"]), H
