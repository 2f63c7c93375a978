"""Tier of a cosine: shared by the table, the reference and the edges' helpers."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from glass_kernels.backend import active_backend
from glass_kernels.checks import FLOATS, check_tensor, checks_values
from glass_kernels.sid_tier.embeddings import AVAILABLE, tier_table_cpp

MAX_TIERS = 255
ORTHOGONAL = 2.0**-40
"""Cosines smaller than this are rounding noise around 0, and count as 0."""

_CHUNK_ELEMENTS = 1 << 22

Edges = Tensor | Sequence[float]

# table -> (version, largest byte): a table is looked at once, not at every call
_largest_byte: MutableMapping[Tensor, tuple[int, int]] = WeakIdKeyDictionary()


def chunks(total: int, width: int) -> Iterator[slice]:
    """Slices of range(total) whose rows of `width` numbers stay near 32 MiB in float64."""
    step = max(1, _CHUNK_ELEMENTS // max(width, 1))
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))


def check_num_tiers(num_tiers: int) -> None:
    if not isinstance(num_tiers, int) or not 1 <= num_tiers <= MAX_TIERS:
        raise ValueError(f"num_tiers must be an integer in [1, {MAX_TIERS}], was {num_tiers!r}")


def check_edges(edges: Edges, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Edges [N+1] as `dtype`; ValueError unless strictly increasing with 1 <= N <= 255."""
    tensor = torch.as_tensor(edges, device=device).to(dtype)
    if tensor.ndim != 1 or not 2 <= tensor.shape[0] <= MAX_TIERS + 1:
        raise ValueError(
            f"edges must hold N + 1 numbers with 1 <= N <= {MAX_TIERS}, "
            f"had shape {list(tensor.shape)}"
        )
    if checks_values(tensor) and not bool((tensor.diff() > 0).all()):
        raise ValueError(f"edges must be strictly increasing in {dtype}, were {tensor.tolist()}")
    return tensor


def check_table(table: Tensor, num_tiers: int, device: torch.device) -> None:
    """Checks that `table` is uint8 [V, K] on `device` with every tier below `num_tiers`."""
    check_tensor("table", table, ndim=2, dtypes=(torch.uint8,), device=device)
    if table.numel() == 0 or not checks_values(table):
        return
    version = -1 if table.is_inference() else table._version
    known = _largest_byte.get(table)
    if known is None or version < 0 or known[0] != version:
        known = (version, int(table.max()))
        _largest_byte[table] = known
    if known[1] >= num_tiers:
        raise ValueError(
            f"table must hold tiers below num_tiers = {num_tiers}, held {known[1]}; "
            "rebuild it with tier_table and the same edges"
        )


def check_vectors(item_embeddings: Tensor, prototypes: Tensor) -> None:
    check_tensor("item_embeddings", item_embeddings, ndim=2, dtypes=FLOATS)
    if item_embeddings.shape[1] < 1:
        raise ValueError("item_embeddings must have at least one column, had none")
    check_tensor(
        "prototypes",
        prototypes,
        shape=(None, item_embeddings.shape[1]),
        dtypes=FLOATS,
        device=item_embeddings.device,
    )


def unit_vectors(vectors: Tensor) -> Tensor:
    """Rows scaled to length 1, float64 [.., D]; zero and non-finite rows become zeros."""
    wide = vectors.to(torch.float64)
    # dividing by the largest entry first keeps the squares from overflowing
    largest = wide.abs().amax(-1, keepdim=True)
    usable = torch.isfinite(largest) & (largest > 0)
    scaled = torch.where(usable, wide / largest, 0.0)
    norm: Tensor = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return scaled / norm.clamp_min(1.0)  # at least 1 but for zero rows


def cosines(vectors: Tensor, unit_prototypes: Tensor) -> Tensor:
    """Cosines [n, K] of rows with prototypes already of unit length.

    Computed in float64 and rounded to float32 (float64 for float64 rows), so that the tier of an
    item does not depend on which rows are multiplied together. For the same reason a cosine below
    `ORTHOGONAL` is 0: what rounding leaves of orthogonal vectors has either sign.
    """
    result = unit_vectors(vectors) @ unit_prototypes.T
    result = torch.where(result.abs() < ORTHOGONAL, 0.0, result)
    return result if vectors.dtype == torch.float64 else result.to(torch.float32)


def edges_dtype(vectors: Tensor) -> torch.dtype:
    return torch.float64 if vectors.dtype == torch.float64 else torch.float32


def tier_of(similarity: Tensor, edges: Tensor) -> Tensor:
    """Tier uint8 of each similarity: how many inner edges are at or below it."""
    inner = edges[1:-1].contiguous()
    return torch.bucketize(similarity, inner, right=True, out_int32=True).to(torch.uint8)


@torch.no_grad()
def tier_table_reference(item_embeddings: Tensor, prototypes: Tensor, edges: Tensor) -> Tensor:
    """See `tier_table`; edges [N+1] as `check_edges` returns them."""
    num_items, num_codes = item_embeddings.shape[0], prototypes.shape[0]
    unit = unit_vectors(prototypes)
    table = item_embeddings.new_empty((num_items, num_codes), dtype=torch.uint8)
    for rows in chunks(num_items, max(num_codes, item_embeddings.shape[1])):
        table[rows] = tier_of(cosines(item_embeddings[rows], unit), edges)
    return table


@torch.no_grad()
def tier_table(item_embeddings: Tensor, prototypes: Tensor, edges: Edges) -> Tensor:
    """Tier of every (item, code) pair: uint8 [V, K], computed once a catalogue.

    GLASS (arXiv 2602.05663), SID-Tier: tier i holds the cosines s with edges[i] <= s < edges[i+1];
    the last tier is closed, and s outside the edges goes to the nearest tier. A zero or non-finite
    vector has cosine 0 with everything. Cosines are float64 rounded to float32. No gradient: the
    tier is piecewise constant.

    Args:
        item_embeddings: [V, D] float32, bfloat16, float16 or float64.
        prototypes: [K, D], see `glass_kernels.modules.sid_prototypes`.
        edges: [N+1] strictly increasing numbers, 1 <= N <= 255.

    Raises ValueError for wrong shapes, dtypes, devices or edges.
    """
    check_vectors(item_embeddings, prototypes)
    bounds = check_edges(edges, edges_dtype(item_embeddings), item_embeddings.device)
    chosen = active_backend()
    if AVAILABLE and item_embeddings.device.type == "cpu" and chosen in (None, "cpp"):
        return tier_table_cpp(item_embeddings, prototypes, bounds)
    return tier_table_reference(item_embeddings, prototypes, bounds)
