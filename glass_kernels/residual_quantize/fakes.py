"""Shape of the operators of residual quantisation for compilers, and their missing gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def codes_like(x: Tensor, codebooks: list[Tensor], normalize_residual: bool) -> Tensor:
    """Of `residual_quantize`."""
    return x.new_empty((x.shape[0], len(codebooks)), dtype=torch.int32)


def no_gradient(ctx: Any, grad: Tensor) -> None:
    """Codes are whole numbers: better an error than a gradient of zero."""
    raise RuntimeError("glass: residual quantisation gives whole numbers and has no gradient")
