"""Assignment of a query to a codebook with a straight-through gradient.

IntRR (arXiv 2602.20704), one level of the recursive-assignment network.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from glass_kernels.backend import cpp_at_once, resolve
from glass_kernels.checks import FLOATS, INTEGERS, check_ids, check_tensor, checks_values
from glass_kernels.codebook_assign.library import AVAILABLE, codebook_assign_cpp
from glass_kernels.codebook_assign.reference import IGNORED_TARGET, codebook_assign_reference
from glass_kernels.codebook_assign.triton_ops import AVAILABLE as TRITON_AVAILABLE
from glass_kernels.codebook_assign.triton_ops import codebook_assign_triton

__all__ = ["IGNORED_TARGET", "codebook_assign"]

_ASSIGN: dict[str, Callable[..., tuple[Tensor, Tensor, Tensor | None]]] = {
    "reference": codebook_assign_reference
}
if AVAILABLE:
    _ASSIGN["cpp"] = codebook_assign_cpp
_ASSIGN_OF_FLOAT64 = dict(_ASSIGN)
if TRITON_AVAILABLE:
    _ASSIGN["triton"] = codebook_assign_triton


def codebook_assign(
    query: Tensor,
    codebook: Tensor,
    target: Tensor | None = None,
    *,
    temperature: float = 1.0,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Picks the code of largest inner product; its gradient is that of the soft code.

    logits = query codebook^T; index = argmax, the lowest on ties; assigned = codebook[index] with
    the gradient of softmax(logits / temperature) codebook (straight-through); loss = cross-entropy
    of the logits, without temperature, against `target`. Differentiable in query and codebook. A
    row whose largest logit is NaN or infinite is assigned NaN.

    Args:
        query: float [T, d]; float32, bfloat16, float16 or float64.
        codebook: [K, d] of the query's dtype, K >= 1.
        target: int32 or int64 [T] in [0, K), or -100: ignored, with loss 0; None: no loss.
        temperature: above 0.
        backend: a name of `glass_kernels.BACKENDS`, or None for the best available.

    Returns:
        assigned [T, d] of the query's dtype; index int64 [T]; loss float32 [T] (float64 for a
        float64 query), or None without a target. Half precision accumulates in float32.

    Raises:
        ValueError: a wrong shape, dtype or device, a target out of range, or a temperature that is
            not positive and finite.
        RuntimeError: the backend asked for is not available.
    """
    if "cpp" in _ASSIGN and backend is None and cpp_at_once(query):
        try:
            assigned, index, loss, _ = torch.ops.glass.codebook_assign(
                query, codebook, target, temperature
            )
            return assigned, index, None if target is None else loss
        except RuntimeError:
            pass  # the checks below name the mistake
    check_tensor("query", query, ndim=2, dtypes=FLOATS)
    check_tensor(
        "codebook", codebook, shape=(None, query.shape[1]), dtypes=(query.dtype,),
        device=query.device,
    )  # fmt: skip
    if codebook.shape[0] < 1:
        raise ValueError("codebook must have at least one code, was empty")
    if not 0 < temperature < math.inf:  # math.isfinite would break a graph
        raise ValueError(f"temperature must be positive and finite, was {temperature}")
    if target is not None:
        check_tensor(
            "target", target, shape=(query.shape[0],), dtypes=INTEGERS, device=query.device
        )
        if checks_values(target):
            # -100 becomes 0, so that what is left must be a code.
            check_ids("target", target.masked_fill(target == IGNORED_TARGET, 0), 0, len(codebook))
    wide = query.dtype == torch.float64
    assign = resolve(
        "codebook_assign of float64" if wide else "codebook_assign", query.device, backend,
        _ASSIGN_OF_FLOAT64 if wide else _ASSIGN,
    )  # fmt: skip
    return assign(query, codebook, target, temperature=temperature)
