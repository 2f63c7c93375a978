"""The equation in plain PyTorch: t[b, k, i] = number of the user's items in tier i of code k."""

from __future__ import annotations

import torch
from torch import Tensor

from glass_kernels.jagged import offsets_to_segments
from glass_kernels.sid_tier.tiers import chunks, cosines, tier_of, unit_vectors


def _count_(counts: Tensor, users: Tensor, tiers: Tensor, sign: int = 1) -> None:
    """counts[users[e], k, tiers[e, k]] += sign, for every event e and code k.

    A tier past the last one (a broken table) counts nowhere.
    """
    num_codes, num_tiers = counts.shape[1:]
    codes = torch.arange(num_codes, device=counts.device)
    index = (users.to(torch.int64)[:, None] * num_codes + codes) * num_tiers
    index += tiers.clamp(max=num_tiers - 1)
    step = (tiers < num_tiers).to(counts.dtype) * sign
    counts.view(-1).scatter_add_(0, index.view(-1), step.view(-1))


def _finish(counts: Tensor, offsets: Tensor, normalize: bool) -> Tensor:
    if not normalize:
        return counts.to(torch.float32)
    length = offsets.diff().clamp_min(1)[:, None, None]  # an empty history has only zeros
    return (counts.to(torch.float64) / length).to(torch.float32)


@torch.no_grad()
def sid_tier_reference(
    item_ids: Tensor, offsets: Tensor, table: Tensor, num_tiers: int, normalize: bool
) -> Tensor:
    """See `glass_kernels.sid_tier`; [B, K, N] float32."""
    total, num_codes = item_ids.shape[0], table.shape[1]
    shape = (offsets.shape[0] - 1, num_codes, num_tiers)
    counts = torch.zeros(shape, dtype=torch.int32, device=table.device)
    users = offsets_to_segments(offsets, total)
    for part in chunks(total, num_codes):
        _count_(counts, users[part], table[item_ids[part]])
    return _finish(counts, offsets, normalize)


@torch.no_grad()
def sid_tier_from_embeddings_reference(
    item_ids: Tensor,
    offsets: Tensor,
    item_embeddings: Tensor,
    prototypes: Tensor,
    edges: Tensor,
    normalize: bool,
) -> Tensor:
    """See `glass_kernels.sid_tier_from_embeddings`; similarities exist for a chunk of events."""
    total, num_codes = item_ids.shape[0], prototypes.shape[0]
    shape = (offsets.shape[0] - 1, num_codes, edges.shape[0] - 1)
    counts = torch.zeros(shape, dtype=torch.int32, device=prototypes.device)
    users = offsets_to_segments(offsets, total)
    unit = unit_vectors(prototypes)
    for part in chunks(total, max(num_codes, item_embeddings.shape[1])):
        similarity = cosines(item_embeddings[item_ids[part]], unit)
        _count_(counts, users[part], tier_of(similarity, edges))
    return _finish(counts, offsets, normalize)
