"""`glass::residual_quantize_triton`: the registered launch.

Triton is imported at the first call: TRITON_INTERPRET decides then for the whole process, and a
machine without it imports this as any other.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import torch
from torch import Tensor

from glass_kernels.residual_quantize.fakes import codes_like
from glass_kernels.triton_launch import check_device

AVAILABLE = importlib.util.find_spec("triton") is not None
_NAME = "glass::residual_quantize_triton"


@torch.library.custom_op(_NAME, mutates_args=())
def _quantize(x: Tensor, codebooks: Sequence[Tensor], normalize_residual: bool) -> Tensor:
    check_device(_NAME, x.device)
    if x.dtype == torch.float64:
        raise RuntimeError(f"{_NAME}: x must not be float64, which needs a reference")
    from glass_kernels.residual_quantize.triton_kernel import residual_quantize_launch

    return residual_quantize_launch(x, codebooks, normalize_residual)


_quantize.register_fake(codes_like)


@torch.no_grad()
def residual_quantize_triton(
    x: Tensor, codebooks: Sequence[Tensor], normalize_residual: bool
) -> Tensor:
    """The Triton kernel; see `glass_kernels.residual_quantize`. Not for float64."""
    result: Tensor = _quantize(x, codebooks, normalize_residual)
    return result
