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
from glass_kernels.trie import native
from glass_kernels.trie.build import (
    TrieArrays,
    append_arrays,
    build_arrays,
    check_codebook_sizes,
    check_codes,
    check_shape,
    most_children,
    restrict_arrays,
)
from glass_kernels.trie.filter import (
    ItemLists,
    TrieFilter,
    check_lists,
    check_values,
    listed_nodes,
)
from glass_kernels.trie.storage import load_arrays, save_arrays


@dataclass(frozen=True, eq=False, repr=False)
class SidTrie:
    """Every SID of a catalogue, sorted; made by `build` and `load`.

    It never changes: `restrict`, `delete` and `append` make another trie, which shares the tensors
    that would be equal.

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
    """Item ids are below this; a trie with fewer items keeps it."""
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
        arrays, most = _build(sids, sizes)
        return cls._of(sizes, sids.shape[0], arrays, most)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> SidTrie:
        """Reads what `save` wrote. Raises ValueError if the file is damaged or something else."""
        arrays, sizes, catalogue_size = load_arrays(path)
        return cls._of(sizes, catalogue_size, arrays, most_children(arrays)).to(device)

    @classmethod
    def _of(
        cls,
        codebook_sizes: tuple[int, ...],
        catalogue_size: int,
        arrays: TrieArrays,
        max_children: tuple[int, ...],
    ) -> SidTrie:
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
        """Items in the trie; fewer than `catalogue_size` once some were left out."""
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
        return self._keep("allowed_items", self._mask("allowed_items", allowed_items))

    def delete(self, item_ids: Tensor) -> SidTrie:
        """The trie without some items, in one pass without a sort: `restrict` to the others.

        Args:
            item_ids: int32 or int64 [A] item ids in any order, or bool [catalogue_size].
                Items that this trie does not hold are ignored.

        Raises ValueError for wrong shapes, ids outside the catalogue, or if no item remains.
        """
        return self._keep("item_ids", ~self._mask("item_ids", item_ids))

    def append(self, sids: Tensor, item_ids: Tensor | None = None) -> SidTrie:
        """The trie with n more items, merged without sorting those that it has.

        Equal to what `build` makes of all of them. On a GPU, and without the C++ library, all is
        sorted again.

        Args:
            sids: int32 or int64 [n, L], as in `build`.
            item_ids: int32 or int64 [n], ids that the trie does not hold, such as deleted ones.
                None: catalogue_size, catalogue_size + 1 ... In both cases `catalogue_size` grows as
                far as is needed.

        Raises ValueError for wrong shapes, dtypes or devices, a row that is no SID, and ids that
        are negative, repeated or in the trie already.
        """
        check_tensor("sids", sids, ndim=2, dtypes=INTEGERS, device=self.device)
        if sids.shape[0] == 0 and sids.shape[1] == self.num_levels:
            return self
        count, size = sids.shape[0], self.catalogue_size
        if item_ids is None:
            item_ids = torch.arange(size, size + count, device=self.device)
        else:
            item_ids = self._check_new(item_ids, count)
        largest = int(item_ids.max())
        if largest >= 2**31 - 1:
            raise ValueError(f"item_ids must be below 2^31 - 1, reached {largest}")
        # The trie of the new items has them in the order of their ids.
        item_ids, order = item_ids.sort()
        added, _ = _build(sids.index_select(0, order), self.codebook_sizes)
        added = added._replace(item_ids=item_ids.to(torch.int32).index_select(0, added.item_ids))
        if native.usable(self.device):
            made = native.append((self._arrays, self.max_children), added)
        else:
            arrays = append_arrays(
                self._arrays, self.leaf_sids(), sids.index_select(0, order), item_ids,
                self.codebook_sizes,
            )  # fmt: skip
            made = arrays, most_children(arrays)
        return self._of(self.codebook_sizes, max(size, largest + 1), *made)

    def _check_new(self, item_ids: Tensor, count: int) -> Tensor:
        check_tensor("item_ids", item_ids, shape=(count,), dtypes=INTEGERS, device=self.device)
        smallest = int(item_ids.min())
        if smallest < 0:
            raise ValueError(f"item_ids must be at least 0, held {smallest}")
        rising = item_ids.sort().values
        again = rising[1:][rising[1:] == rising[:-1]]
        if again.shape[0]:
            raise ValueError(f"item_ids must be distinct, held {int(again[0])} twice")
        if smallest < self.catalogue_size:
            old = torch.zeros(self.catalogue_size, dtype=torch.bool, device=self.device)
            old[item_ids[item_ids < self.catalogue_size]] = True
            held = self.item_ids[old.index_select(0, self.item_ids)]
            if held.shape[0]:
                raise ValueError(
                    f"item_ids must be new, but the trie holds {int(held[0])}; delete it first"
                )
        return item_ids

    def _keep(self, name: str, kept: Tensor) -> SidTrie:
        """The trie of the items that are True in `kept` bool [catalogue_size]."""
        made: tuple[TrieArrays, tuple[int, ...]] | None = None
        if native.usable(self.device):
            made = native.restrict((self._arrays, self.max_children), kept)
        else:
            places = kept.index_select(0, self.item_ids)
            if bool(places.any()):
                arrays = restrict_arrays(self._arrays, places)
                made = arrays, most_children(arrays)
        if made is None:
            raise ValueError(f"{name} leaves no item of this trie; a trie needs at least one item")
        return self._of(self.codebook_sizes, self.catalogue_size, *made)

    def _mask(self, name: str, items: Tensor) -> Tensor:
        """bool [catalogue_size] of ids, or of what is such a mask already."""
        size = self.catalogue_size
        check_tensor(name, items, ndim=1, dtypes=(*INTEGERS, torch.bool), device=self.device)
        if items.dtype == torch.bool:
            check_tensor(f"{name} (as a mask)", items, shape=(size,))
            return items
        outside = (items < 0) | (items >= size)
        if bool(outside.any()):
            raise ValueError(f"{name} must be in [0, {size}), held {int(items[outside][0])}")
        mask = torch.zeros(size, dtype=torch.bool, device=self.device)
        mask[items] = True
        return mask

    def filter(
        self,
        *,
        exclude: ItemLists | None = None,
        allow: ItemLists | None = None,
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
        or devices, or ids outside the catalogue.
        """
        exclude, allow = check_lists(exclude, allow, self.device)
        arguments = (self._arrays, self._leaf_of_item, exclude, allow)
        if native.usable(self.device):
            try:  # the kernel looks at every value anyway
                offsets, nodes = native.listed_nodes(*arguments)
            except RuntimeError:
                check_values(exclude, allow, self.catalogue_size)
                raise
        else:
            check_values(exclude, allow, self.catalogue_size)
            offsets, nodes = listed_nodes(*arguments)
        return TrieFilter(offsets, nodes, allow is not None, self.nodes_per_depth)

    @cached_property
    def _leaf_of_item(self) -> Tensor:
        """int32 [catalogue_size]; -1: this trie does not hold the item."""
        leaves = torch.full((self.catalogue_size,), -1, dtype=torch.int32, device=self.device)
        of_places = offsets_to_segments(self.item_offsets.to(torch.int64), self.num_items)
        return leaves.index_copy_(0, self.item_ids.to(torch.int64), of_places.to(torch.int32))

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


def _build(sids: Tensor, codebook_sizes: tuple[int, ...]) -> tuple[TrieArrays, tuple[int, ...]]:
    """Arrays of the trie over `sids`, checked, and the most children of each depth."""
    check_shape(sids, codebook_sizes)
    if native.usable(sids.device):
        try:  # the kernel looks at every code anyway
            return native.build(sids, codebook_sizes)
        except RuntimeError:
            check_codes(sids, codebook_sizes)
            raise
    check_codes(sids, codebook_sizes)
    arrays = build_arrays(sids, codebook_sizes)
    return arrays, most_children(arrays)
