"""Checks of the search's values: each raises ValueError naming what is wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from glass_kernels.checks import check_ids, check_offsets, checks_values
from glass_kernels.hard_search.reference import HistoryIndex


def check_history(sid1: Tensor, offsets: Tensor, num_codes: int) -> None:
    """Of `bucket_history`: offsets that do not add up, codes out of range."""
    check_offsets("offsets", offsets, sid1.shape[0])
    check_ids("sid1", sid1, 0, num_codes)


def check_search(index: HistoryIndex, query_sid1: Tensor, neighbours: Tensor | None) -> None:
    """Of `hard_search`: codes of K and more, buckets that are not in the history."""
    num_codes = index.bucket_offsets.shape[1] - 1
    check_ids("query_sid1", query_sid1, torch.iinfo(query_sid1.dtype).min, num_codes)
    if neighbours is not None:
        check_ids("neighbours", neighbours, torch.iinfo(neighbours.dtype).min, num_codes)
    starts, total = index.bucket_offsets, index.order.shape[0]
    if starts.numel() == 0 or not checks_values(starts):
        return
    check_ids("index.bucket_offsets", starts, 0, total + 1)
    if bool((starts[:, 1:] < starts[:, :-1]).any()):
        raise ValueError(
            "index.bucket_offsets must not fall along a row, and does; it must be what "
            "bucket_history returned"
        )
