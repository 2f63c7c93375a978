"""Filters of some of the requests of a `TrieFilter`, and of single beams."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from glass_kernels import SidTrie, TrieFilter, lengths_to_offsets
from glass_kernels.jagged import offsets_to_segments


def pieces(values: Tensor, first: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
    """values[first[i] : stop[i]], one after another, and their offsets int64 [n + 1]."""
    offsets = lengths_to_offsets(stop - first)
    rows = offsets_to_segments(offsets)
    place = torch.arange(rows.shape[0], device=values.device) + (first - offsets[:-1])[rows]
    return values[place], offsets


def check_filter(only: TrieFilter, trie: SidTrie, size: int) -> None:
    """Raises ValueError unless `only` is a filter of `size` users of this trie."""
    if not isinstance(only, TrieFilter):
        raise ValueError(
            f"filter must be the TrieFilter of trie.filter(), was {type(only).__name__}"
        )
    if len(only) != size:
        raise ValueError(f"filter must be of the {size} users of the batch, was of {len(only)}")
    if only.nodes_per_depth != trie.nodes_per_depth:
        raise ValueError("filter was made for another trie; make it with trie.filter()")
    if only.device != trie.device:
        raise ValueError(
            f"filter must be on {trie.device} like the trie, was on {only.device}; move it once "
            "with filter.to(device)"
        )


def of_requests(only: TrieFilter, rows: Tensor) -> TrieFilter:
    """The filter of requests `rows` int64 [b], in their order."""
    found = [
        pieces(nodes, offsets[rows], offsets[rows + 1])
        for nodes, offsets in zip(only.nodes, only.offsets, strict=True)
    ]
    nodes, offsets = zip(*found, strict=True)
    return replace(only, nodes=nodes, offsets=offsets)


def cut_to_children(only: TrieFilter, trie: SidTrie, level: int, nodes: Tensor) -> TrieFilter:
    """A filter in which each of the beams on `nodes` [B, W] is a request of its own.

    Of its user's nodes it lists the beam's children alone, so all lists together are no longer
    than the candidates. Good for `level` only.
    """
    offsets, listed = only.offsets[level], only.nodes[level]
    count = trie.nodes_per_depth[level + 1]
    # (request, node) as one number: rising, so that one bisection serves all requests.
    keys = offsets_to_segments(offsets, listed.shape[0]) * count + listed
    request = torch.arange(nodes.shape[0], device=nodes.device)[:, None] * count
    parent = nodes.long().clamp(min=0)
    first = torch.searchsorted(keys, request + trie.child_offsets[level][parent])
    stop = torch.searchsorted(keys, request + trie.child_offsets[level][parent + 1])
    cut, ends = pieces(listed, first.flatten(), stop.flatten())
    levels = len(only.nodes)
    return replace(only, nodes=(cut,) * levels, offsets=(ends,) * levels)
