"""Makes the flat arrays of a trie in plain PyTorch, without a loop over items.

`native` has the same in C++; these run on a GPU and without the library.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from glass_kernels.checks import INTEGERS, check_tensor

LARGEST_KEY = 2**62


class TrieArrays(NamedTuple):
    """The tensors of a `SidTrie`, all int32; see there for their meaning."""

    child_offsets: tuple[Tensor, ...]
    child_codes: tuple[Tensor, ...]
    item_offsets: Tensor
    item_ids: Tensor


def check_codebook_sizes(codebook_sizes: tuple[int, ...]) -> None:
    """Raises ValueError unless there is a level and each has between 1 and 2^31 - 1 codes."""
    if not codebook_sizes:
        raise ValueError("codebook_sizes is empty; it must hold the number of codes of each level")
    for level, size in enumerate(codebook_sizes):
        if not 0 < size < 2**31:
            raise ValueError(f"codebook_sizes[{level}] must be in [1, 2^31), was {size}")


def check_shape(sids: Tensor, codebook_sizes: tuple[int, ...]) -> None:
    """Raises ValueError unless `sids` is int [V, L] with V >= 1."""
    check_tensor("sids", sids, ndim=2, dtypes=INTEGERS)
    num_items, num_levels = sids.shape
    if num_levels != len(codebook_sizes):
        raise ValueError(
            f"sids has {num_levels} levels but codebook_sizes has {len(codebook_sizes)}; "
            "they must be the same"
        )
    if not 0 < num_items < 2**31:
        raise ValueError(f"sids must hold between 1 and 2^31 - 1 items, held {num_items}")


def check_codes(sids: Tensor, codebook_sizes: tuple[int, ...]) -> None:
    """Raises ValueError unless every row is a SID: codes in their codebooks, then -1 to the end.

    Looks at the values on a GPU too: a wrong code would be baked into the trie.
    """
    sizes = torch.tensor(codebook_sizes, device=sids.device)
    wrong = (sids < -1) | (sids >= sizes)
    ended = sids == -1
    wrong[:, 0] |= ended[:, 0]
    wrong[:, 1:] |= ended[:, :-1] & ~ended[:, 1:]
    if bool(wrong.any()):
        item, level = (int(place) for place in wrong.nonzero()[0])
        _refuse_code(sids[item].tolist(), item, level, codebook_sizes[level])


def _refuse_code(sid: list[int], item: int, level: int, size: int) -> None:
    if level == 0:
        rule = f"first codes must be in [0, {size}), and items without a SID must be left out"
    elif sid[level - 1] == -1:
        rule = "a SID that has ended with -1 must be -1 to its last level"
    else:
        rule = f"codes of level {level} must be in [0, {size}), or -1 where a shorter SID has ended"
    raise ValueError(f"sids[{item}, {level}] is {sid[level]}; {rule}")


def _key_groups(codebook_sizes: tuple[int, ...]) -> list[range]:
    """Splits the levels into runs whose codes, or the -1 of an end, fit one 63-bit key."""
    groups, first, product = [], 0, 1
    for level, size in enumerate(codebook_sizes):
        if product * (size + 1) > LARGEST_KEY:
            groups.append(range(first, level))
            first, product = level, 1
        product *= size + 1
    groups.append(range(first, len(codebook_sizes)))
    return groups


def _lexicographic_order(columns: tuple[Tensor, ...], codebook_sizes: tuple[int, ...]) -> Tensor:
    """Stable order int64 [V] of the rows whose level l is `columns[l]`."""
    order: Tensor | None = None
    for group in reversed(_key_groups(codebook_sizes)):
        key = columns[group[0]].to(torch.int64) + 1
        for level in group[1:]:
            key = key * (codebook_sizes[level] + 1) + (columns[level] + 1)
        if order is None:
            order = key.argsort(stable=True)
        else:
            order = order.index_select(0, key.index_select(0, order).argsort(stable=True))
    assert order is not None
    return order


def build_arrays(sids: Tensor, codebook_sizes: tuple[int, ...]) -> TrieArrays:
    """Arrays of the trie over `sids` int [V, L], which must have passed `check_codes`."""
    num_items, num_levels = sids.shape
    unsorted = tuple(sids.to(torch.int32).t().contiguous().unbind(0))
    order = _lexicographic_order(unsorted, codebook_sizes)
    # Whether a row of the sorted SIDs opens a node: one of its codes up to this level is new.
    opens = torch.zeros(num_items, dtype=torch.bool, device=sids.device)
    opens[0] = True
    starts = torch.zeros(1, dtype=torch.int64, device=sids.device)
    child_offsets, child_codes = [], []
    for level in range(num_levels):
        codes = unsorted[level].index_select(0, order)
        opens[1:] |= codes[1:] != codes[:-1]
        child_starts = opens.nonzero()[:, 0]
        ends = torch.cat((starts, starts.new_tensor([num_items])))
        child_offsets.append(torch.searchsorted(child_starts, ends, out_int32=True))
        child_codes.append(codes.index_select(0, child_starts))
        starts = child_starts
    item_offsets = torch.cat((starts, starts.new_tensor([num_items]))).to(torch.int32)
    return TrieArrays(tuple(child_offsets), tuple(child_codes), item_offsets, order.to(torch.int32))


def restrict_arrays(arrays: TrieArrays, kept_items: Tensor) -> TrieArrays:
    """Arrays without the items whose place in `item_ids` is False in `kept_items` bool [I].

    Counts what is kept under each node, level by level upwards; nothing is sorted again.
    """
    item_ids = arrays.item_ids.index_select(0, kept_items.nonzero()[:, 0])
    item_offsets, kept, rows = _restrict_offsets(arrays.item_offsets, kept_items)
    child_offsets, child_codes = [], []
    for offsets, codes in zip(
        reversed(arrays.child_offsets), reversed(arrays.child_codes), strict=True
    ):
        child_codes.append(codes.index_select(0, rows))
        restricted, kept, rows = _restrict_offsets(offsets, kept)
        child_offsets.append(restricted)
    return TrieArrays(
        tuple(reversed(child_offsets)), tuple(reversed(child_codes)), item_offsets, item_ids
    )


def _restrict_offsets(offsets: Tensor, kept_children: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets of the parents that keep a child; those parents as bool and as int64 rows."""
    before = torch.zeros(kept_children.shape[0] + 1, dtype=torch.int32, device=offsets.device)
    torch.cumsum(kept_children, 0, dtype=torch.int32, out=before[1:])
    bounds = before.index_select(0, offsets)
    kept = bounds[1:] > bounds[:-1]
    rows = kept.nonzero()[:, 0]
    return torch.cat((bounds[:1], bounds[1:].index_select(0, rows))), kept, rows


def append_arrays(
    arrays: TrieArrays,
    leaf_sids: Tensor,
    sids: Tensor,
    item_ids: Tensor,
    codebook_sizes: tuple[int, ...],
) -> TrieArrays:
    """Arrays with more items, built anew: `sids` int [n, L] with `item_ids` int [n]."""
    held = leaf_sids.repeat_interleave(arrays.item_offsets.diff(), dim=0)
    ids = torch.cat((arrays.item_ids, item_ids.to(torch.int32)))
    ids, order = ids.sort()
    merged = torch.cat((held, sids.to(torch.int32))).index_select(0, order)
    built = build_arrays(merged, codebook_sizes)
    return built._replace(item_ids=ids.index_select(0, built.item_ids))


def most_children(arrays: TrieArrays) -> tuple[int, ...]:
    """Most children of one node of each depth, L numbers."""
    return tuple(int(offsets.diff().max()) for offsets in arrays.child_offsets)
