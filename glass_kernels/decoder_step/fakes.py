"""Shapes of the operators of the decoder step for compilers, and their missing gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def step_like(
    x: Tensor,
    weights: Sequence[Tensor],
    scale: Tensor,
    bias: Tensor,
    keys: Sequence[Tensor],
    *more: Any,
) -> tuple[Tensor, Tensor]:
    """Of `decoder_step`."""
    users, beams, _ = x.shape
    inner = keys[0].shape[1] * keys[0].shape[3]
    return torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty(
        (len(keys), users, beams, 2, inner)
    )


def no_gradient(ctx: Any, *grads: Tensor) -> None:
    """Better an error than a gradient of zero."""
    raise RuntimeError("glass: decoder_step is for inference and has no gradient")
