"""Backward of `codebook_assign` on a GPU, without a [T, K] tensor and without atomics.

With s the logits, g the gradient of what was assigned, p = softmax(s / temperature), h = g C^T,
and f the gradient of the loss:
    ds = p (h - p.h) / temperature + f (softmax(s) - onehot),  dq = ds C,  dC = ds^T q + p^T g.
On tensor cores in half precision a product costs less than the bytes of its result, so
triton_fused.py makes s and h anew wherever it needs them: nine products. In float32 the products
are what costs, so triton_slabs.py makes each of the five once and keeps a slab of rows. Both give
the same bits at every call.
"""

from __future__ import annotations

import torch
from torch import Tensor

from glass_kernels.codebook_assign.triton_fused import fused_backward
from glass_kernels.codebook_assign.triton_settings import MOST_COLUMNS
from glass_kernels.codebook_assign.triton_slabs import slab_backward


def assign_backward_launch(
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
    """Gradients of query and codebook; one that is not wanted is empty. Not for float64."""
    if target is None:
        grad_loss = None
    if query.numel() == 0 or (grad_assigned is None and grad_loss is None):
        return (
            query.new_zeros(query.shape if of_query else (0,)),
            query.new_zeros(codebook.shape if of_codebook else (0,)),
        )
    if grad_assigned is not None:
        grad_assigned = grad_assigned.contiguous()
    if grad_loss is not None:
        grad_loss = grad_loss.contiguous()
    if target is not None:
        target = target.contiguous()
    query, codebook = query.contiguous(), codebook.contiguous()
    if query.dtype == torch.float32 or query.shape[1] > MOST_COLUMNS:
        return slab_backward(
            grad_assigned, grad_loss, query, codebook, target, temperature, of_query, of_codebook
        )
    return fused_backward(
        grad_assigned, grad_loss, query, codebook, target, log_sum_exp, temperature,
        of_query, of_codebook,
    )  # fmt: skip
