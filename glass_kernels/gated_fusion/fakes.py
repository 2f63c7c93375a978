"""Shapes of gated fusion's operators for compilers; for every backend."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import Tensor


def fused_and_gate(
    short: Tensor,
    retrieved: Tensor,
    weight: Tensor,
    bias: Tensor,
    has_retrieval: Tensor | None,
    gate_input: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Of the forward."""
    return short.new_empty(short.shape), short.new_empty(short.shape)


def gradients(
    grad_out: Tensor | None,
    grad_gate: Tensor | None,
    short: Tensor,
    retrieved: Tensor,
    weight: Tensor,
    gate: Tensor,
    has_retrieval: Tensor | None,
    gate_input: Tensor | None,
    of_inputs: bool,
    of_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of the backward; a gradient that is not wanted is empty."""

    def empty(wanted: bool, shape: tuple[int, ...]) -> Tensor:
        return short.new_empty(shape if wanted else (0,))

    width = weight.shape[0]
    return (
        empty(of_inputs, short.shape),
        empty(of_inputs, short.shape),
        empty(of_weights, (width, 2 * width)),
        empty(of_weights, (width,)),
        empty(of_inputs and gate_input is not None, short.shape),
    )


def no_second_gradient(ctx: Any, *grads: Tensor) -> NoReturn:
    """Better an error than a second derivative of zero."""
    raise RuntimeError(
        "gated_fusion: this backend has no second derivative; backend='reference' has"
    )
