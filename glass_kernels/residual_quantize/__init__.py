"""Residual quantisation: vectors to semantic IDs with codebooks that are already trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from glass_kernels.backend import resolve
from glass_kernels.checks import FLOATS, check_tensor, checks_values
from glass_kernels.residual_quantize import library, triton_ops
from glass_kernels.residual_quantize.reference import residual_quantize_reference

__all__ = ["residual_quantize"]

_Quantize = Callable[[Tensor, Sequence[Tensor], bool], Tensor]
_QUANTIZE: dict[str, _Quantize] = {"reference": residual_quantize_reference}
if library.AVAILABLE:
    _QUANTIZE["cpp"] = library.residual_quantize_cpp
_WIDE = dict(_QUANTIZE)  # float64: no Triton
if triton_ops.AVAILABLE:
    _QUANTIZE["triton"] = triton_ops.residual_quantize_triton


def residual_quantize(
    x: Tensor,
    codebooks: Tensor | Sequence[Tensor],
    *,
    normalize_residual: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Semantic IDs of vectors: at each level the nearest centroid of what the levels before left.

    r_0 = x; c_l = argmin_k |r_l - codebooks[l, k]|^2, the lowest k on ties; r_{l+1} = r_l -
    codebooks[l, c_l]. TIGER (arXiv 2305.05065), residual quantisation. With `normalize_residual`
    r_l is first scaled to unit length; a zero residual stays zero.

    Not differentiable: codes are whole numbers.

    Args:
        x: float [V, D], finite; float32, bfloat16, float16 or float64.
        codebooks: [L, K, D] of the dtype of x; or, beyond the common contract, a list or tuple of
            L tensors [K_l, D] whose K_l may differ.
        normalize_residual: scale the residual to unit length before each level.
        backend: a name of `glass_kernels.BACKENDS`, or None for the best available.

    Returns codes int32 [V, L]. Residuals and distances are float32 (float64 for float64 input);
    their squares are summed in float64 and rounded once, so that every backend gives equal codes.

    Raises:
        ValueError: a wrong shape, dtype or device, no level, an empty codebook, or values that are
            not finite (on a GPU only under GLASS_CHECK=1).
        RuntimeError: the backend asked for is not available.
    """
    check_tensor("x", x, ndim=2, dtypes=FLOATS)
    levels = _levels(codebooks)
    for level, codebook in enumerate(levels):
        name = f"codebooks[{level}]"
        check_tensor(name, codebook, shape=(None, x.shape[1]), dtypes=(x.dtype,), device=x.device)
        if codebook.shape[0] < 1:
            raise ValueError(f"{name} must have at least one centroid, was empty")
    wide = x.dtype == torch.float64
    quantize = resolve(
        "residual_quantize of float64" if wide else "residual_quantize",
        x.device, backend, _WIDE if wide else _QUANTIZE,
    )  # fmt: skip
    if quantize is not library.residual_quantize_cpp:  # which finds out by itself
        _check_finite("x", x)
        for level, codebook in enumerate(levels):
            _check_finite(f"codebooks[{level}]", codebook)
    return quantize(x, levels, normalize_residual)


def _levels(codebooks: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    if isinstance(codebooks, Tensor):
        check_tensor("codebooks", codebooks, ndim=3)
        codebooks = codebooks.unbind(0)
    elif not isinstance(codebooks, list | tuple):
        raise ValueError(
            "codebooks must be a tensor [L, K, D] or a list of tensors [K_l, D], "
            f"was {type(codebooks).__name__}"
        )
    if len(codebooks) == 0:
        raise ValueError("codebooks must have at least one level, was empty")
    return tuple(codebooks)


def _check_finite(name: str, values: Tensor) -> None:
    if checks_values(values) and not bool(torch.isfinite(values).all()):
        row = int((~torch.isfinite(values)).any(dim=1).nonzero()[0])
        raise ValueError(f"{name} must be finite, held NaN or infinity in row {row}")
