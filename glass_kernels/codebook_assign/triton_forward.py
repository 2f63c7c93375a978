"""Triton: forward of `codebook_assign`; a program owns a tile of rows and goes over the codes.

Of the logits it keeps, from tile to tile of codes, the largest and where it was, the sum of
exponentials, and the target's. The temperature decides nothing here: the soft code is the
backward's alone.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from glass_kernels.codebook_assign.triton_settings import (
    FEW_ROWS,
    all_forward,
    forward_choices,
)
from glass_kernels.triton_launch import on_device, product_precision
from glass_kernels.triton_tuning import Known, tuned

LARGEST = tl.constexpr(torch.finfo(torch.float32).max)


@triton.jit
def _targets(target, row, known, K):
    """Code of each row, int32; -1 where it is ignored, or is no code."""
    code = tl.load(target + row, mask=known, other=-1)
    return tl.where((code >= 0) & (code < K), code, -1).to(tl.int32)


@triton.jit
def _rank(logits):
    """Orders as torch's argmax does, NaN above all; infinity becomes LARGEST."""
    return tl.where(logits == logits, tl.minimum(logits, LARGEST), float("inf"))


@triton.jit
def _logits(
    query, codebook, row, known, code, K, D,
    PRECISION: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    logits = tl.zeros([BM, BK], tl.float32)
    for first in range(0, D, BD):
        column = first + tl.arange(0, BD)
        place = query + row[:, None] * D + column[None, :]
        q = tl.load(place, mask=known[:, None] & (column < D)[None, :], other=0.0)
        place = codebook + code[None, :].to(tl.int64) * D + column[:, None]
        c = tl.load(place, mask=(code < K)[None, :] & (column < D)[:, None], other=0.0)
        logits = tl.dot(q, c, logits, input_precision=PRECISION)
    return logits


def _choose(known: Known) -> list[triton.Config]:
    return forward_choices(known["FEW"], known["query"].dtype)


@tuned(
    all_forward(),
    key=["D", "K", "TARGET", "FEW", "PRECISION", "FIXED"],
    choose=_choose,
)
@triton.jit(do_not_specialize=["num_rows"])
def _codebook_assign_fwd_kernel(
    query, codebook, target, assigned, index, loss, log_sum_exp, num_rows, K, D,
    TARGET: tl.constexpr, FEW: tl.constexpr, PRECISION: tl.constexpr, FIXED: tl.constexpr,
    BM: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    infinity = float("inf")
    row = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    known = row < num_rows
    best = tl.full([BM], -infinity, tl.float32)
    nearest = tl.zeros([BM], tl.int32)
    most = tl.full([BM], -infinity, tl.float32)
    total = tl.zeros([BM], tl.float32)
    of_target = tl.zeros([BM], tl.float32)
    if TARGET:
        wanted = _targets(target, row, known, K)
    for first in range(0, K, BK):
        code = first + tl.arange(0, BK)
        exists = (code < K)[None, :]
        logits = _logits(query, codebook, row, known, code, K, D, PRECISION, BM, BK, BD)
        logits = tl.where(exists, logits, -infinity)
        largest, at = tl.max(_rank(logits), 1, return_indices=True)
        nearest = tl.where(largest > best, first + at, nearest)  # the first of equal ones
        best = tl.maximum(best, largest)
        if TARGET:
            above = tl.maximum(most, tl.max(logits, 1))
            shift = tl.where(above > -infinity, above, 0.0)  # all -inf so far
            total = total * tl.exp(most - shift) + tl.sum(tl.exp(logits - shift[:, None]), 1)
            most = above
            of_target += tl.sum(tl.where(code[None, :] == wanted[:, None], logits, 0.0), 1)
    tl.store(index + row, nearest.to(tl.int64), mask=known)
    if TARGET:
        logarithm = tl.log(total)
        tl.store(log_sum_exp + row, most + logarithm, mask=known)
        value = (most - of_target) + logarithm  # this order is exact for the largest logit
        tl.store(loss + row, tl.where(wanted >= 0, value, 0.0), mask=known)
    finite = (tl.abs(best) < LARGEST)[:, None]
    for first in range(0, D, BD):
        column = first + tl.arange(0, BD)
        mask = known[:, None] & (column < D)[None, :]
        place = nearest[:, None].to(tl.int64) * D + column[None, :]
        chosen = tl.load(codebook + place, mask=mask, other=0.0)
        chosen = tl.where(finite, chosen.to(tl.float32), float("nan"))
        tl.store(assigned + row[:, None] * D + column[None, :], chosen, mask=mask)


def assign_launch(
    query: Tensor, codebook: Tensor, target: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Assigned [T, d], index [T], loss [T], log of the sum of exp(logits) [T].

    The last two are empty without a target. Not for float64.
    """
    query, codebook = query.contiguous(), codebook.contiguous()
    (num_rows, width), num_codes = query.shape, codebook.shape[0]
    assigned = torch.empty_like(query)
    index = query.new_empty((num_rows,), dtype=torch.int64)
    losses = (0 if target is None else num_rows,)
    loss = query.new_empty(losses, dtype=torch.float32)
    log_sum_exp = torch.empty_like(loss)
    if num_rows == 0:
        return assigned, index, loss, log_sum_exp

    def grid(meta: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(num_rows, meta["BM"]),)

    with on_device(query):
        _codebook_assign_fwd_kernel[grid](
            query, codebook, index if target is None else target.contiguous(),
            assigned, index, loss, log_sum_exp, num_rows, num_codes, width,
            TARGET=target is not None, FEW=num_rows <= FEW_ROWS, PRECISION=product_precision(),
            FIXED=torch.are_deterministic_algorithms_enabled(),
        )  # fmt: skip
    return assigned, index, loss, log_sum_exp
