"""Attention to the history items that semantic hard search found.

GLASS (arXiv 2602.05663), semantic hard search.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from glass_kernels.backend import cpp_at_once, resolve
from glass_kernels.checks import FLOATS, INTEGERS, check_ids, check_tensor
from glass_kernels.hard_search_attention.bag import hard_search_attention_bag
from glass_kernels.hard_search_attention.library import AVAILABLE, hard_search_attention_cpp
from glass_kernels.hard_search_attention.reference import hard_search_attention_reference
from glass_kernels.hard_search_attention.triton_ops import AVAILABLE as TRITON_AVAILABLE
from glass_kernels.hard_search_attention.triton_ops import (
    hard_search_attention_triton,
    triton_takes,
)

__all__ = ["hard_search_attention"]

_ATTENTION: dict[str, Callable[..., Tensor]] = {
    "eager": hard_search_attention_bag,
    "reference": hard_search_attention_reference,
}
if AVAILABLE:
    _ATTENTION["cpp"] = hard_search_attention_cpp
if TRITON_AVAILABLE:
    _ATTENTION["triton"] = hard_search_attention_triton


def hard_search_attention(
    query: Tensor,
    key_table: Tensor,
    value_table: Tensor,
    tokens: Tensor,
    positions: Tensor,
    lengths: Tensor,
    *,
    scale: float = 1.0,
    backend: str | None = None,
) -> Tensor:
    """Attention of the P positions of each set to the tokens of its retrieved items.

    out = sum over tokens of softmax(scale * query . key) value, without positional bias, where
    a token's key and value are rows of small tables that are projected once a step. An empty set
    gives zeros and zero gradients. Differentiable in query, key_table and value_table. All backends
    but "reference", which gathers every token, attend to the bag of distinct tokens.

    Args:
        query: float [B, S, P, H, Dh]; float32, bfloat16, float16 or float64.
        key_table: [Vt, H, Dh] of the query's dtype; a key for each row of the token table.
        value_table: [Vt, H, Dh] of the query's dtype.
        tokens: int32 or int64 [T, n_tok] in [0, Vt); the tokens of every event of the history.
            "cpp" reads, and checks, those of retrieved events alone.
        positions: int32 or int64 [B, S, M] in [-1, T), as from `hard_search`.
        lengths: int32 or int64 [B, S] in [0, M]; slots from `lengths` on are not looked at.
        scale: factor of the scores; T5-style attention has none.
        backend: a name of `glass_kernels.BACKENDS`, or None for the best available.

    Returns:
        [B, S, P, H, Dh] of the query's dtype; half precision accumulates in float32.

    Raises:
        ValueError: a wrong shape, dtype or device, or an id out of range.
        RuntimeError: the backend asked for is not available.
    """
    if "cpp" in _ATTENTION and backend is None and cpp_at_once(query):
        try:
            out: Tensor = torch.ops.glass.hard_search_attention(
                query, key_table, value_table, tokens, positions, lengths, scale
            )
            return out
        except RuntimeError:
            pass  # the checks below name the mistake
    device = query.device
    check_tensor("query", query, ndim=5, dtypes=FLOATS)
    num_users, num_sets, _, num_heads, head_dim = query.shape
    check_tensor(
        "key_table", key_table, shape=(None, num_heads, head_dim), dtypes=(query.dtype,),
        device=device,
    )  # fmt: skip
    num_tokens = key_table.shape[0]
    if num_tokens < 1:
        raise ValueError("key_table must have at least one row, was empty")
    check_tensor(
        "value_table", value_table, shape=(num_tokens, num_heads, head_dim),
        dtypes=(query.dtype,), device=device,
    )  # fmt: skip
    check_tensor("tokens", tokens, ndim=2, dtypes=INTEGERS, device=device)
    check_tensor(
        "positions", positions, shape=(num_users, num_sets, None), dtypes=INTEGERS, device=device
    )
    check_tensor("lengths", lengths, shape=(num_users, num_sets), dtypes=INTEGERS, device=device)
    op, attention = "hard_search_attention", _ATTENTION
    if not triton_takes(query):
        op = f"{op} of {query.dtype} and {head_dim} columns a head"
        attention = {name: run for name, run in _ATTENTION.items() if name != "triton"}
    attend = resolve(op, device, backend, attention)
    if attend is not hard_search_attention_cpp:  # which looks at every id it reads
        check_ids("tokens", tokens, 0, num_tokens)
        check_ids("positions", positions, -1, tokens.shape[0])
        check_ids("lengths", lengths, 0, positions.shape[2] + 1)
    return attend(query, key_table, value_table, tokens, positions, lengths, scale=scale)
