"""Prototypes of the first-level codes, and the edges of their similarity tiers."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from glass_kernels.checks import FLOATS, check_ids, check_tensor
from glass_kernels.sid_tier.tiers import (
    check_num_tiers,
    check_table,
    check_vectors,
    chunks,
    cosines,
    unit_vectors,
)

EdgeKind = Literal["paper", "equal", "quantile", "geometric"]

PAPER_EDGES = (-1.0, -0.1, 0.0, 0.1, 1.0)


def sid_prototypes(embeddings: Tensor, sid1: Tensor, num_codes: int) -> Tensor:
    """Mean of the members of each first-level code; an empty code gets the mean of all items.

    Args:
        embeddings: [V, D] float.
        sid1: int32 or int64 [V], first-level code of every item.
        num_codes: K.

    Returns [K, D] in the dtype of `embeddings`, summed in float64.

    Raises ValueError for wrong shapes, dtypes, codes out of range or no item at all.
    """
    check_tensor("embeddings", embeddings, ndim=2, dtypes=FLOATS)
    num_items = embeddings.shape[0]
    check_tensor("sid1", sid1, shape=(num_items,), device=embeddings.device)
    check_ids("sid1", sid1, 0, num_codes)
    if num_items == 0:
        raise ValueError("embeddings must hold at least one item, had shape [0, D]")
    wide = embeddings.detach().to(torch.float64)
    code = sid1.to(torch.int64)
    total = wide.new_zeros((num_codes, wide.shape[1])).index_add_(0, code, wide)
    members = torch.bincount(code, minlength=num_codes)[:, None]
    mean = torch.where(members > 0, total / members.clamp_min(1), wide.mean(0))
    return mean.to(embeddings.dtype)


def _increasing(edges: Tensor) -> Tensor:
    """Moves equal edges apart by the smallest step, so that they increase strictly in float32."""
    edges = edges.to(torch.float32).clamp(-1.0, 1.0)
    edges[0], edges[-1] = -1.0, 1.0
    up, down = torch.tensor(2.0), torch.tensor(-2.0)
    for i in range(1, len(edges) - 1):
        edges[i] = torch.maximum(edges[i], torch.nextafter(edges[i - 1], up))
    for i in range(len(edges) - 2, 0, -1):
        edges[i] = torch.minimum(edges[i], torch.nextafter(edges[i + 1], down))
    return edges


def _quantile_edges(
    shares: Tensor,
    embeddings: Tensor,
    prototypes: Tensor,
    weights: Tensor | None,
    sample: int,
    seed: int,
) -> Tensor:
    """Edges below which `shares` float64 [N-1] of the weighted cosines lie; not yet distinct."""
    num_items = embeddings.shape[0]
    num_drawn = min(num_items, max(1, math.ceil(sample / max(prototypes.shape[0], 1))))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(num_items, generator=generator)[:num_drawn].to(embeddings.device)
    similarity = cosines(embeddings[drawn], unit_vectors(prototypes)).cpu()
    weight = torch.ones(num_drawn) if weights is None else weights[drawn].cpu()
    weight = weight.to(torch.float64)[:, None].expand(similarity.shape).reshape(-1)
    ordered, order = similarity.reshape(-1).sort()
    share = weight[order].cumsum(0)
    if not float(share[-1]) > 0:
        raise ValueError("weights must hold a positive number for the sampled items, were all 0")
    wanted = shares * share[-1]
    # the first cosine that has more than the wanted share at or below it opens the next tier
    at = torch.searchsorted(share, wanted, right=True).clamp_max(len(ordered) - 1)
    return torch.cat([torch.tensor([-1.0]), ordered[at].to(torch.float32), torch.tensor([1.0])])


def tier_edges(
    kind: EdgeKind,
    num_tiers: int,
    embeddings: Tensor | None = None,
    prototypes: Tensor | None = None,
    *,
    weights: Tensor | None = None,
    sample: int = 2_000_000,
    seed: int = 0,
) -> Tensor:
    """Edges of the tiers: float32 [N+1] on the CPU, strictly increasing from -1 to 1.

    Args:
        kind: "paper": -1, -0.1, 0, 0.1, 1 (four tiers); "equal": N tiers of one width;
            "quantile": each tier holds 1/N of the observed (item, code) cosines; "geometric": the
            tiers hold 1/2, 1/4, .. of them from the lowest up, the last as much as the one before.
        num_tiers: N, 1 to 255.
        embeddings, prototypes: [V, D] and [K, D], for "quantile" and "geometric" only.
        weights: [V] weight of each item, such as its training events; None: all equal.
        sample: about this many cosines are looked at, of items drawn without replacement.
        seed: seed of the draw.

    About 1/K of the events belong to a given code, so equal shares blur who consumes it; around
    log2(K) + 2 geometric tiers keep that visible.

    Raises ValueError for an unknown kind, "paper" with another N than 4, "quantile" or "geometric"
    without vectors, or weights that are negative or all 0.
    """
    check_num_tiers(num_tiers)
    if kind == "paper":
        if num_tiers != 4:
            raise ValueError(f"num_tiers must be 4 for kind='paper', was {num_tiers}")
        return torch.tensor(PAPER_EDGES)
    if kind == "equal":
        return _increasing(torch.linspace(-1.0, 1.0, num_tiers + 1, dtype=torch.float64))
    if kind not in ("quantile", "geometric"):
        raise ValueError(f"kind must be 'paper', 'equal', 'quantile' or 'geometric', was {kind!r}")
    if embeddings is None or prototypes is None:
        raise ValueError(f"embeddings and prototypes must be given for kind={kind!r}")
    check_vectors(embeddings, prototypes)
    if embeddings.shape[0] == 0 or prototypes.shape[0] == 0:
        raise ValueError(f"embeddings and prototypes must hold at least one row for {kind!r}")
    if weights is not None:
        check_tensor("weights", weights, shape=(embeddings.shape[0],), device=embeddings.device)
        if bool((weights < 0).any()):
            raise ValueError(f"weights must not be negative, held {weights.min().item()}")
    inner = torch.arange(1, num_tiers, dtype=torch.float64)
    shares = inner / num_tiers if kind == "quantile" else 1 - 0.5**inner
    edges = _quantile_edges(shares, embeddings.detach(), prototypes.detach(), weights, sample, seed)
    return _increasing(edges)


def tier_occupancy(table: Tensor, num_tiers: int, weights: Tensor | None = None) -> Tensor:
    """Share of all (item, code) pairs in each tier: float64 [N], summing to 1.

    Args:
        table: uint8 [V, K] of `tier_table`.
        num_tiers: N.
        weights: [V] weight of each item, such as its training events; None: all equal.

    A tier that holds next to nothing, or next to everything, tells a model nothing: choose other
    edges, or centre the vectors. Raises ValueError for wrong shapes or tiers out of range.
    """
    check_num_tiers(num_tiers)
    check_table(table, num_tiers, table.device)
    if weights is not None:
        check_tensor("weights", weights, shape=(table.shape[0],), device=table.device)
    mass = torch.zeros(num_tiers, dtype=torch.float64, device=table.device)
    for rows in chunks(table.shape[0], table.shape[1]):
        part = table[rows]
        weight = torch.ones(len(part), 1) if weights is None else weights[rows][:, None]
        weight = weight.to(mass.device, torch.float64).expand(part.shape)
        mass += torch.bincount(part.reshape(-1), weight.reshape(-1), num_tiers)
    return mass / mass.sum().clamp_min(torch.finfo(torch.float64).tiny)
