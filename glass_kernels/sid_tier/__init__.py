"""SID-Tier cross features: how a user's whole history is spread over similarity tiers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from glass_kernels.backend import resolve
from glass_kernels.checks import check_ids, check_offsets, check_tensor
from glass_kernels.sid_tier.cuda import AVAILABLE as CUDA_AVAILABLE
from glass_kernels.sid_tier.cuda import sid_tier_cuda
from glass_kernels.sid_tier.embeddings import AVAILABLE as EMBEDDINGS_AVAILABLE
from glass_kernels.sid_tier.embeddings import sid_tier_from_embeddings_cpp
from glass_kernels.sid_tier.library import AVAILABLE, sid_tier_cpp
from glass_kernels.sid_tier.reference import (
    sid_tier_from_embeddings_reference,
    sid_tier_reference,
)
from glass_kernels.sid_tier.tiers import (
    Edges,
    check_edges,
    check_num_tiers,
    check_table,
    check_vectors,
    edges_dtype,
    tier_table,
)
from glass_kernels.sid_tier.triton_ops import AVAILABLE as TRITON_AVAILABLE
from glass_kernels.sid_tier.triton_ops import sid_tier_from_embeddings_triton, sid_tier_triton
from glass_kernels.sid_tier.update import sid_tier_update_

_SID_TIER: dict[str, Callable[..., Tensor]] = {"reference": sid_tier_reference}
_FROM_EMBEDDINGS: dict[str, Callable[..., Tensor]] = {
    "reference": sid_tier_from_embeddings_reference
}
if AVAILABLE:
    _SID_TIER["cpp"] = sid_tier_cpp
if CUDA_AVAILABLE:
    _SID_TIER["cuda"] = sid_tier_cuda
if EMBEDDINGS_AVAILABLE:
    _FROM_EMBEDDINGS["cpp"] = sid_tier_from_embeddings_cpp
_FROM_FLOAT64 = dict(_FROM_EMBEDDINGS)
if TRITON_AVAILABLE:
    _SID_TIER["triton"] = sid_tier_triton
    _FROM_EMBEDDINGS["triton"] = sid_tier_from_embeddings_triton


def _check_history(item_ids: Tensor, offsets: Tensor, like: Tensor, num_items: int) -> None:
    check_tensor("item_ids", item_ids, ndim=1, device=like.device)
    check_ids("item_ids", item_ids, 0, num_items)
    check_tensor("offsets", offsets, device=like.device)
    check_offsets("offsets", offsets, item_ids.shape[0])


def sid_tier(
    item_ids: Tensor,
    offsets: Tensor,
    table: Tensor,
    num_tiers: int,
    *,
    normalize: bool = True,
    backend: str | None = None,
) -> Tensor:
    """Histogram of each user's history over the tiers of every first-level code.

    GLASS (arXiv 2602.05663), SID-Tier: t[b, k, i] is the number of items of user b's history whose
    cosine with the prototype of code k is in tier i, divided by the history's length. Not
    differentiable: the result never requires a gradient.

    Args:
        item_ids: [T] int32 or int64, the users' histories one after another.
        offsets: [B+1] int64, user b owns item_ids[offsets[b]:offsets[b+1]].
        table: uint8 [V, K] of `tier_table`.
        num_tiers: N, 1 to 255.
        normalize: fractions of the history (zeros for an empty one); otherwise counts.
        backend: see `glass_kernels.backend`.

    Returns float32 [B, K, N].

    Raises:
        ValueError: wrong shapes, dtypes, devices, ids or tiers out of range, offsets that do not
            add up.
        RuntimeError: `backend` is not available.
    """
    check_num_tiers(num_tiers)
    check_tensor("item_ids", item_ids)
    check_table(table, num_tiers, item_ids.device)
    run = resolve("sid_tier", table.device, backend, _SID_TIER)
    if run is sid_tier_cpp and not torch.compiler.is_compiling():
        try:
            return run(item_ids, offsets, table, num_tiers, normalize)
        except RuntimeError:
            pass  # the checks below name the mistake
    _check_history(item_ids, offsets, table, table.shape[0])
    return run(item_ids, offsets, table, num_tiers, normalize)


def sid_tier_from_embeddings(
    item_ids: Tensor,
    offsets: Tensor,
    item_embeddings: Tensor,
    prototypes: Tensor,
    edges: Edges,
    *,
    normalize: bool = True,
    backend: str | None = None,
) -> Tensor:
    """`sid_tier` for catalogues too large for a table: similarities are made and never stored.

    Same result as `sid_tier` with `tier_table(item_embeddings, prototypes, edges)`.

    Args:
        item_ids: [T] int32 or int64.
        offsets: [B+1] int64.
        item_embeddings: [V, D] float32, bfloat16, float16 or float64.
        prototypes: [K, D].
        edges: [N+1] strictly increasing, see `tier_table`.
        normalize: fractions of the history (zeros for an empty one); otherwise counts.
        backend: see `glass_kernels.backend`.

    Returns float32 [B, K, N], which never requires a gradient.

    Raises:
        ValueError: wrong shapes, dtypes, devices, ids out of range, edges or offsets.
        RuntimeError: `backend` is not available.
    """
    check_vectors(item_embeddings, prototypes)
    bounds = check_edges(edges, edges_dtype(item_embeddings), item_embeddings.device)
    wide = item_embeddings.dtype == torch.float64
    run = resolve(
        "sid_tier_from_embeddings of float64" if wide else "sid_tier_from_embeddings",
        item_embeddings.device,
        backend,
        _FROM_FLOAT64 if wide else _FROM_EMBEDDINGS,
    )
    if run is sid_tier_from_embeddings_cpp and not torch.compiler.is_compiling():
        try:
            return run(item_ids, offsets, item_embeddings, prototypes, bounds, normalize)
        except RuntimeError:
            pass  # the checks below name the mistake
    _check_history(item_ids, offsets, item_embeddings, item_embeddings.shape[0])
    return run(item_ids, offsets, item_embeddings, prototypes, bounds, normalize)


__all__ = [
    "sid_tier",
    "sid_tier_from_embeddings",
    "sid_tier_update_",
    "tier_table",
]
