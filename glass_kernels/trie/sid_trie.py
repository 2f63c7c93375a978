"""The catalogue's semantic IDs as a trie of flat arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from glass_kernels.checks import INTEGERS, check_tensor
from glass_kernels.jagged import lengths_to_offsets, offsets_to_segments
from glass_kernels.trie.build import (
    TrieArrays,
    build_arrays,
    check_codebook_sizes,
    check_sids,
    restrict_arrays,
)
from glass_kernels.trie.filter import TrieFilter, item_pairs, listed_nodes
from glass_kernels.trie.storage import load_arrays, save_arrays


@dataclass(frozen=True, eq=False, repr=False)
class SidTrie:
    """Every SID of a catalogue, sorted; made by `build`, `load` and `restrict`.

    Depth d has one node for each distinct prefix of d codes, numbered from 0 in lexicographic
    order. Depth 0 is the root, depth L the leaves, one for each distinct SID. The children of node
    n of depth d are the nodes child_offsets[d][n] : child_offsets[d][n + 1] of depth d + 1, in
    rising order of their codes.

    A SID may be shorter than L. It has ended where its code is -1, and goes on down to depth L with
    one node of code -1 at each depth, so that all leaves are at depth L. A node can have the end of
    a SID, always as its first child, beside the codes of longer ones.
    """

    codebook_sizes: tuple[int, ...]
    """Codes of each level, L numbers."""
    child_offsets: tuple[Tensor, ...]
    """L tensors, int32 [nodes of depth d + 1]: where the children of a node of depth d start."""
    child_codes: tuple[Tensor, ...]
    """L tensors, int32 [nodes of depth d + 1]: the last code of each prefix of d + 1 codes; -1:
    the SID has ended."""
    item_offsets: Tensor
    """int32 [leaves + 1]: where the items of a leaf start in `item_ids`."""
    item_ids: Tensor
    """int32 [items]: the items leaf by leaf, rising within a leaf."""
    catalogue_size: int
    """Item ids are below this; a restricted trie keeps it."""
    max_children: tuple[int, ...]
    """Most children of one node of each depth, L numbers."""

    @classmethod
    def build(cls, sids: Tensor, codebook_sizes: Sequence[int]) -> SidTrie:
        """The trie of a catalogue whose item i has the SID `sids[i]`.

        Args:
            sids: int32 or int64 [V, L], on any device. Items may share a SID. A SID shorter than
                L has -1 after its last code; one may be the beginning of another.
            codebook_sizes: number of codes of each level, L numbers.

        Raises ValueError for an empty catalogue, wrong shapes, a code outside its codebook, a SID
        without a first code, or one with codes after a -1.
        """
        sizes = tuple(int(size) for size in codebook_sizes)
        check_codebook_sizes(sizes)
        check_sids(sids, sizes)
        return cls._from_arrays(build_arrays(sids, sizes), sizes, sids.shape[0])

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> SidTrie:
        """Reads what `save` wrote. Raises ValueError if the file is damaged or something else."""
        arrays, sizes, catalogue_size = load_arrays(path)
        return cls._from_arrays(arrays, sizes, catalogue_size).to(device)

    @classmethod
    def _from_arrays(
        cls, arrays: TrieArrays, codebook_sizes: tuple[int, ...], catalogue_size: int
    ) -> SidTrie:
        max_children = tuple(int(offsets.diff().max()) for offsets in arrays.child_offsets)
        return cls(codebook_sizes, *arrays, catalogue_size, max_children)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the trie as safetensors, to a temporary name that is then renamed."""
        save_arrays(path, self._arrays, self.codebook_sizes, self.catalogue_size)

    @property
    def _arrays(self) -> TrieArrays:
        return TrieArrays(self.child_offsets, self.child_codes, self.item_offsets, self.item_ids)

    @property
    def num_levels(self) -> int:
        """L, the codes of a SID."""
        return len(self.codebook_sizes)

    @property
    def nodes_per_depth(self) -> tuple[int, ...]:
        """Nodes of each depth, L + 1 numbers from the root to the leaves."""
        return (1, *(codes.shape[0] for codes in self.child_codes))

    @property
    def num_nodes(self) -> int:
        """Nodes of all depths, the root among them."""
        return sum(self.nodes_per_depth)

    @property
    def num_leaves(self) -> int:
        """Distinct SIDs."""
        return self.nodes_per_depth[-1]

    @property
    def num_items(self) -> int:
        """Items in the trie; fewer than `catalogue_size` after `restrict`."""
        return self.item_ids.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        tensors = (*self.child_offsets, *self.child_codes, self.item_offsets, self.item_ids)
        return sum(tensor.nbytes for tensor in tensors)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.item_ids.device

    def to(self, device: torch.device | str) -> SidTrie:
        """The same trie on `device`; tensors already there are shared."""
        return SidTrie(
            self.codebook_sizes,
            tuple(offsets.to(device) for offsets in self.child_offsets),
            tuple(codes.to(device) for codes in self.child_codes),
            self.item_offsets.to(device),
            self.item_ids.to(device),
            self.catalogue_size,
            self.max_children,
        )

    def __repr__(self) -> str:
        return (
            f"SidTrie({self.num_items} items, {self.num_leaves} SIDs, {self.num_nodes} nodes, "
            f"codebook_sizes={self.codebook_sizes}, device={str(self.device)!r})"
        )

    def restrict(self, allowed_items: Tensor) -> SidTrie:
        """The trie of a subset of the catalogue (in stock, fresh), in one pass without a sort.

        Nodes are numbered anew, as `build` over the subset would; item ids stay what they were.

        Args:
            allowed_items: int32 or int64 [A] item ids in any order, or bool [catalogue_size].
                Items that this trie does not hold are ignored.

        Raises ValueError for wrong shapes, ids outside the catalogue, or if no item remains.
        """
        allowed = self._allowed_mask(allowed_items)
        kept = allowed.index_select(0, self.item_ids)
        if not bool(kept.any()):
            raise ValueError(
                "allowed_items leaves no item of this trie; a trie needs at least one item"
            )
        arrays = restrict_arrays(self._arrays, kept)
        return self._from_arrays(arrays, self.codebook_sizes, self.catalogue_size)

    def filter(
        self,
        *,
        exclude: tuple[Tensor, Tensor] | None = None,
        allow: tuple[Tensor, Tensor] | None = None,
    ) -> TrieFilter:
        """Items that each request must not get (seen ones), or alone may get (an allowed set).

        For `trie_beam_step(..., filter=...)`. Unlike with `restrict` the probabilities stay those
        of the whole trie. A SID is removed once no item of it is left. With both, what is allowed
        and not excluded may be generated. A request that allows nothing ends with dead beams only.

        The cost depends on the items listed; the first call on a trie also looks up the leaf of
        every item, which the trie keeps (4 bytes an item of the catalogue, not in `nbytes`).

        Args:
            exclude: (item_ids int32 or int64 [T], offsets int64 [B+1]); request b excludes
                item_ids[offsets[b] : offsets[b + 1]], in any order. Items of the catalogue that
                this trie does not hold are ignored.
            allow: likewise.

        Raises ValueError without either, for different numbers of requests, wrong shapes, dtypes
        or devices, or ids outside the catalogue (on a GPU only under GLASS_CHECK=1).
        """
        size, device = self.catalogue_size, self.device
        if exclude is None and allow is None:
            raise ValueError("filter needs exclude or allow; without a filter, pass filter=None")
        if exclude is not None:
            excluded, num_requests = item_pairs("exclude", exclude, size, device)
        if allow is not None:
            pairs, num_allowing = item_pairs("allow", allow, size, device)
        if exclude is None:
            num_requests = num_allowing
        elif allow is None:
            pairs = excluded
        elif num_allowing != num_requests:
            raise ValueError(
                f"exclude and allow must have the same number of requests, had {num_requests} "
                f"and {num_allowing}"
            )
        else:
            pairs = pairs[~torch.isin(pairs, excluded, assume_unique=True)]
        keeps = allow is not None
        offsets, nodes = listed_nodes(
            pairs, keeps, num_requests, size, self._leaf_of_item, self.item_offsets,
            self.child_offsets,
        )  # fmt: skip
        return TrieFilter(offsets, nodes, keeps, self.nodes_per_depth)

    @cached_property
    def _leaf_of_item(self) -> Tensor:
        """int32 [catalogue_size]; -1: this trie does not hold the item."""
        leaves = torch.full((self.catalogue_size,), -1, dtype=torch.int32, device=self.device)
        of_places = offsets_to_segments(self.item_offsets.to(torch.int64), self.num_items)
        return leaves.index_copy_(0, self.item_ids.to(torch.int64), of_places.to(torch.int32))

    def _allowed_mask(self, allowed_items: Tensor) -> Tensor:
        size = self.catalogue_size
        check_tensor(
            "allowed_items",
            allowed_items,
            ndim=1,
            dtypes=(*INTEGERS, torch.bool),
            device=self.device,
        )
        if allowed_items.dtype == torch.bool:
            check_tensor("allowed_items (as a mask)", allowed_items, shape=(size,))
            return allowed_items
        outside = (allowed_items < 0) | (allowed_items >= size)
        if bool(outside.any()):
            wrong = int(allowed_items[outside][0])
            raise ValueError(f"allowed_items must be in [0, {size}), held {wrong}")
        mask = torch.zeros(size, dtype=torch.bool, device=self.device)
        mask[allowed_items] = True
        return mask

    def lookup(self, sids: Tensor) -> Tensor:
        """Leaf of each SID: `sids` int [..., L] -> int32 [...], -1 where the trie lacks the SID.

        Codes outside their codebook are in no SID, and neither are the -1 of a dead beam: a SID
        that has ended has a first code. Raises ValueError for wrong shapes.
        """
        check_tensor("sids", sids, dtypes=INTEGERS, device=self.device)
        if sids.ndim == 0 or sids.shape[-1] != self.num_levels:
            raise ValueError(
                f"sids must have shape [..., {self.num_levels}], had {list(sids.shape)}"
            )
        codes = sids.reshape(-1, self.num_levels).t()
        leaves = torch.zeros(codes.shape[1], dtype=torch.int32, device=self.device)
        for level in range(self.num_levels):
            leaves = self._find_child(level, leaves, codes[level])
        return leaves.reshape(sids.shape[:-1])

    def _find_child(self, level: int, nodes: Tensor, codes: Tensor) -> Tensor:
        """Child with `codes` [n] of the `nodes` int32 [n] of a depth: int32 [n], -1: none.

        All rows bisect their own range of children in step, so the cost does not depend on the
        number of nodes.
        """
        child_offsets, child_codes = self.child_offsets[level], self.child_codes[level]
        parent = nodes.clamp(min=0)
        low, stop = child_offsets.index_select(0, parent), child_offsets.index_select(0, parent + 1)
        high, last = stop, child_codes.shape[0] - 1
        for _ in range(self.max_children[level].bit_length()):
            middle = low + ((high - low) >> 1)
            code = child_codes.index_select(0, middle.clamp(max=last))
            right = (low < high) & (code < codes)
            low, high = torch.where(right, middle + 1, low), torch.where(right, high, middle)
        code = child_codes.index_select(0, low.clamp(max=last))
        found = (nodes >= 0) & (low < stop) & (code == codes)
        return torch.where(found, low, -1)

    def items(self, sids: Tensor) -> tuple[Tensor, Tensor]:
        """All items of each SID, as a jagged tensor.

        Args:
            sids: int [..., L], n SIDs in all; a SID that the trie lacks has no items.

        Returns (item ids int32 [T], offsets int64 [n + 1]): the items of the i-th SID, counted row
        by row, are values[offsets[i] : offsets[i + 1]], rising. Raises ValueError for wrong shapes.
        """
        leaves = self.lookup(sids).flatten().to(torch.int64)
        first = self.item_offsets[leaves.clamp(min=0)].to(torch.int64)
        stop = self.item_offsets[leaves.clamp(min=0) + 1].to(torch.int64)
        offsets = lengths_to_offsets(torch.where(leaves >= 0, stop - first, 0))
        rows = offsets_to_segments(offsets)
        places = torch.arange(rows.shape[0], device=self.device) - offsets[rows] + first[rows]
        return self.item_ids[places], offsets

    def leaf_sids(self) -> Tensor:
        """The SID of each leaf: int32 [leaves, L], in lexicographic order, ended ones with -1."""
        nodes = torch.arange(self.num_leaves, device=self.device)
        columns = []
        for level in reversed(range(self.num_levels)):
            columns.append(self.child_codes[level][nodes])
            parents = offsets_to_segments(
                self.child_offsets[level].to(torch.int64), self.child_codes[level].shape[0]
            )
            nodes = parents[nodes]
        return torch.stack(columns[::-1], dim=1)
