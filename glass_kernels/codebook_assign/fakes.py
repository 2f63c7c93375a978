"""Shapes of the codebook assignment's operators for compilers; for every backend."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor


def accumulated(dtype: torch.dtype) -> torch.dtype:
    """Dtype of logits, losses and sums."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def assigned_index_and_loss(
    query: Tensor, codebook: Tensor, target: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the forward: assigned [T, d], index [T], loss [T], log of the sum of exp(logits) [T].

    The last two are empty without a target.
    """
    rows = query.shape[0]
    losses = (0 if target is None else rows,)
    dtype = accumulated(query.dtype)
    return (
        query.new_empty(query.shape),
        query.new_empty((rows,), dtype=torch.int64),
        query.new_empty(losses, dtype=dtype),
        query.new_empty(losses, dtype=dtype),
    )


def gradients(
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
    """Of the backward, [T, d] and [K, d]; a gradient that is not wanted is empty."""
    return (
        query.new_empty(query.shape if of_query else (0,)),
        query.new_empty(codebook.shape if of_codebook else (0,)),
    )


def no_second_gradient(ctx: Any, *grads: Tensor) -> NoReturn:
    """Better an error than a second derivative of zero."""
    raise RuntimeError(
        "codebook_assign: this backend has no second derivative; backend='reference' has"
    )
