"""`glass::gated_fusion_triton` and its backward: registered launches.

Triton is imported at the first call: TRITON_INTERPRET decides then for the whole process, and a
machine without it imports this as any other.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from glass_kernels.gated_fusion import autograd
from glass_kernels.gated_fusion.fakes import fused_and_gate, gradients
from glass_kernels.triton_launch import check_device

AVAILABLE = importlib.util.find_spec("triton") is not None
_NAME = "glass::gated_fusion_triton"


def _check(op: str, short: Tensor) -> None:
    check_device(op, short.device)
    if short.dtype == torch.float64:
        raise RuntimeError(f"{op}: short must not be float64, which needs a reference")


@torch.library.custom_op(_NAME, mutates_args=())
def _fusion(
    short: Tensor,
    retrieved: Tensor,
    weight: Tensor,
    bias: Tensor,
    has_retrieval: Tensor | None,
    gate_input: Tensor | None,
) -> tuple[Tensor, Tensor]:
    _check(_NAME, short)
    from glass_kernels.gated_fusion.triton_kernel import gated_fusion_launch

    return gated_fusion_launch(short, retrieved, weight, bias, has_retrieval, gate_input)


@torch.library.custom_op(f"{_NAME}_alone", mutates_args=())
def gated_fusion_triton_alone(
    short: Tensor,
    retrieved: Tensor,
    weight: Tensor,
    bias: Tensor,
    has_retrieval: Tensor | None,
    gate_input: Tensor | None,
) -> Tensor:
    """The result without the gate, which is a quarter of what is moved; it has no gradient."""
    _check(f"{_NAME}_alone", short)
    from glass_kernels.gated_fusion.triton_kernel import gated_fusion_launch

    inputs = short, retrieved, weight, bias, has_retrieval, gate_input
    return gated_fusion_launch(*inputs, keep_gate=False)[0]


@torch.library.custom_op(f"{_NAME}_backward", mutates_args=())
def _fusion_backward(
    grad_out: Tensor | None,
    grad_gate: Tensor | None,
    short: Tensor,
    retrieved: Tensor,
    weight: Tensor,
    gate: Tensor,
    has_retrieval: Tensor | None,
    gate_input: Tensor | None,
    of_inputs: bool,
    of_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    _check(f"{_NAME}_backward", short)
    from glass_kernels.gated_fusion.triton_kernel import gated_fusion_backward_launch

    return gated_fusion_backward_launch(
        grad_out, grad_gate, short, retrieved, weight, gate, has_retrieval, gate_input,
        of_inputs, of_weights,
    )  # fmt: skip


_fusion.register_fake(fused_and_gate)
gated_fusion_triton_alone.register_fake(lambda short, *_: short.new_empty(short.shape))
_fusion_backward.register_fake(gradients)
autograd.register(_NAME, f"{_NAME}_backward", _fusion_backward)


def gated_fusion_triton(
    short: Tensor,
    retrieved: Tensor,
    weight: Tensor,
    bias: Tensor,
    has_retrieval: Tensor | None,
    *,
    gate_input: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The Triton kernel; see `glass_kernels.gated_fusion`. Not for float64."""
    result: tuple[Tensor, Tensor] = _fusion(
        short, retrieved, weight, bias, has_retrieval, gate_input
    )
    return result
