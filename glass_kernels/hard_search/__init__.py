"""Semantic hard search: history items that share the generated `sid1`.

GLASS (arXiv 2602.05663), semantic hard search with semantic neighbour augmentation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from glass_kernels.backend import cpp_at_once, resolve
from glass_kernels.checks import INTEGERS, check_tensor
from glass_kernels.hard_search.checks import check_history, check_search
from glass_kernels.hard_search.cuda import AVAILABLE as CUDA_AVAILABLE
from glass_kernels.hard_search.cuda import bucket_history_cuda, hard_search_cuda
from glass_kernels.hard_search.library import (
    AVAILABLE,
    bucket_history_cpp,
    hard_search_cpp,
)
from glass_kernels.hard_search.reference import (
    HistoryIndex,
    bucket_history_reference,
    hard_search_reference,
)
from glass_kernels.hard_search.triton_ops import AVAILABLE as TRITON_AVAILABLE
from glass_kernels.hard_search.triton_ops import bucket_history_triton, hard_search_triton

__all__ = ["HistoryIndex", "bucket_history", "hard_search"]

_BUCKET: dict[str, Callable[..., HistoryIndex]] = {"reference": bucket_history_reference}
_SEARCH: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {"reference": hard_search_reference}
if AVAILABLE:
    _BUCKET["cpp"] = bucket_history_cpp
    _SEARCH["cpp"] = hard_search_cpp
if CUDA_AVAILABLE:
    _BUCKET["cuda"] = bucket_history_cuda
    _SEARCH["cuda"] = hard_search_cuda
if TRITON_AVAILABLE:
    _BUCKET["triton"] = bucket_history_triton
    _SEARCH["triton"] = hard_search_triton

_MOST_EVENTS = 2**31 - 1


def bucket_history(sid1: Tensor, offsets: Tensor, num_codes: int) -> HistoryIndex:
    """Groups each user's events by first-level code, keeping their order of time.

    A stable counting sort; the index it returns is what `hard_search` reads.

    Args:
        sid1: int32 or int64 [T]; first-level code of every event in [0, num_codes), user after
            user, oldest first.
        offsets: int64 [B+1]; events of user b are `sid1[offsets[b]:offsets[b + 1]]`.
        num_codes: K, size of the first codebook.

    Returns:
        HistoryIndex(order int32 [T], bucket_offsets int32 [B, K+1]): `order` holds positions in
        `sid1`; the bucket of user b and code k is
        `order[bucket_offsets[b, k]:bucket_offsets[b, k + 1]]`, oldest first.

    Raises:
        ValueError: a wrong shape, dtype or device, a code outside [0, num_codes), offsets that do
            not add up, or 2^31 events and more in one call.
    """
    if "cpp" in _BUCKET and cpp_at_once(sid1):
        try:
            return HistoryIndex(*torch.ops.glass.bucket_history(sid1, offsets, num_codes))
        except RuntimeError:
            pass  # the checks below name the mistake
    if num_codes < 1:
        raise ValueError(f"num_codes must be at least 1, was {num_codes}")
    check_tensor("sid1", sid1, ndim=1, dtypes=INTEGERS)
    if sid1.shape[0] > _MOST_EVENTS:
        raise ValueError(
            f"sid1 must hold fewer than 2^31 events a call, held {sid1.shape[0]}; split the batch"
        )
    check_tensor("offsets", offsets, ndim=1, dtypes=(torch.int64,), device=sid1.device)
    if offsets.shape[0] < 1:
        raise ValueError("offsets must have B + 1 >= 1 entries, was empty")
    run = resolve("bucket_history", sid1.device, None, _BUCKET)
    if run is not bucket_history_cpp:
        check_history(sid1, offsets, num_codes)  # the C++ kernel does it as it counts
    return run(sid1, offsets, num_codes)


def hard_search(
    index: HistoryIndex,
    query_sid1: Tensor,
    *,
    max_items: int,
    neighbours: Tensor | None = None,
    min_items: int = 0,
) -> tuple[Tensor, Tensor]:
    """Newest events of each query code's bucket, filled from neighbour codes if they are few.

    The newest min(max_items, bucket size) events of the query's bucket. If they are fewer than
    `min_items`, the buckets of `neighbours[code]` follow in order, each newest first, until
    `min_items` events are found, never more than `max_items`. A neighbour that is negative, the
    code itself or a repetition is skipped.

    Args:
        index: what `bucket_history` returned for B users and K codes.
        query_sid1: int32 or int64 [B, S] below K; a negative code retrieves nothing.
        max_items: M, at least 1.
        neighbours: int32 or int64 [K, n] below K, nearest code first; None: no augmentation.
        min_items: tau; 0 turns augmentation off.

    Returns:
        positions int32 [B, S, M]: positions in the flat history, -1 from slot `lengths` on;
        lengths int32 [B, S].

    Raises:
        ValueError: a wrong shape, dtype, device or size, a code of K and more, or an index that
            is not one of `bucket_history`.
    """
    if "cpp" in _SEARCH and isinstance(index, HistoryIndex) and cpp_at_once(index.order):
        try:
            found: tuple[Tensor, Tensor] = torch.ops.glass.hard_search(
                *index, query_sid1, neighbours, max_items, min_items
            )
            return found
        except RuntimeError:
            pass  # the checks below name the mistake
    _check_index(index)
    order, bucket_offsets = index
    num_users, num_codes = bucket_offsets.shape[0], bucket_offsets.shape[1] - 1
    device = order.device
    if max_items < 1:
        raise ValueError(f"max_items must be at least 1, was {max_items}")
    if min_items < 0:
        raise ValueError(f"min_items must be at least 0, was {min_items}")
    check_tensor("query_sid1", query_sid1, shape=(num_users, None), dtypes=INTEGERS, device=device)
    if neighbours is not None:
        check_tensor(
            "neighbours", neighbours, shape=(num_codes, None), dtypes=INTEGERS, device=device
        )
    run = resolve("hard_search", device, None, _SEARCH)
    if run is not hard_search_cpp:
        check_search(index, query_sid1, neighbours)  # the C++ kernel does it as it reads
    return run(index, query_sid1, max_items=max_items, neighbours=neighbours, min_items=min_items)


def _check_index(index: HistoryIndex) -> None:
    if not isinstance(index, HistoryIndex):
        raise ValueError(
            f"index must be the HistoryIndex of bucket_history, was {type(index).__name__}"
        )
    check_tensor("index.order", index.order, ndim=1, dtypes=(torch.int32,))
    check_tensor(
        "index.bucket_offsets", index.bucket_offsets, ndim=2, dtypes=(torch.int32,),
        device=index.order.device,
    )  # fmt: skip
    if index.bucket_offsets.shape[1] < 2:
        raise ValueError("index.bucket_offsets must have K + 1 >= 2 columns")
