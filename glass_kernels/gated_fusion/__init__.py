"""Gated fusion of short-term context and retrieved history.

GLASS (arXiv 2602.05663), adaptive gated fusion.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from glass_kernels.backend import cpp_at_once, resolve
from glass_kernels.checks import FLOATS, check_tensor
from glass_kernels.gated_fusion.library import AVAILABLE, gated_fusion_cpp
from glass_kernels.gated_fusion.reference import gated_fusion_reference
from glass_kernels.gated_fusion.triton_ops import AVAILABLE as TRITON_AVAILABLE
from glass_kernels.gated_fusion.triton_ops import gated_fusion_triton, gated_fusion_triton_alone

__all__ = ["gated_fusion"]

_FUSION: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {"reference": gated_fusion_reference}
if AVAILABLE:
    _FUSION["cpp"] = gated_fusion_cpp
_FUSION_OF_FLOAT64 = dict(_FUSION)
_ALONE: dict[Callable[..., tuple[Tensor, Tensor]], Callable[..., Tensor]] = {}
"""For what need not keep the gate: neither asked for nor wanted by a gradient."""
if TRITON_AVAILABLE:
    _FUSION["triton"] = gated_fusion_triton
    _ALONE[gated_fusion_triton] = gated_fusion_triton_alone


def gated_fusion(
    short: Tensor,
    retrieved: Tensor,
    weight: Tensor,
    bias: Tensor,
    has_retrieval: Tensor | None = None,
    *,
    gate_input: Tensor | None = None,
    return_gate: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Mixes two contexts channel by channel: out = short + g * (retrieved - short).

    g = sigmoid([short ; retrieved] weight^T + bias), or sigmoid([gate_input ; retrieved] ...) when
    `gate_input` is given (the released code feeds the decoder state). Where `has_retrieval` is
    false, out = short exactly, g = 0, and no gradient reaches retrieved, weight, bias and
    gate_input, whatever those rows hold. Differentiable in short, retrieved, weight, bias and
    gate_input.

    Args:
        short: float [..., d]; float32, bfloat16, float16 or float64.
        retrieved: [..., d], shape and dtype of `short`.
        weight: [d, 2d] of the same dtype; columns 0..d-1 meet short (or gate_input).
        bias: [d] of the same dtype.
        has_retrieval: bool [...]; None: true everywhere.
        gate_input: [..., d], shape and dtype of `short`.
        return_gate: return (out, g) instead of out.
        backend: a name of `glass_kernels.BACKENDS`, or None for the best available.

    Returns:
        out [..., d], and with `return_gate` also g [..., d]; both of short's dtype. Half precision
        accumulates in float32.

    Raises:
        ValueError: a wrong shape, dtype or device.
        RuntimeError: the backend asked for is not available.
    """
    if "cpp" in _FUSION and backend is None and cpp_at_once(short):
        try:
            fused: tuple[Tensor, Tensor] = torch.ops.glass.gated_fusion(
                short, retrieved, weight, bias, has_retrieval, gate_input
            )
            return fused if return_gate else fused[0]
        except RuntimeError:
            pass  # the checks below name the mistake
    check_tensor("short", short, dtypes=FLOATS)
    if short.ndim < 1 or short.shape[-1] < 1:
        raise ValueError(f"short must be [..., d] with d >= 1, had shape {list(short.shape)}")
    width, dtypes, device = short.shape[-1], (short.dtype,), short.device
    check_tensor("retrieved", retrieved, shape=short.shape, dtypes=dtypes, device=device)
    check_tensor("weight", weight, shape=(width, 2 * width), dtypes=dtypes, device=device)
    check_tensor("bias", bias, shape=(width,), dtypes=dtypes, device=device)
    if has_retrieval is not None:
        check_tensor(
            "has_retrieval", has_retrieval, shape=short.shape[:-1], dtypes=(torch.bool,),
            device=device,
        )  # fmt: skip
    if gate_input is not None:
        check_tensor("gate_input", gate_input, shape=short.shape, dtypes=dtypes, device=device)
    wide = short.dtype == torch.float64
    fuse = resolve(
        "gated_fusion of float64" if wide else "gated_fusion", device, backend,
        _FUSION_OF_FLOAT64 if wide else _FUSION,
    )  # fmt: skip
    inputs = short, retrieved, weight, bias, has_retrieval
    alone = _ALONE.get(fuse)
    if alone is not None and not return_gate and not _learns(*inputs[:4], gate_input):
        return alone(*inputs, gate_input)
    out, gate = fuse(*inputs, gate_input=gate_input)
    return (out, gate) if return_gate else out


def _learns(*inputs: Tensor | None) -> bool:
    """Whether a gradient of any may be asked for."""
    if not torch.is_grad_enabled():
        return False
    return any(tensor is not None and tensor.requires_grad for tensor in inputs)
