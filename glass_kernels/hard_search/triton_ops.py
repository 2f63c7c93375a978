"""`glass::bucket_history_triton` and `glass::hard_search_triton`: registered launches.

Triton is imported at the first call: TRITON_INTERPRET decides then for the whole process, and a
machine without it imports this as any other.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from glass_kernels.hard_search.fakes import bucket_history_fake, hard_search_fake
from glass_kernels.hard_search.reference import HistoryIndex
from glass_kernels.triton_launch import check_device

AVAILABLE = importlib.util.find_spec("triton") is not None


@torch.library.custom_op("glass::bucket_history_triton", mutates_args=())
def _bucket_history(sid1: Tensor, offsets: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    check_device("glass::bucket_history_triton", sid1.device)
    from glass_kernels.hard_search.triton_kernels import bucket_history_launch

    return bucket_history_launch(sid1, offsets, num_codes)


@torch.library.custom_op("glass::hard_search_triton", mutates_args=())
def _hard_search(
    order: Tensor,
    bucket_offsets: Tensor,
    query_sid1: Tensor,
    neighbours: Tensor | None,
    max_items: int,
    min_items: int,
) -> tuple[Tensor, Tensor]:
    check_device("glass::hard_search_triton", order.device)
    from glass_kernels.hard_search.triton_kernels import hard_search_launch

    return hard_search_launch(order, bucket_offsets, query_sid1, neighbours, max_items, min_items)


_bucket_history.register_fake(bucket_history_fake)
_hard_search.register_fake(hard_search_fake)


def bucket_history_triton(sid1: Tensor, offsets: Tensor, num_codes: int) -> HistoryIndex:
    """The Triton kernel; see `glass_kernels.bucket_history`."""
    return HistoryIndex(*_bucket_history(sid1, offsets, num_codes))


def hard_search_triton(
    index: HistoryIndex,
    query_sid1: Tensor,
    *,
    max_items: int,
    neighbours: Tensor | None = None,
    min_items: int = 0,
) -> tuple[Tensor, Tensor]:
    """The Triton kernel; see `glass_kernels.hard_search`."""
    found: tuple[Tensor, Tensor] = _hard_search(
        *index, query_sid1, neighbours, max_items, min_items
    )
    return found
