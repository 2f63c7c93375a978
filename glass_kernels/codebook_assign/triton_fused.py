"""Triton: backward of `codebook_assign` on tensor cores; the equations are in triton_backward.py.

One kernel owns a tile of rows: a first pass over the codes makes p.h and the logarithm of p's
denominator, as online softmax does, and a second one dq. The other owns (block of codes, chunk of
rows), takes both from the first, and makes that chunk's dC; chunks are added in their order. Logits
are made anew each time: a product in half precision costs less than the bytes of its result.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from glass_kernels.codebook_assign.triton_forward import _targets
from glass_kernels.codebook_assign.triton_settings import (
    CODEBOOK_GRAD,
    QUERY_GRAD,
    all_backward,
    backward_choices,
)
from glass_kernels.triton_launch import on_device
from glass_kernels.triton_tuning import Known, tuned

LOG2_E = tl.constexpr(math.log2(math.e))
ENOUGH_PROGRAMS = 512  # a few for every multiprocessor of the largest cards
CHUNK_ROWS, CHUNK_STEP = 512, 128  # about how many rows a chunk has at least; of what a multiple


@triton.jit
def _tile(index, kept, D, BD: tl.constexpr):
    """Offsets and mask [index, BD] of whole rows of a matrix of D columns."""
    column = tl.arange(0, BD)
    return index.to(tl.int64)[:, None] * D + column[None, :], kept[:, None] & (column < D)[None, :]


@triton.jit
def _weights_and_logit_grads(
    s, h, dots, soft_log, plain_log, of_loss, is_target, factor, inverse,
    ASSIGNED: tl.constexpr, LOSS: tl.constexpr, SAME: tl.constexpr,
):  # fmt: skip
    """p and ds, for a tile of either orientation."""
    p, ds = s, s
    if ASSIGNED:
        p = tl.exp2(s * factor - soft_log)
        ds = p * (h - dots) * inverse
    if LOSS:
        plain = p if ASSIGNED and SAME else tl.exp2((s - plain_log) * LOG2_E)
        of_logits = (plain - is_target.to(tl.float32)) * of_loss
        if ASSIGNED:
            ds += of_logits
        else:
            ds = of_logits
    return p, ds


@triton.jit
def _loss_of_rows(grad_loss, log_sum_exp, target, row, known, K):
    """Target of each row, the gradient of its loss, and the logarithm of its denominator."""
    wanted = _targets(target, row, known, K)
    of_loss = tl.load(grad_loss + row, mask=wanted >= 0, other=0.0)
    return wanted, of_loss, tl.load(log_sum_exp + row, mask=known, other=float("inf"))


def _choose_query_grad(known: Known) -> list[triton.Config]:
    return backward_choices(QUERY_GRAD, known["BD"])


@tuned(
    all_backward(QUERY_GRAD),
    key=["BD", "K", "ASSIGNED", "LOSS", "SAME", "FIXED"],
    choose=_choose_query_grad,
)
@triton.jit(do_not_specialize=["num_rows"])
def _query_grad_kernel(
    grad, grad_loss, query, codebook, target, log_sum_exp, dots, soft_logs, query_grad,
    num_rows, K, D, factor, inverse,
    ASSIGNED: tl.constexpr, LOSS: tl.constexpr, SAME: tl.constexpr, OF_QUERY: tl.constexpr,
    FIXED: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """query_grad; with ASSIGNED also p.h and log2 of p's denominator [rows] for the other one."""
    infinity = float("inf")
    row = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    known = row < num_rows
    own, own_mask = _tile(row, known, D, BD)
    q = tl.load(query + own, mask=own_mask, other=0.0)
    dot = tl.zeros([BM], tl.float32)
    soft_log = tl.zeros([BM], tl.float32)
    wanted = tl.full([BM], -1, tl.int32)
    of_loss = tl.zeros([BM], tl.float32)
    plain_log = tl.zeros([BM], tl.float32)
    g = q
    if LOSS:
        wanted, of_loss, plain_log = _loss_of_rows(grad_loss, log_sum_exp, target, row, known, K)
    if ASSIGNED:
        g = tl.load(grad + own, mask=own_mask, other=0.0)
        most = tl.full([BM], -infinity, tl.float32)
        total = tl.zeros([BM], tl.float32)
        for first in range(0, K, BK):
            code = first + tl.arange(0, BK)
            place, mask = _tile(code, code < K, D, BD)
            c = tl.trans(tl.load(codebook + place, mask=mask, other=0.0))
            s = tl.dot(q, c, input_precision="ieee") * factor
            s = tl.where((code < K)[None, :], s, -infinity)
            h = tl.dot(g, c, input_precision="ieee")
            above = tl.maximum(most, tl.max(s, 1))
            shift = tl.where(above > -infinity, above, 0.0)  # all -inf so far
            weights = tl.exp2(s - shift[:, None])
            shrink = tl.exp2(most - shift)
            total = total * shrink + tl.sum(weights, 1)
            dot = dot * shrink + tl.sum(weights * h, 1)
            most = above
        dot = dot / total
        soft_log = most + tl.log2(total)
        tl.store(dots + row, dot, mask=known)
        tl.store(soft_logs + row, soft_log, mask=known)
    if OF_QUERY:
        dq = tl.zeros([BM, BD], tl.float32)
        for first in range(0, K, BK):
            code = first + tl.arange(0, BK)
            place, mask = _tile(code, code < K, D, BD)
            c = tl.load(codebook + place, mask=mask, other=0.0)
            s = tl.dot(q, tl.trans(c), input_precision="ieee")
            s = tl.where((code < K)[None, :], s, -infinity)
            h = s
            if ASSIGNED:
                h = tl.dot(g, tl.trans(c), input_precision="ieee")
            _, ds = _weights_and_logit_grads(
                s, h, dot[:, None], soft_log[:, None], plain_log[:, None], of_loss[:, None],
                code[None, :] == wanted[:, None], factor, inverse, ASSIGNED, LOSS, SAME,
            )  # fmt: skip
            dq = tl.dot(ds.to(c.dtype), c, dq, input_precision="ieee")
        tl.store(query_grad + own, dq.to(query_grad.dtype.element_ty), mask=own_mask)


