"""The CUDA kernels of `glass::bucket_history` and `glass::hard_search`."""

from __future__ import annotations

import torch
from torch import Tensor

from glass_kernels.hard_search.reference import HistoryIndex
from glass_kernels.sid_tier.cuda import AVAILABLE

__all__ = ["AVAILABLE", "bucket_history_cuda", "hard_search_cuda"]


def bucket_history_cuda(sid1: Tensor, offsets: Tensor, num_codes: int) -> HistoryIndex:
    """The CUDA kernel; see `glass_kernels.bucket_history`."""
    return HistoryIndex(*torch.ops.glass.bucket_history(sid1, offsets, num_codes))


def hard_search_cuda(
    index: HistoryIndex,
    query_sid1: Tensor,
    *,
    max_items: int,
    neighbours: Tensor | None = None,
    min_items: int = 0,
) -> tuple[Tensor, Tensor]:
    """The CUDA kernel; see `glass_kernels.hard_search`."""
    found: tuple[Tensor, Tensor] = torch.ops.glass.hard_search(
        *index, query_sid1, neighbours, max_items, min_items
    )
    return found
