"""`glass::hard_search_attention` on the CPU: schemas and kernels are in the library.

Its backward makes the softmax again, so the operator returns and keeps nothing beside the result.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from glass_kernels import library

AVAILABLE = library.load("cpp")[0]


def _fake(query: Tensor, *_: Any) -> Tensor:
    return query.new_empty(query.shape)


def _backward_fake(
    grad: Tensor, query: Tensor, key_table: Tensor, value_table: Tensor, *_: Any
) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in (query, key_table, value_table))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    if not any(ctx.needs_input_grad[:3]):
        return (None,) * 7
    op = torch.ops.glass.hard_search_attention_backward
    grads = op(grad.contiguous(), *ctx.saved_tensors, ctx.scale)
    return *grads, None, None, None, None


def _no_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError(
        "glass: hard_search_attention of backend 'cpp' has no second derivative; 'reference' has"
    )


if AVAILABLE:
    torch.library.register_fake("glass::hard_search_attention")(_fake)
    torch.library.register_fake("glass::hard_search_attention_backward")(_backward_fake)
    torch.library.register_autograd("glass::hard_search_attention", _backward, setup_context=_setup)
    torch.library.register_autograd("glass::hard_search_attention_backward", _no_second_derivative)


# what only the kernel finds out, since looking costs a pass over every event
_MISTAKES = ("tokens must be in", "positions must be in", "lengths must be in")


def hard_search_attention_cpp(
    query: Tensor,
    key_table: Tensor,
    value_table: Tensor,
    tokens: Tensor,
    positions: Tensor,
    lengths: Tensor,
    *,
    scale: float = 1.0,
) -> Tensor:
    """The C++ kernel; see `glass_kernels.hard_search_attention`.

    It looks at the ids as it reads them. One out of range is a ValueError, in compiled code a
    RuntimeError; tokens of events that no set retrieves are not looked at.
    """
    arguments = (query, key_table, value_table, tokens, positions, lengths, float(scale))
    op = torch.ops.glass.hard_search_attention
    result: Tensor
    if torch.compiler.is_compiling():
        result = op(*arguments)
        return result
    try:
        result = op(*arguments)
    except RuntimeError as error:
        mistake = library.caller_mistake(error, _MISTAKES)
        if mistake is not None:
            raise mistake from None
        raise
    return result
