"""Shape of the operator of an encoder for compilers, and its missing gradient."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def keys_values(
    x: Tensor,
    valid: Tensor | None,
    bias: Tensor,
    qkv: Tensor,
    output: Tensor,
    up: Tensor,
    down: Tensor,
    memory: Tensor,
) -> Tensor:
    """Of `encoder_stack`."""
    users, length, _ = x.shape
    heads = bias.shape[0]
    return x.new_empty((memory.shape[0], users, 2, heads, length, output.shape[2] // heads))


def no_gradient(ctx: Any, grad: Tensor) -> None:
    """Better an error than a gradient of zero."""
    raise RuntimeError(
        "glass: this encoder_stack is for inference and has no gradient; backend='reference' has"
    )
