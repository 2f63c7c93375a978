"""Which items a request may get: sorted item ids, and the filter of the search that they make."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glass.serving.history import Ints, among
from glass_kernels import SidTrie, TrieFilter
from glass_kernels.jagged import lengths_to_offsets, offsets_to_segments


class ItemSet:
    """Items that requests may be limited to; made by `Recommender.item_set`.

    What a search needs of them is worked out once and kept, so that a long list (in stock) costs
    next to nothing from the second request on.
    """

    def __init__(self, ids: Ints, trie: SidTrie) -> None:
        self.ids = ids
        """Rising item ids."""
        self._whole = trie

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def filter(self) -> TrieFilter:
        """Of one request."""
        return self._whole.filter(allow=_jagged([self.ids], self._whole.device))

    @cached_property
    def trie(self) -> SidTrie:
        """The trie of these items alone: node i of a depth is the i-th that `filter` keeps there.

        Raises ValueError if it would be empty.
        """
        return self._whole.restrict(torch.from_numpy(self.ids).to(self._whole.device))

    @property
    def num_nodes(self) -> int:
        """Nodes that `filter` lists."""
        return sum(len(nodes) for nodes in self.filter.nodes)


ItemLists = Collection[str] | ItemSet | Mapping[str, Collection[str] | ItemSet]
"""Raw item ids or a set, for all users or for each."""


@dataclass(frozen=True)
class Wanted:
    """What one user may get."""

    allowed: ItemSet | None
    """None: all."""
    excluded: Ints
    """Rising item ids."""

    def number(self, num_items: int) -> int:
        """How many items that is, of a catalogue of `num_items`."""
        if self.allowed is None:
            return num_items - len(self.excluded)
        return len(self.allowed) - int(among(self.excluded, self.allowed.ids).sum())

    def mask(self, items: Ints) -> NDArray[np.bool_]:
        """Which of `items` [n] it is; not those below 0."""
        kept = (items >= 0) & ~among(items, self.excluded)
        return kept if self.allowed is None else kept & among(items, self.allowed.ids)


def union(one: Ints, other: Ints) -> Ints:
    """Rising numbers of either."""
    return np.union1d(one, other) if len(one) and len(other) else (one if len(one) else other)


def trie_filter(trie: SidTrie, wanted: Sequence[Wanted]) -> TrieFilter | None:
    """Filter of B requests; None where nothing is filtered. All must be allowed all, or none."""
    sets = [user.allowed for user in wanted if user.allowed is not None]
    exclude = None
    if any(len(user.excluded) for user in wanted):
        exclude = _jagged([user.excluded for user in wanted], trie.device)
    if not sets:
        return None if exclude is None else trie.filter(exclude=exclude)
    if all(items is sets[0] for items in sets):
        return _of_one_set(sets[0], len(wanted), exclude)
    return trie.filter(exclude=exclude, allow=_jagged([items.ids for items in sets], trie.device))


def _of_one_set(
    items: ItemSet, num_users: int, exclude: tuple[Tensor, Tensor] | None
) -> TrieFilter:
    """`trie.filter` of users who all may get these items, and not those of `exclude`.

    The filter of one user is repeated for each, less the nodes that lose all of their items.
    """
    only = items.filter
    users = torch.arange(num_users + 1, device=only.device)
    if exclude is None or len(only.nodes[-1]) == 0:
        offsets = [users * len(listed) for listed in only.nodes]
        nodes = [listed.repeat(num_users) for listed in only.nodes]
        return replace(only, offsets=tuple(offsets), nodes=tuple(nodes))
    gone = items.trie.filter(exclude=exclude)
    offsets = [
        users * len(listed) - before
        for listed, before in zip(only.nodes, gone.offsets, strict=True)
    ]
    nodes = []
    for listed, before, lost in zip(only.nodes, gone.offsets, gone.nodes, strict=True):
        kept = np.ones((num_users, len(listed)), bool)
        kept[offsets_to_segments(before).cpu().numpy(), lost.cpu().numpy()] = False
        # By numpy, which takes a twentieth of torch's time for it.
        repeated = np.broadcast_to(listed.cpu().numpy(), kept.shape)[kept]
        nodes.append(torch.from_numpy(repeated).to(only.device))
    return replace(only, offsets=tuple(offsets), nodes=tuple(nodes))


def _jagged(lists: Sequence[Ints], device: torch.device) -> tuple[Tensor, Tensor]:
    values = torch.from_numpy(np.concatenate(lists).astype(np.int32)).to(device)
    lengths = torch.tensor([len(part) for part in lists], dtype=torch.int64, device=device)
    return values, lengths_to_offsets(lengths)
