"""SID-Tier histograms of a catalogue: prototypes, edges, and the byte table or the vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from glass_kernels.checks import FLOATS, check_ids, check_tensor
from glass_kernels.modules.tier_edges import tier_occupancy
from glass_kernels.sid_tier import sid_tier, sid_tier_from_embeddings
from glass_kernels.sid_tier.tiers import check_edges, check_num_tiers, chunks, tier_table

TABLE_LIMIT = 2 << 30
"""Bytes of the largest table, 2 GiB: 16 million items with 128 codes."""


class TierHistogram(nn.Module):
    """How histories spread over the similarity tiers of every first-level code.

    A catalogue of at most `table_limit` bytes (V * K, one a pair of item and code) has a table and
    takes `sid_tier`. A larger one keeps its item vectors instead and takes
    `sid_tier_from_embeddings`; the histograms are the same on CPU, and on a GPU but for cosines
    within float32 rounding of an edge.

    Edges, prototypes and the table are in the state dict, the same on every backend. The item
    vectors are not: they would be copied into every checkpoint. A loaded module of a large
    catalogue needs `set_item_embeddings` before it counts, and says so.

    Args:
        num_items: V.
        num_codes: K, size of the first codebook.
        num_tiers: N, 1 to 255.
        embedding_dim: D, width of the item vectors behind the prototypes.
        table_limit: bytes of the largest table; 0: never a table.

    A new module is empty: call `rebuild` or load a state dict before anything else.
    """

    table: Tensor | None
    """uint8 [V, K]; None above the limit."""
    item_embeddings: Tensor | None
    """float32 [V, D] above the limit, once they are set; otherwise None."""
    edges: Tensor
    """float32 [N+1]"""
    prototypes: Tensor
    """float32 [K, D]"""
    version: int
    """Goes up whenever the tiers may have changed."""

    def __init__(
        self,
        num_items: int,
        num_codes: int,
        num_tiers: int,
        embedding_dim: int,
        *,
        table_limit: int = TABLE_LIMIT,
    ) -> None:
        super().__init__()
        check_num_tiers(num_tiers)
        if table_limit < 0:
            raise ValueError(f"table_limit must not be negative, was {table_limit}")
        self.num_items = num_items
        self.num_tiers = num_tiers
        self.table_limit = table_limit
        self.version = 0
        fits = num_items * num_codes <= table_limit
        empty = torch.zeros(num_items, num_codes, dtype=torch.uint8) if fits else None
        self.register_buffer("table", empty)
        self.register_buffer("edges", torch.linspace(-1.0, 1.0, num_tiers + 1))
        self.register_buffer("prototypes", torch.zeros(num_codes, embedding_dim))
        self.register_buffer("item_embeddings", None, persistent=False)

    @property
    def num_codes(self) -> int:
        """K."""
        return self.prototypes.shape[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Moves, but never rounds, what decides the tiers: `.half()` must not change them."""
        exact = ("edges", "prototypes", "item_embeddings")
        before = {name: getattr(self, name) for name in exact}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, was in before.items():
            now = getattr(self, name)
            if was is not None and now.dtype != was.dtype:
                setattr(self, name, was.to(now.device))
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """The state dict says whether there is a table, whatever `table_limit` says."""
        self.version += 1
        if f"{prefix}table" in state_dict:
            if self.table is None:
                shape = (self.num_items, self.num_codes)
                self.table = torch.zeros(shape, dtype=torch.uint8, device=self.edges.device)
            self.item_embeddings = None
        elif f"{prefix}edges" in state_dict:
            self.table = None
        super()._load_from_state_dict(state_dict, prefix, *rest)

    # --- what decides the tiers

    @torch.no_grad()
    def rebuild(self, embeddings: Tensor, prototypes: Tensor, edges: Tensor) -> None:
        """Sets prototypes [K, D] and edges [N+1], and the tiers of `embeddings` [V, D] with them.

        Call it when the SIDs change. Raises ValueError for wrong shapes, dtypes or edges.
        """
        check_tensor("prototypes", prototypes, shape=self.prototypes.shape, dtypes=FLOATS)
        check_tensor("edges", edges, shape=self.edges.shape)
        check_edges(edges, torch.float32, edges.device)
        check_tensor("embeddings", embeddings, shape=(None, self.prototypes.shape[1]))
        self.prototypes.copy_(prototypes)
        self.edges.copy_(edges)
        self.rebuild_table(embeddings)

    @torch.no_grad()
    def rebuild_table(self, embeddings: Tensor) -> None:
        """Sets the tiers of item vectors [V, D] with the edges and prototypes it has.

        V may differ from before: a catalogue that grew keeps its codes. The table is made anew, or
        dropped where it would pass `table_limit`.
        """
        check_tensor("embeddings", embeddings, shape=(None, self.prototypes.shape[1]))
        vectors = embeddings.detach().to(self.prototypes)
        self.num_items = vectors.shape[0]
        self.table = self.item_embeddings = None
        self.version += 1
        if self.num_items * self.num_codes <= self.table_limit:
            self.table = tier_table(vectors, self.prototypes, self.edges)
        else:
            self.item_embeddings = vectors

    def set_item_embeddings(self, embeddings: Tensor) -> None:
        """Gives a module that was loaded without a table its item vectors [V, D] back.

        They must be those of `rebuild`, as the tiers follow from them, and are kept, not copied.
        A module with a table needs none and ignores them.

        Raises ValueError for another shape.
        """
        shape = (self.num_items, self.prototypes.shape[1])
        check_tensor("embeddings", embeddings, shape=shape, dtypes=FLOATS)
        if self.table is None:
            self.rebuild_table(embeddings)

    def _embeddings(self) -> Tensor:
        if self.item_embeddings is None:
            raise ValueError(
                f"item_embeddings are missing: a table of {self.num_items} items x "
                f"{self.num_codes} codes passes table_limit = {self.table_limit} bytes, and a "
                "state dict holds no item vectors; call set_item_embeddings with those of the "
                "catalogue"
            )
        return self.item_embeddings

    # --- what follows from it

    def histogram(self, item_ids: Tensor, offsets: Tensor, *, normalize: bool = True) -> Tensor:
        """float32 [B, K, N] of the histories item_ids [T], offsets int64 [B+1]: see `sid_tier`.

        Raises ValueError for what `sid_tier` refuses, and for item vectors that are missing.
        """
        if self.table is not None:
            return sid_tier(item_ids, offsets, self.table, self.num_tiers, normalize=normalize)
        return sid_tier_from_embeddings(
            item_ids, offsets, self._embeddings(), self.prototypes, self.edges, normalize=normalize
        )

    def rows(self, item_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Table uint8 [R, K] and the row of it [E] of each of `item_ids` [E].

        What `sid_tier_update_` takes. Without a table the rows of these items are made now.
        """
        if self.table is not None:
            return self.table, item_ids
        check_ids("item_ids", item_ids, 0, self.num_items)
        items, row = item_ids.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        return tier_table(self._embeddings()[items], self.prototypes, self.edges), row

    def occupancy(self, weights: Tensor | None = None) -> Tensor:
        """`tier_occupancy` of all items: float64 [N]."""
        if self.table is not None:
            return tier_occupancy(self.table, self.num_tiers, weights)
        vectors = self._embeddings()
        if weights is not None:
            check_tensor("weights", weights, shape=(self.num_items,), device=vectors.device)
        mass = torch.zeros(self.num_tiers, dtype=torch.float64, device=vectors.device)
        for part in chunks(self.num_items, max(self.num_codes, vectors.shape[1])):
            table = tier_table(vectors[part], self.prototypes, self.edges)
            weight = None if weights is None else weights[part]
            total = float(len(table) if weight is None else weight.to(torch.float64).sum())
            mass += tier_occupancy(table, self.num_tiers, weight) * total
        return mass / mass.sum().clamp_min(torch.finfo(torch.float64).tiny)

    def tiers_digest(self, num_items: int | None = None) -> str:
        """Hash of all that decides the tiers of the first `num_items` items (None: of all).

        Hexadecimal, of the table, or above the limit of edges, prototypes and item vectors: it
        stays when a catalogue grows, and changes with any tier.
        """
        count = self.num_items if num_items is None else num_items
        digest = hashlib.sha256(f"{self.num_tiers} {count} {self.num_codes}".encode())
        if self.table is not None:
            held = [self.table[:count]]
        else:
            held = [self.edges, self.prototypes, self._embeddings()[:count]]
        for tensor in held:
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()
