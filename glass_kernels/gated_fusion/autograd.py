"""The gradient of gated fusion, the same for every backend that registers a backward operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from glass_kernels.gated_fusion.fakes import no_second_gradient

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    short, retrieved, weight, _, has_retrieval, gate_input = inputs
    ctx.save_for_backward(short, retrieved, weight, output[1], has_retrieval, gate_input)
    ctx.set_materialize_grads(False)


def register(forward: str, backward: str, run: Callable[..., Gradients]) -> None:
    """Gives operator `forward` the gradient that `run`, operator `backward`, computes."""

    def differentiate(
        ctx: Any, grad_out: Tensor | None, grad_gate: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if grad_out is None and grad_gate is None:
            return (None,) * 6
        short, retrieved, weight, gate, has_retrieval, gate_input = ctx.saved_tensors
        near, far, matrix, shift, _, first = ctx.needs_input_grad
        of_inputs, of_weights = near or far or first, matrix or shift
        grads = run(
            None if grad_out is None else grad_out.contiguous(),
            None if grad_gate is None else grad_gate.contiguous(),
            short, retrieved, weight, gate, has_retrieval, gate_input, of_inputs, of_weights,
        )  # fmt: skip
        of_short, of_retrieved, of_weight, of_bias, of_first = grads
        return (
            of_short if near else None,
            of_retrieved if far else None,
            of_weight if matrix else None,
            of_bias if shift else None,
            None,
            of_first if first else None,
        )

    torch.library.register_autograd(forward, differentiate, setup_context=_setup_context)
    torch.library.register_autograd(backward, no_second_gradient)
