"""Removes items from a search, request by request: lists of trie nodes instead of a mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glass_kernels.checks import INTEGERS, check_offsets, check_tensor
from glass_kernels.jagged import lengths_to_offsets, offsets_to_segments
from glass_kernels.trie.build import TrieArrays


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


ItemLists = tuple[Tensor, Tensor]
"""Items of each request: (item_ids int [T], offsets int64 [B + 1])."""


def check_lists(
    exclude: ItemLists | None, allow: ItemLists | None, device: torch.device
) -> tuple[ItemLists | None, ItemLists | None]:
    """The lists as pairs of tensors of the right shapes and dtypes, or ValueError."""
    if exclude is None and allow is None:
        raise ValueError("filter needs exclude or allow; without a filter, pass filter=None")
    lists = [_check_list(name, items, device) for name, items in _named(exclude, allow)]
    requests = {offsets.shape[0] - 1 for _, offsets in lists}
    if len(requests) > 1:
        raise ValueError(
            "exclude and allow must have the same number of requests, had "
            f"{lists[0][1].shape[0] - 1} and {lists[1][1].shape[0] - 1}"
        )
    return (None if exclude is None else lists[0]), (None if allow is None else lists[-1])


def _named(exclude: ItemLists | None, allow: ItemLists | None) -> list[tuple[str, ItemLists]]:
    both = (("exclude", exclude), ("allow", allow))
    return [(name, items) for name, items in both if items is not None]


def _check_list(name: str, items: ItemLists, device: torch.device) -> ItemLists:
    if not isinstance(items, tuple | list) or len(items) != 2:
        raise ValueError(
            f"{name} must be a pair (item_ids [T], offsets [B+1]), was {type(items).__name__}"
        )
    item_ids, offsets = items
    check_tensor(f"{name} item_ids", item_ids, ndim=1, dtypes=INTEGERS, device=device)
    check_tensor(f"{name} offsets", offsets, ndim=1, dtypes=(torch.int64,), device=device)
    if offsets.shape[0] < 1:
        raise ValueError(f"{name} offsets must have B + 1 >= 1 entries, was empty")
    return item_ids, offsets


def check_values(exclude: ItemLists | None, allow: ItemLists | None, catalogue_size: int) -> None:
    """Raises ValueError for offsets that do not add up and items outside of the catalogue."""
    for name, items in _named(exclude, allow):
        _check_values(name, items, catalogue_size)


def _check_values(name: str, items: ItemLists, catalogue_size: int) -> None:
    item_ids, offsets = items
    check_offsets(f"{name} offsets", offsets, item_ids.shape[0])
    outside = (item_ids < 0) | (item_ids >= catalogue_size)
    if bool(outside.any()):  # on a GPU too: making a filter waits for it anyway
        wrong = int(item_ids[outside][0])
        raise ValueError(f"{name} item_ids must be in [0, {catalogue_size}), held {wrong}")


def item_pairs(
    name: str, items: ItemLists, catalogue_size: int, device: torch.device
) -> tuple[Tensor, int]:
    """Distinct (request, item) of a list as request * catalogue_size + item, rising; and B.

    Raises ValueError if `items` is not (item_ids int [T], offsets int64 [B + 1]) of the catalogue.
    """
    items = _check_list(name, items, device)
    _check_values(name, items, catalogue_size)
    return _distinct(items, catalogue_size), items[1].shape[0] - 1


def _distinct(items: ItemLists, catalogue_size: int) -> Tensor:
    rows = offsets_to_segments(items[1], items[0].shape[0])
    pairs: Tensor = torch.unique(rows * catalogue_size + items[0])  # rising
    return pairs


def listed_nodes(
    arrays: TrieArrays, leaf_of_item: Tensor, exclude: ItemLists | None, allow: ItemLists | None
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """(offsets, nodes) of a `TrieFilter`; `leaf_of_item` int32 [catalogue_size], -1: not held.

    From the leaves upwards: with `allow`, a node is listed if one of its children is; without, if
    all of them are. The cost depends on the lists, not on the catalogue.
    """
    pairs, num_requests = _pairs(exclude, allow, leaf_of_item.shape[0])
    rows, items = _split(pairs, leaf_of_item.shape[0])
    nodes = leaf_of_item.index_select(0, items)
    held, num_leaves = nodes >= 0, arrays.item_offsets.shape[0] - 1
    # Items within a leaf need not be next to each other in the list of a request.
    rows, nodes = _split((rows[held] * num_leaves + nodes[held]).sort().values, num_leaves)
    listed_offsets, listed = [], []
    for bounds, parents in zip(
        (arrays.item_offsets, *reversed(arrays.child_offsets[1:])),
        reversed(arrays.child_offsets),
        strict=True,
    ):
        rows, nodes = _merge(rows, nodes, bounds if allow is None else None)
        listed_offsets.append(lengths_to_offsets(torch.bincount(rows, minlength=num_requests)))
        listed.append(nodes.to(torch.int32))
        nodes = torch.searchsorted(parents, listed[-1], right=True) - 1
    return tuple(reversed(listed_offsets)), tuple(reversed(listed))


def _split(pairs: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """(row, column) of row * size + column."""
    rows = pairs.div(size, rounding_mode="floor")
    return rows, pairs - rows * size


def _pairs(
    exclude: ItemLists | None, allow: ItemLists | None, catalogue_size: int
) -> tuple[Tensor, int]:
    """Distinct (request, item), as request * catalogue_size + item: all excluded, or those allowed
    that are not excluded. And the number of requests."""
    lists = [items for _, items in _named(exclude, allow)]
    keys = [_distinct(items, catalogue_size) for items in lists]
    pairs = keys[-1]
    if len(keys) == 2:
        pairs = pairs[~torch.isin(pairs, keys[0], assume_unique=True)]
    return pairs, lists[0][1].shape[0] - 1


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
