"""Shapes of the search's operators for compilers; for every backend."""

from __future__ import annotations

import torch
from torch import Tensor


def bucket_history_fake(sid1: Tensor, offsets: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    """Of `bucket_history`: (order [T], bucket_offsets [B, K+1])."""
    order = sid1.new_empty(sid1.shape, dtype=torch.int32)
    shape = (offsets.shape[0] - 1, num_codes + 1)
    return order, sid1.new_empty(shape, dtype=torch.int32)


def hard_search_fake(
    order: Tensor,
    bucket_offsets: Tensor,
    query_sid1: Tensor,
    neighbours: Tensor | None,
    max_items: int,
    min_items: int,
) -> tuple[Tensor, Tensor]:
    """Of `hard_search`: (positions [B, S, M], lengths [B, S])."""
    positions = order.new_empty((*query_sid1.shape, max_items))
    return positions, order.new_empty(query_sid1.shape)
