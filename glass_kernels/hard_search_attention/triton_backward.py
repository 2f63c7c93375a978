"""Triton: backward of `hard_search_attention`; no atomics, the same bits at every call.

With p the weights, o the output, do its gradient and delta = do . o:
    ds = p (do v - delta) scale,  dq = sum ds k,  dk = sum ds q,  dv = sum p do.
The weights are made again from `log_sum`. One kernel owns (tile of rows, head) and makes dq; the
other owns (block of the table, head, chunk of the rows) and makes that chunk's dk and dv, which
are added in the order of the chunks.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from glass_kernels.hard_search_attention.triton_common import (
    COLUMNS,
    LOG2_E,
    _scores,
    _tile,
    flat_sets,
    make_bias,
    padded_head,
    slabs,
)
from glass_kernels.hard_search_attention.triton_settings import QUERY_GRAD, TABLE_GRADS
from glass_kernels.triton_launch import on_device, product_precision
from glass_kernels.triton_tuning import tuned

ENOUGH_PROGRAMS = 512  # a few for every multiprocessor of the largest cards
CHUNK_ROWS, CHUNK_STEP = 256, 128  # about how many rows a chunk has at least; of what a multiple


@tuned(
    QUERY_GRAD.all(),
    key=["BD", "PRECISION", "FIXED"],
    choose=QUERY_GRAD.choose,
)
@triton.jit(do_not_specialize=["num_rows", "P"])
def _query_grad_kernel(
    grad, query, key_table, value_table, bias, out, log_sum, delta, query_grad,
    num_rows, P, num_tokens, stride, H, D, factor, scale,
    BD: tl.constexpr, PRECISION: tl.constexpr, FIXED: tl.constexpr,
    BR: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """query_grad, and delta [rows, H] for the other kernel."""
    head = tl.program_id(1)
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    kept = row < num_rows
    own, own_mask = _tile(row, kept, head, H, D, BD)
    q = tl.load(query + own, mask=own_mask, other=0.0)
    do = tl.load(grad + own, mask=own_mask, other=0.0)
    o = tl.load(out + own, mask=own_mask, other=0.0)
    dots = tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)
    tl.store(delta + row * H + head, dots, mask=kept)
    logs = tl.load(log_sum + row * H + head, mask=kept, other=0.0)
    dq = tl.zeros([BR, BD], tl.float32)
    for first in range(0, num_tokens, BV):
        column = first + tl.arange(0, BV)
        place, mask = _tile(column, column < num_tokens, head, H, D, BD)
        k = tl.load(key_table + place, mask=mask, other=0.0)
        v = tl.load(value_table + place, mask=mask, other=0.0)
        counted = bias + (row // P)[:, None] * stride + column[None, :]
        scores = _scores(q, k, counted, kept[:, None], factor, PRECISION)
        weights = tl.exp2(scores - logs[:, None])
        ds = weights * (tl.dot(do, tl.trans(v), input_precision=PRECISION) - dots[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)
    tl.store(query_grad + own, (dq * scale).to(query_grad.dtype.element_ty), mask=own_mask)


@tuned(
    TABLE_GRADS.all(),
    key=["BD", "PRECISION", "FIXED"],
    choose=TABLE_GRADS.choose,
)
@triton.jit(do_not_specialize=["num_rows", "P", "chunk"])
def _table_grads_kernel(
    grad, query, key_table, value_table, bias, log_sum, delta, key_parts, value_parts,
    num_rows, chunk, P, num_tokens, stride, H, D, factor, scale,
    BD: tl.constexpr, PRECISION: tl.constexpr, FIXED: tl.constexpr,
    BR: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """key_parts and value_parts [chunks, num_tokens, H, D] float32; tiles are [columns, rows]."""
    head = tl.program_id(0) % H
    column = (tl.program_id(0) // H) * BV + tl.arange(0, BV)
    place, mask = _tile(column, column < num_tokens, head, H, D, BD)
    k = tl.load(key_table + place, mask=mask, other=0.0)
    v = tl.load(value_table + place, mask=mask, other=0.0)
    dk = tl.zeros([BV, BD], tl.float32)
    dv = tl.zeros([BV, BD], tl.float32)
    begin = tl.program_id(1).to(tl.int64) * chunk
    end = tl.minimum(begin + chunk, num_rows)
    for first in range(begin, end, BR):
        row = first + tl.arange(0, BR)
        kept = row < end
        own, own_mask = _tile(row, kept, head, H, D, BD)
        q = tl.load(query + own, mask=own_mask, other=0.0)
        do = tl.load(grad + own, mask=own_mask, other=0.0)
        logs = tl.load(log_sum + row * H + head, mask=kept, other=0.0)
        dots = tl.load(delta + row * H + head, mask=kept, other=0.0)
        counted = bias + (row // P)[None, :] * stride + column[:, None]
        scores = _scores(k, q, counted, kept[None, :], factor, PRECISION)
        weights = tl.exp2(scores - logs[None, :])
        dv = tl.dot(weights.to(do.dtype), do, dv, input_precision=PRECISION)
        ds = weights * (tl.dot(v, tl.trans(do), input_precision=PRECISION) - dots[None, :])
        dk = tl.dot(ds.to(q.dtype), q, dk, input_precision=PRECISION)
    part = tl.program_id(1).to(tl.int64) * num_tokens * H * D + place
    tl.store(key_parts + part, dk * scale, mask=mask)
    tl.store(value_parts + part, dv, mask=mask)


def chunk_rows(num_rows: int, num_tokens: int, H: int) -> int:
    """Rows that one program adds: many, while there are programs for the whole card."""
    blocks = H * -(-num_tokens // COLUMNS)
    chunks = min(-(-ENOUGH_PROGRAMS // blocks), -(-num_rows // CHUNK_ROWS))
    return -(-num_rows // (chunks * CHUNK_STEP)) * CHUNK_STEP


def attention_backward_launch(
    grad: Tensor,
    query: Tensor,
    key_table: Tensor,
    value_table: Tensor,
    tokens: Tensor,
    positions: Tensor,
    lengths: Tensor,
    out: Tensor,
    log_sum: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for query, key_table and value_table, of their dtype and shape."""
    rows = tuple(t.contiguous() for t in (grad, query, out, log_sum))
    tables = key_table.contiguous(), value_table.contiguous()
    query_grad = torch.empty_like(rows[1])
    num_tokens, (P, H) = key_table.shape[0], query.shape[2:4]
    sums = query.new_zeros((2, *key_table.shape), dtype=torch.float32)
    if query.numel() > 0:
        tokens, positions, lengths = flat_sets(tokens, positions, lengths)
        num_sets = positions.shape[0]
        flat = tuple(t.view(num_sets, P, H, -1) for t in (*rows, query_grad))
        with on_device(query):
            for some in slabs(num_sets, num_tokens):
                bias = make_bias(tokens, positions[some], lengths[some], num_tokens)
                sums += _slab([t[some] for t in flat], *tables, bias, scale)
    key_grad, value_grad = (total.to(query.dtype, copy=True) for total in sums)
    return query_grad, key_grad, value_grad


