"""The trie's arrays from the C++ library: `glass::trie_build` and the operators beside it.

They return what `build` and `filter` return in plain PyTorch, several times faster.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glass_kernels.backend import active_backend
from glass_kernels.trie.build import TrieArrays
from glass_kernels.trie.library import AVAILABLE

Made = tuple[TrieArrays, tuple[int, ...]]
"""Arrays, and the most children of a node of each depth."""


def usable(device: torch.device) -> bool:
    """Whether the library takes tensors of `device`, and no other backend was asked for."""
    return AVAILABLE and device.type == "cpu" and active_backend() in (None, "cpp")


def _lists(arrays: TrieArrays) -> tuple[list[Tensor], list[Tensor]]:
    """Offsets and codes of L + 1 levels: the last leads from the leaves to the items."""
    return (
        [*arrays.child_offsets, arrays.item_offsets],
        [*arrays.child_codes, arrays.item_ids],
    )


def _arrays(tensors: Sequence[Tensor]) -> TrieArrays:
    half = len(tensors) // 2
    offsets, codes = tensors[:half], tensors[half:]
    return TrieArrays(tuple(offsets[:-1]), tuple(codes[:-1]), offsets[-1], codes[-1])


def build(sids: Tensor, codebook_sizes: tuple[int, ...]) -> Made:
    """`build.build_arrays`; RuntimeError for rows that `check_codes` refuses."""
    *tensors, most = torch.ops.glass.trie_build(sids, list(codebook_sizes))
    return _arrays(tensors), tuple(most.tolist())


def restrict(made: Made, kept: Tensor) -> Made | None:
    """Arrays of the items that are True in `kept` bool [catalogue_size]; None if there is none."""
    result = torch.ops.glass.trie_restrict(*_lists(made[0]), kept)
    if not result:
        return None
    *tensors, most = result
    now = tuple(new or old for new, old in zip(most.tolist(), made[1], strict=True))
    return _changed(made[0], tensors), now


def append(made: Made, added: TrieArrays) -> Made:
    """Arrays of both tries; RuntimeError if they share an item in a leaf."""
    *tensors, most = torch.ops.glass.trie_append(*_lists(made[0]), *_lists(added))
    now = tuple(max(new, old) for new, old in zip(most.tolist(), made[1], strict=True))
    return _changed(made[0], tensors), now


def _changed(old: TrieArrays, tensors: list[Tensor]) -> TrieArrays:
    """What an operator returned; what it left empty is shared with the `old` trie."""
    offsets, codes = _lists(old)
    both = zip(tensors, offsets + codes, strict=True)
    return _arrays([new if new.numel() else was for new, was in both])


def listed_nodes(
    arrays: TrieArrays,
    leaf_of_item: Tensor,
    exclude: tuple[Tensor, Tensor] | None,
    allow: tuple[Tensor, Tensor] | None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """`filter.listed_nodes`; RuntimeError for lists that `filter.check_lists` refuses."""
    none = (None, None)
    result = torch.ops.glass.trie_filter(
        *_lists(arrays), leaf_of_item, *(exclude or none), *(allow or none)
    )
    half = len(result) // 2
    return tuple(result[:half]), tuple(result[half:])
