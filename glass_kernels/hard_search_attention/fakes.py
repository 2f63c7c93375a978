"""Shapes of the attention's operators for compilers, and its autograd.

For backends that keep the softmax's denominator (that of C++ keeps nothing: library.py):

forward(query, key_table, value_table, tokens, positions, lengths, scale) -> (out, log_sum)
backward(grad, query, key_table, value_table, tokens, positions, lengths, out, log_sum, scale)
    -> (query_grad, key_grad, value_grad)

`log_sum` [B, S, P, H] is the logarithm (the base is the backend's affair) of the denominator of the
softmax, from which the backward makes the weights again; it has no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from glass_kernels.hard_search_attention.reference import accumulation_dtype

Backward = Callable[..., tuple[Tensor, Tensor, Tensor]]


def attention_fake(
    query: Tensor,
    key_table: Tensor,
    value_table: Tensor,
    tokens: Tensor,
    positions: Tensor,
    lengths: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    log_sum = query.new_empty(query.shape[:4], dtype=accumulation_dtype(query))
    return query.new_empty(query.shape), log_sum


def attention_backward_fake(
    grad: Tensor,
    query: Tensor,
    key_table: Tensor,
    value_table: Tensor,
    tokens: Tensor,
    positions: Tensor,
    lengths: Tensor,
    out: Tensor,
    log_sum: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    like = (query, key_table, value_table)
    query_grad, key_grad, value_grad = (tensor.new_empty(tensor.shape) for tensor in like)
    return query_grad, key_grad, value_grad


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, scale = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.scale = scale


def autograd_with(backward: Backward) -> Callable[..., tuple[Tensor | None, ...]]:
    """What `torch.library.register_autograd` takes: calls the operator `backward`."""

    def run(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        grads = backward(grad.contiguous(), *ctx.saved_tensors, ctx.scale)
        return (*grads, None, None, None, None)

    return run


__all__ = ["attention_backward_fake", "attention_fake", "autograd_with", "setup_context"]