def _choose_codebook_grad(known: Known) -> list[triton.Config]:
    return backward_choices(CODEBOOK_GRAD, known["BD"])


@tuned(
    all_backward(CODEBOOK_GRAD),
    key=["BD", "K", "ASSIGNED", "LOSS", "SAME", "FIXED"],
    choose=_choose_codebook_grad,
)
@triton.jit(do_not_specialize=["num_rows", "chunk"])
def _codebook_grad_kernel(
    grad, grad_loss, query, codebook, target, log_sum_exp, dots, soft_logs, parts,
    num_rows, chunk, K, D, factor, inverse,
    ASSIGNED: tl.constexpr, LOSS: tl.constexpr, SAME: tl.constexpr,
    FIXED: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """parts [chunks, K, D] float32; tiles are [codes, rows]."""
    code = tl.program_id(0) * BK + tl.arange(0, BK)
    place, mask = _tile(code, code < K, D, BD)
    c = tl.load(codebook + place, mask=mask, other=0.0)
    dc = tl.zeros([BK, BD], tl.float32)
    begin = tl.program_id(1).to(tl.int64) * chunk
    end = tl.minimum(begin + chunk, num_rows)
    for first in range(begin, end, BM):
        row = first + tl.arange(0, BM)
        known = row < end
        own, own_mask = _tile(row, known, D, BD)
        q = tl.load(query + own, mask=own_mask, other=0.0)
        s = tl.dot(c, tl.trans(q), input_precision="ieee")
        g, h = q, s
        dot = tl.zeros([BM], tl.float32)
        soft_log = tl.zeros([BM], tl.float32)
        wanted = tl.full([BM], -1, tl.int32)
        of_loss = tl.zeros([BM], tl.float32)
        plain_log = tl.zeros([BM], tl.float32)
        if LOSS:
            wanted, of_loss, plain_log = _loss_of_rows(
                grad_loss, log_sum_exp, target, row, known, K
            )
        if ASSIGNED:
            g = tl.load(grad + own, mask=own_mask, other=0.0)
            h = tl.dot(c, tl.trans(g), input_precision="ieee")
            dot = tl.load(dots + row, mask=known, other=0.0)
            soft_log = tl.load(soft_logs + row, mask=known, other=float("inf"))
        p, ds = _weights_and_logit_grads(
            s, h, dot[None, :], soft_log[None, :], plain_log[None, :], of_loss[None, :],
            code[:, None] == wanted[None, :], factor, inverse, ASSIGNED, LOSS, SAME,
        )  # fmt: skip
        if ASSIGNED:
            dc = tl.dot(p.to(g.dtype), g, dc, input_precision="ieee")
        dc = tl.dot(ds.to(q.dtype), q, dc, input_precision="ieee")
    part = tl.program_id(1).to(tl.int64) * K * D + place
    tl.store(parts + part, dc, mask=mask)


def fused_columns(width: int) -> int:
    """A row's columns in a product: a power of two, and no fewer than tensor cores take."""
    return max(16, 1 << (width - 1).bit_length())


def chunk_rows(num_rows: int, num_codes: int) -> int:
    """Rows that one program adds: many, while there are programs for the whole card.

    A chunk's part is K d floats: with fewer rows all parts would come near T K of them.
    """
    blocks = -(-num_codes // 32)  # of most settings
    chunks = min(-(-ENOUGH_PROGRAMS // blocks), -(-num_rows // CHUNK_ROWS))
    return -(-num_rows // (chunks * CHUNK_STEP)) * CHUNK_STEP


def fused_backward(
    grad_assigned: Tensor | None,
    grad_loss: Tensor | None,
    query: Tensor,
    codebook: Tensor,
    target: Tensor | None,
    log_sum_exp: Tensor,
    temperature: float,
    of_query: bool,
    of_codebook: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of query and codebook; one that is not wanted is empty. Contiguous arguments."""
    (num_rows, width), num_codes = query.shape, codebook.shape[0]
    query_grad = query.new_empty(query.shape if of_query else (0,))
    rows = query.new_empty((2, num_rows), dtype=torch.float32)  # dots and soft_logs
    tensors = (
        query if grad_assigned is None else grad_assigned,
        query if grad_loss is None else grad_loss,
        query, codebook,
        query if target is None else target,
        log_sum_exp, rows[0], rows[1],
    )  # fmt: skip
    constants = {
        "ASSIGNED": grad_assigned is not None,
        "LOSS": grad_loss is not None,
        "SAME": temperature == 1,
        "FIXED": torch.are_deterministic_algorithms_enabled(),
        "BD": fused_columns(width),
    }
    numbers = (num_codes, width, math.log2(math.e) / temperature, 1 / temperature)
    with on_device(query):
        if of_query or grad_assigned is not None:
            _query_grad_kernel[lambda meta: (triton.cdiv(num_rows, meta["BM"]),)](
                *tensors, query_grad, num_rows, *numbers, OF_QUERY=of_query, **constants
            )
        if not of_codebook:
            return query_grad, query.new_empty(0)
        chunk = chunk_rows(num_rows, num_codes)
        chunks = triton.cdiv(num_rows, chunk)
        parts = query.new_empty((chunks, num_codes, width), dtype=torch.float32)
        _codebook_grad_kernel[lambda meta: (triton.cdiv(num_codes, meta["BK"]), chunks)](
            *tensors, parts, num_rows, chunk, *numbers, **constants
        )
    return query_grad, parts.sum(0).to(query.dtype)
