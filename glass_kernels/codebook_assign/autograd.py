"""The gradient of codebook assignment, the same for every backend with a backward operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from glass_kernels.codebook_assign.fakes import no_second_gradient

Gradients = tuple[Tensor, Tensor]


def _setup_context(
    ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    query, codebook, target, ctx.temperature = inputs
    ctx.save_for_backward(query, codebook, target, output[3])
    ctx.set_materialize_grads(False)


def register(forward: str, backward: str, run: Callable[..., Gradients]) -> None:
    """Gives operator `forward` the gradient that `run`, operator `backward`, computes."""

    def differentiate(
        ctx: Any,
        grad_assigned: Tensor | None,
        grad_index: Tensor | None,
        grad_loss: Tensor | None,
        grad_log_sum_exp: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        query, codebook, target, log_sum_exp = ctx.saved_tensors
        if target is None:
            grad_loss = None  # of nothing
        if grad_assigned is None and grad_loss is None:
            return (None,) * 4
        of_query, of_codebook = ctx.needs_input_grad[:2]
        grad_query, grad_codebook = run(
            None if grad_assigned is None else grad_assigned.contiguous(),
            None if grad_loss is None else grad_loss.contiguous(),
            query, codebook, target, log_sum_exp, ctx.temperature, of_query, of_codebook,
        )  # fmt: skip
        return grad_query if of_query else None, grad_codebook if of_codebook else None, None, None

    torch.library.register_autograd(forward, differentiate, setup_context=_setup_context)
    torch.library.register_autograd(backward, no_second_gradient)
