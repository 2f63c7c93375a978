"""`glass::sid_tier_triton` and `glass::sid_tier_from_embeddings_triton`: registered launches.

Triton is imported at the first call: TRITON_INTERPRET decides then for the whole process, and a
machine without it imports this as any other.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from glass_kernels.sid_tier.fakes import (
    histogram_of_table,
    histogram_of_vectors,
    no_gradient,
)
from glass_kernels.triton_launch import check_device

AVAILABLE = importlib.util.find_spec("triton") is not None


@torch.library.custom_op("glass::sid_tier_triton", mutates_args=())
def _sid_tier(
    item_ids: Tensor, offsets: Tensor, table: Tensor, num_tiers: int, normalize: bool
) -> Tensor:
    check_device("glass::sid_tier_triton", table.device)
    from glass_kernels.sid_tier.triton_kernel import sid_tier_launch

    return sid_tier_launch(item_ids, offsets, table, num_tiers, normalize)


@torch.library.custom_op("glass::sid_tier_from_embeddings_triton", mutates_args=())
def _from_embeddings(
    item_ids: Tensor,
    offsets: Tensor,
    item_embeddings: Tensor,
    prototypes: Tensor,
    edges: Tensor,
    normalize: bool,
) -> Tensor:
    op = "glass::sid_tier_from_embeddings_triton"
    check_device(op, item_embeddings.device)
    if item_embeddings.dtype == torch.float64:
        raise RuntimeError(f"{op}: item_embeddings must not be float64, which needs a reference")
    from glass_kernels.sid_tier.triton_embeddings import sid_tier_from_embeddings_launch

    return sid_tier_from_embeddings_launch(
        item_ids, offsets, item_embeddings, prototypes, edges, normalize
    )


_sid_tier.register_fake(histogram_of_table)
_from_embeddings.register_fake(histogram_of_vectors)
_sid_tier.register_autograd(no_gradient)
_from_embeddings.register_autograd(no_gradient)


@torch.no_grad()
def sid_tier_triton(
    item_ids: Tensor, offsets: Tensor, table: Tensor, num_tiers: int, normalize: bool
) -> Tensor:
    """The Triton kernel; see `glass_kernels.sid_tier`."""
    result: Tensor = _sid_tier(item_ids, offsets, table, num_tiers, normalize)
    return result


@torch.no_grad()
def sid_tier_from_embeddings_triton(
    item_ids: Tensor,
    offsets: Tensor,
    item_embeddings: Tensor,
    prototypes: Tensor,
    edges: Tensor,
    normalize: bool,
) -> Tensor:
    """The Triton kernel; see `glass_kernels.sid_tier_from_embeddings`. Not for float64."""
    result: Tensor = _from_embeddings(
        item_ids, offsets, item_embeddings, prototypes, edges, normalize
    )
    return result
