"""Backward of `codebook_assign` by slabs of rows; the equations are in triton_backward.py.

torch makes the logits and g C^T of a slab, one Triton kernel turns them into the soft code's
weights p and the gradient ds of the logits, in place, and torch multiplies these: five products, of
which none is made twice. Slabs fit a card's second-level cache: logits do not go to its memory.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from glass_kernels.codebook_assign.triton_forward import _targets
from glass_kernels.triton_launch import on_device

SLAB_BYTES = 1 << 24  # of the logits of one slab, and as much of g C^T
TILE = 2048


@triton.jit(do_not_specialize=["num_rows"])
def _logit_grads_kernel(
    logits, products, grad_loss, target, num_rows, K, inverse,
    ASSIGNED: tl.constexpr, LOSS: tl.constexpr, SAME: tl.constexpr,
    BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """With ASSIGNED products = g C^T becomes ds and logits become p; else logits become ds."""
    infinity = float("inf")
    row = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    known = row < num_rows
    most = tl.full([BM], -infinity, tl.float32)
    soft_total = tl.zeros([BM], tl.float32)
    plain_total = tl.zeros([BM], tl.float32)
    dot = tl.zeros([BM], tl.float32)
    for first in range(0, K, BK):
        code = first + tl.arange(0, BK)
        place = row[:, None] * K + code[None, :]
        mask = known[:, None] & (code < K)[None, :]
        s = tl.load(logits + place, mask=mask, other=-infinity)
        above = tl.maximum(most, tl.max(s, 1))
        shift = tl.where(above > -infinity, above, 0.0)  # all -inf so far
        fall = s - shift[:, None]
        if ASSIGNED:
            h = tl.load(products + place, mask=mask, other=0.0)
            weights = tl.exp(fall * inverse)
            shrink = tl.exp((most - shift) * inverse)
            soft_total = soft_total * shrink + tl.sum(weights, 1)
            dot = dot * shrink + tl.sum(weights * h, 1)
        if LOSS and not (ASSIGNED and SAME):
            plain_total = plain_total * tl.exp(most - shift) + tl.sum(tl.exp(fall), 1)
        most = above
    most = tl.where(known, most, 0.0)
    soft_total = tl.where(known, soft_total, 1.0)
    plain_total = soft_total if ASSIGNED and SAME else tl.where(known, plain_total, 1.0)
    dot = dot / soft_total
    of_loss = tl.zeros([BM], tl.float32)
    wanted = tl.full([BM], -1, tl.int32)
    if LOSS:
        wanted = _targets(target, row, known, K)
        of_loss = tl.load(grad_loss + row, mask=wanted >= 0, other=0.0)
    tl.debug_barrier()  # all has been read that is now written
    for first in range(0, K, BK):
        code = first + tl.arange(0, BK)
        place = row[:, None] * K + code[None, :]
        mask = known[:, None] & (code < K)[None, :]
        fall = tl.load(logits + place, mask=mask, other=-infinity) - most[:, None]
        ds = tl.zeros([BM, BK], tl.float32)
        if ASSIGNED:
            h = tl.load(products + place, mask=mask, other=0.0)
            p = tl.exp(fall * inverse) / soft_total[:, None]
            ds = p * (h - dot[:, None]) * inverse
            tl.store(logits + place, p, mask=mask)
        if LOSS:
            plain = tl.exp(fall) / plain_total[:, None]
            is_target = (code[None, :] == wanted[:, None]).to(tl.float32)
            ds += (plain - is_target) * of_loss[:, None]
        tl.store((products if ASSIGNED else logits) + place, ds, mask=mask)


def _slabs(num_rows: int, num_codes: int) -> Iterator[slice]:
    most = max(1, SLAB_BYTES // (4 * num_codes))
    for first in range(0, num_rows, most):
        yield slice(first, min(first + most, num_rows))


def slab_backward(
    grad_assigned: Tensor | None,
    grad_loss: Tensor | None,
    query: Tensor,
    codebook: Tensor,
    target: Tensor | None,
    temperature: float,
    of_query: bool,
    of_codebook: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of query and codebook; one that is not wanted is empty. Contiguous arguments."""
    query_grad = query.new_empty(query.shape if of_query else (0,))
    codes = codebook.float()
    codebook_grad = codes.new_zeros(codes.shape if of_codebook else (0,))
    with on_device(query), torch.autocast(query.device.type, enabled=False):
        for some in _slabs(query.shape[0], codes.shape[0]):
            q = query[some].float()
            g = None if grad_assigned is None else grad_assigned[some].float()
            weights, of_logits = _logit_grads(
                q @ codes.T,
                None if g is None else g @ codes.T,
                None if grad_loss is None else grad_loss[some],
                None if target is None else target[some],
                temperature,
            )
            if of_query:
                query_grad[some] = of_logits @ codes
            if of_codebook:
                codebook_grad.addmm_(of_logits.T, q)
            if of_codebook and g is not None:
                codebook_grad.addmm_(weights.T, g)
    return query_grad, codebook_grad.to(query.dtype)


def _logit_grads(
    logits: Tensor,
    products: Tensor | None,
    grad_loss: Tensor | None,
    target: Tensor | None,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Weights of the soft code and gradient of the logits, in the memory of the first two."""
    num_rows, num_codes = logits.shape
    columns = min(TILE, max(16, triton.next_power_of_2(num_codes)))
    block = TILE // columns
    _logit_grads_kernel[(triton.cdiv(num_rows, block),)](
        logits,
        logits if products is None else products,
        logits if grad_loss is None else grad_loss,
        logits if target is None else target,
        num_rows, num_codes, 1 / temperature,
        ASSIGNED=products is not None, LOSS=grad_loss is not None, SAME=temperature == 1,
        BM=block, BK=columns,
    )  # fmt: skip
    return logits, logits if products is None else products
