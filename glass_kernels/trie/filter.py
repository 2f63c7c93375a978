"""Removes items from a search, request by request: lists of trie nodes instead of a mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glass_kernels.checks import INTEGERS, check_ids, check_offsets, check_tensor
from glass_kernels.jagged import lengths_to_offsets, offsets_to_segments


@dataclass(frozen=True, eq=False, repr=False)
class TrieFilter:
    """Items that B requests must not get, or alone may get; made by `SidTrie.filter`.

    Request b lists the nodes nodes[l][offsets[l][b] : offsets[l][b + 1]] among those that level l
    generates, in rising order. They are removed, or with `keeps` all others are. A filter takes
    candidates away and leaves the probabilities of the others as they are.
    """

    offsets: tuple[Tensor, ...]
    """L tensors, int64 [B + 1]: where the nodes of a request start."""
    nodes: tuple[Tensor, ...]
    """L tensors, int32: nodes of depth l + 1."""
    keeps: bool
    """Only the listed nodes may be generated, instead of all others."""
    nodes_per_depth: tuple[int, ...]
    """Of the trie that it was made for."""

    def __len__(self) -> int:
        """B, the requests."""
        return self.offsets[0].shape[0] - 1

    def __repr__(self) -> str:
        return (
            f"TrieFilter({len(self)} requests, {'keeps' if self.keeps else 'removes'} "
            f"{self.nodes[-1].shape[0]} SIDs, device={str(self.device)!r})"
        )

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.nodes[0].device

    def to(self, device: torch.device | str) -> TrieFilter:
        """The same filter on `device`; tensors already there are shared."""
        return TrieFilter(
            tuple(offsets.to(device) for offsets in self.offsets),
            tuple(nodes.to(device) for nodes in self.nodes),
            self.keeps,
            self.nodes_per_depth,
        )


def item_pairs(
    name: str, items: tuple[Tensor, Tensor], catalogue_size: int, device: torch.device
) -> tuple[Tensor, int]:
    """Distinct (request, item) of a jagged list as request * catalogue_size + item, rising; and B.

    Raises ValueError if `items` is not (item_ids int [T], offsets int64 [B + 1]) of the catalogue.
    """
    if not isinstance(items, tuple | list) or len(items) != 2:
        raise ValueError(
            f"{name} must be a pair (item_ids [T], offsets [B+1]), was {type(items).__name__}"
        )
    item_ids, offsets = items
    check_tensor(f"{name} item_ids", item_ids, ndim=1, dtypes=INTEGERS, device=device)
    check_tensor(f"{name} offsets", offsets, ndim=1, dtypes=(torch.int64,), device=device)
    check_offsets(f"{name} offsets", offsets, item_ids.shape[0])
    check_ids(f"{name} item_ids", item_ids, 0, catalogue_size)
    rows = offsets_to_segments(offsets, item_ids.shape[0])
    pairs = torch.unique(rows * catalogue_size + item_ids)
    return pairs, offsets.shape[0] - 1


def listed_nodes(
    pairs: Tensor,
    keeps: bool,
    num_requests: int,
    catalogue_size: int,
    leaf_of_item: Tensor,
    item_offsets: Tensor,
    child_offsets: tuple[Tensor, ...],
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """(offsets, nodes) of a `TrieFilter` over the (request, item) `pairs` of `item_pairs`.

    From the leaves upwards: with `keeps`, a node is listed if one of its children is; without, if
    all of them are. The cost depends on the pairs, not on the catalogue.
    """
    rows = pairs.div(catalogue_size, rounding_mode="floor")
    nodes = leaf_of_item.index_select(0, pairs - rows * catalogue_size)
    held = nodes >= 0
    # Items within a leaf need not be next to each other in the list of a request.
    keys = (rows[held] * item_offsets.shape[0] + nodes[held]).sort().values
    rows = keys.div(item_offsets.shape[0], rounding_mode="floor")
    nodes = keys - rows * item_offsets.shape[0]
    listed_offsets, listed = [], []
    for bounds, parents in zip(
        (item_offsets, *reversed(child_offsets[1:])), reversed(child_offsets), strict=True
    ):
        rows, nodes = _merge(rows, nodes, None if keeps else bounds)
        listed_offsets.append(lengths_to_offsets(torch.bincount(rows, minlength=num_requests)))
        listed.append(nodes.to(torch.int32))
        nodes = torch.searchsorted(parents, listed[-1], right=True) - 1
    return tuple(reversed(listed_offsets)), tuple(reversed(listed))


def _merge(rows: Tensor, nodes: Tensor, bounds: Tensor | None) -> tuple[Tensor, Tensor]:
    """Each (row, node) of the rising lists once; with `bounds`, if all of its entries are there."""
    opens = torch.ones_like(rows, dtype=torch.bool)
    opens[1:] = (rows[1:] != rows[:-1]) | (nodes[1:] != nodes[:-1])
    places = opens.nonzero()[:, 0]
    rows, nodes = rows.index_select(0, places), nodes.index_select(0, places)
    if bounds is None:
        return rows, nodes
    counts = torch.cat((places, places.new_tensor([opens.shape[0]]))).diff()
    whole = counts == bounds.index_select(0, nodes + 1) - bounds.index_select(0, nodes)
    return rows[whole], nodes[whole]