def _slab(
    rows: list[Tensor], key_table: Tensor, value_table: Tensor, bias: Tensor, scale: float
) -> Tensor:
    """Writes the last of (grad, query, out, log_sum, query_grad), each [N, P, H, D or 1], of some
    sets; returns what they give to the gradients of both tables, float32 [2, Vt, H, D].
    """
    grad, query, out, log_sum, query_grad = rows
    num_rows, num_tokens = query.shape[0] * query.shape[1], key_table.shape[0]
    P, H, D = query.shape[1:]
    delta = torch.empty_like(log_sum)
    numbers = (P, num_tokens, bias.shape[1], H, D, scale * LOG2_E, scale)
    constants = {
        "BD": padded_head(D),
        "PRECISION": product_precision(),
        "FIXED": torch.are_deterministic_algorithms_enabled(),
    }
    _query_grad_kernel[lambda meta: (triton.cdiv(num_rows, meta["BR"]), H)](
        grad, query, key_table, value_table, bias, out, log_sum, delta, query_grad,
        num_rows, *numbers, **constants,
    )  # fmt: skip
    chunk = chunk_rows(num_rows, num_tokens, H)
    chunks = triton.cdiv(num_rows, chunk)
    parts = query.new_empty((2, chunks, *key_table.shape), dtype=torch.float32)
    _table_grads_kernel[lambda meta: (triton.cdiv(num_tokens, meta["BV"]) * H, chunks)](
        grad, query, key_table, value_table, bias, log_sum, delta, parts[0], parts[1],
        num_rows, chunk, *numbers, **constants,
    )  # fmt: skip
    return parts.sum(1)
