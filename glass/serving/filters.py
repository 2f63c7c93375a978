"""Which items a request may get, as sorted arrays and as a filter of the search."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from glass.serving.history import Ints, among
from glass_kernels import SidTrie
from glass_kernels.jagged import lengths_to_offsets

if TYPE_CHECKING:
    from glass_kernels import TrieFilter

ItemLists = Collection[str] | Mapping[str, Collection[str]]
"""Raw item ids, for all users or for each."""


@dataclass(frozen=True)
class Wanted:
    """What one user may get."""

    allowed: Ints | None
    """Rising item ids; None: all."""
    excluded: Ints
    """Rising item ids, of those allowed."""

    def number(self, num_items: int) -> int:
        """How many items that is, of a catalogue of `num_items`."""
        if self.allowed is None:
            return num_items - len(self.excluded)
        return len(self.allowed) - int(among(self.allowed, self.excluded).sum())

    def mask(self, items: Ints) -> NDArray[np.bool_]:
        """Which of `items` [n] it is; not those below 0."""
        kept = (items >= 0) & ~among(items, self.excluded)
        return kept if self.allowed is None else kept & among(items, self.allowed)


def union(one: Ints, other: Ints) -> Ints:
    """Rising numbers of either."""
    return np.union1d(one, other) if len(one) and len(other) else (one if len(one) else other)


def trie_filter(trie: SidTrie, wanted: Sequence[Wanted]) -> TrieFilter | None:
    """Filter of B requests; None where nothing is filtered. All must be allowed all, or none."""
    exclude = allow = None
    if any(len(user.excluded) for user in wanted):
        exclude = _jagged([user.excluded for user in wanted], trie.device)
    lists = [user.allowed for user in wanted if user.allowed is not None]
    if lists:
        allow = _jagged(lists, trie.device)
    if exclude is None and allow is None:
        return None
    return trie.filter(exclude=exclude, allow=allow)


def _jagged(lists: Sequence[Ints], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.from_numpy(np.concatenate(lists).astype(np.int32)).to(device)
    lengths = torch.tensor([len(part) for part in lists], dtype=torch.int64, device=device)
    return values, lengths_to_offsets(lengths)
