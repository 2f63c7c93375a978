"""`glass::codebook_assign_triton` and its backward: registered launches.

Triton is imported at the first call: TRITON_INTERPRET decides then for the whole process, and a
machine without it imports this as any other.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from glass_kernels.codebook_assign import autograd
from glass_kernels.codebook_assign.fakes import assigned_index_and_loss, gradients
from glass_kernels.triton_launch import check_device

AVAILABLE = importlib.util.find_spec("triton") is not None
_NAME = "glass::codebook_assign_triton"


def _check(op: str, query: Tensor) -> None:
    check_device(op, query.device)
    if query.dtype == torch.float64:
        raise RuntimeError(f"{op}: query must not be float64, which needs a reference")


@torch.library.custom_op(_NAME, mutates_args=())
def _assign(
    query: Tensor, codebook: Tensor, target: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check(_NAME, query)
    from glass_kernels.codebook_assign.triton_forward import assign_launch

    return assign_launch(query, codebook, target)


@torch.library.custom_op(f"{_NAME}_backward", mutates_args=())
def _assign_backward(
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
    _check(f"{_NAME}_backward", query)
    from glass_kernels.codebook_assign.triton_backward import assign_backward_launch

    return assign_backward_launch(
        grad_assigned, grad_loss, query, codebook, target, log_sum_exp, temperature,
        of_query, of_codebook,
    )  # fmt: skip


_assign.register_fake(assigned_index_and_loss)
_assign_backward.register_fake(gradients)
autograd.register(_NAME, f"{_NAME}_backward", _assign_backward)


def codebook_assign_triton(
    query: Tensor, codebook: Tensor, target: Tensor | None, *, temperature: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The Triton kernels; see `glass_kernels.codebook_assign`. Not for float64."""
    assigned, index, loss, _ = _assign(query, codebook, target, float(temperature))
    return assigned, index, None if target is None else loss
