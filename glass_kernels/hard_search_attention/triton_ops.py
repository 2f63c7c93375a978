"""`glass::hard_search_attention_triton` and its backward: registered launches.

Triton is imported at the first call: TRITON_INTERPRET decides then for the whole process, and a
machine without it imports this as any other.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from glass_kernels.hard_search_attention.fakes import (
    attention_backward_fake,
    attention_fake,
    autograd_with,
    setup_context,
)
from glass_kernels.triton_launch import check_device

AVAILABLE = importlib.util.find_spec("triton") is not None
MAX_HEAD_DIM = 128


def triton_takes(query: Tensor) -> bool:
    """Whether the kernels are for queries of this dtype and head dimension."""
    return query.dtype != torch.float64 and query.shape[-1] <= MAX_HEAD_DIM


def _check(op: str, query: Tensor) -> None:
    check_device(op, query.device)
    if not triton_takes(query):
        raise RuntimeError(
            f"{op}: query must not be float64 and must have at most {MAX_HEAD_DIM} columns a head, "
            f"was {query.dtype} with {query.shape[-1]}; the backends eager and reference take any"
        )


@torch.library.custom_op("glass::hard_search_attention_triton", mutates_args=())
def _attention(
    query: Tensor,
    key_table: Tensor,
    value_table: Tensor,
    tokens: Tensor,
    positions: Tensor,
    lengths: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    _check("glass::hard_search_attention_triton", query)
    from glass_kernels.hard_search_attention.triton_forward import attention_launch

    return attention_launch(query, key_table, value_table, tokens, positions, lengths, scale)


@torch.library.custom_op("glass::hard_search_attention_triton_backward", mutates_args=())
def _attention_backward(
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
    _check("glass::hard_search_attention_triton_backward", query)
    from glass_kernels.hard_search_attention.triton_backward import attention_backward_launch

    return attention_backward_launch(
        grad, query, key_table, value_table, tokens, positions, lengths, out, log_sum, scale
    )


_attention.register_fake(attention_fake)
_attention_backward.register_fake(attention_backward_fake)
_attention.register_autograd(autograd_with(_attention_backward), setup_context=setup_context)


def hard_search_attention_triton(
    query: Tensor,
    key_table: Tensor,
    value_table: Tensor,
    tokens: Tensor,
    positions: Tensor,
    lengths: Tensor,
    *,
    scale: float = 1.0,
) -> Tensor:
    """The Triton kernels; see `glass_kernels.hard_search_attention`. Where
    `triton_takes` the query."""
    out, _ = _attention(query, key_table, value_table, tokens, positions, lengths, float(scale))
    result: Tensor = out
    return result
