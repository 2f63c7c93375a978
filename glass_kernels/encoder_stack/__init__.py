"""A Transformer encoder for inference: all layers in one call."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from glass_kernels.backend import resolve
from glass_kernels.checks import check_tensor
from glass_kernels.encoder_stack.library import AVAILABLE, encoder_stack_cpp
from glass_kernels.encoder_stack.reference import encoder_stack_reference
from glass_kernels.encoder_stack.weights import EncoderWeights

__all__ = ["EncoderWeights", "encoder_stack"]

_Stack = Callable[[Tensor, Tensor, EncoderWeights, Tensor | None], Tensor]
_STACK: dict[str, _Stack] = {"reference": encoder_stack_reference}
_STACK_OF_OTHER_DTYPES = dict(_STACK)
if AVAILABLE:
    _STACK["cpp"] = encoder_stack_cpp


def encoder_stack(
    x: Tensor,
    bias: Tensor,
    weights: EncoderWeights,
    valid: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """Keys and values that a decoder reads of a T5-style encoder's output (Raffel et al. 2020).

    Layer by layer, with norm(x) = x / sqrt(mean(x^2) + 1e-6):
    x += attention(norm(x)), softmax(q k^T + bias) v without a factor 1/sqrt(D), then
    x += down relu(up norm(x)); at last keys and values of norm(x). The encoder itself is that of
    GLASS (arXiv 2602.05663) and TIGER (arXiv 2305.05065); this way to compute it is ours: in C++ a
    user's rows stay in the cache from the first layer to the last, padding takes no time, and rows
    of `down` that meet a zero are not read.

    The C++ kernel takes float32 and has no gradient; the reference has, for every float dtype. A
    user's result depends on no other user and not on padding; in C++ no bit of it does.

    Args:
        x: float [B, N, C] of the dtype and device of the weights.
        bias: [H, 2N - 1] added to the scores of a key at position k for the query at q: column
            k - q + N - 1. No column where N is 0.
        weights: of all layers.
        valid: bool [B, N], false at padding, which may be anywhere; None: true everywhere. What x
            holds at padding is not looked at.
        backend: a name of `glass_kernels.BACKENDS`, or None for the best available.

    Returns [M, B, N, 2, H, D], keys and values of the M decoder layers; zeros at padding.

    Raises:
        ValueError: a wrong shape, dtype or device.
        RuntimeError: the backend asked for is not available.
    """
    qkv = weights.qkv
    heads, width, dtypes, device = qkv.shape[2], qkv.shape[4], (qkv.dtype,), qkv.device
    check_tensor("x", x, shape=(None, None, width), dtypes=dtypes, device=device)
    users, length = x.shape[:2]
    distances = max(2 * length - 1, 0)
    check_tensor("bias", bias, shape=(heads, distances), dtypes=dtypes, device=device)
    if valid is not None:
        check_tensor("valid", valid, shape=(users, length), dtypes=(torch.bool,), device=device)
    single = x.dtype == torch.float32
    stack = resolve(
        "encoder_stack" if single else "encoder_stack of another dtype than float32",
        device, backend, _STACK if single else _STACK_OF_OTHER_DTYPES,
    )  # fmt: skip
    return stack(x, bias, weights, valid)
