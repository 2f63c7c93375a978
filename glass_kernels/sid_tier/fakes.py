"""Shapes of SID-Tier's operators for compilers, and their missing gradient; for every backend."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def histogram_of_table(
    item_ids: Tensor, offsets: Tensor, table: Tensor, num_tiers: int, normalize: bool
) -> Tensor:
    """Of `sid_tier`."""
    shape = (offsets.shape[0] - 1, table.shape[1], num_tiers)
    return table.new_empty(shape, dtype=torch.float32)


def histogram_of_vectors(
    item_ids: Tensor,
    offsets: Tensor,
    item_embeddings: Tensor,
    prototypes: Tensor,
    edges: Tensor,
    normalize: bool,
) -> Tensor:
    """Of `sid_tier_from_embeddings`."""
    shape = (offsets.shape[0] - 1, prototypes.shape[0], edges.shape[0] - 1)
    return item_embeddings.new_empty(shape, dtype=torch.float32)


def no_gradient(ctx: Any, grad: Tensor) -> None:
    """The histogram is piecewise constant: better an error than a gradient of zero."""
    raise RuntimeError("glass: SID-Tier is piecewise constant and has no gradient")
