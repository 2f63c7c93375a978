"""Launches of the Triton kernels of beam search.

Each program of the first kernel leaves its best candidates; kernels that merge lists follow until
one list is left of a request; the last one ranks it. Every size is known beforehand.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from glass_kernels.trie.reference import computing_dtype
from glass_kernels.trie.triton_candidates import _candidates_kernel
from glass_kernels.trie.triton_select import _merge_kernel, _rank_kernel
from glass_kernels.triton_launch import on_device

TILE, TILE_FLOAT64 = 4096, 2048
"""Candidates of a program, in registers: 16 entries, or 8, for each thread."""
MERGED = 4096
"""Entries of a program that merges lists."""
WARPS = 8
RANKED, AGAINST = 64, 64
"""Entries of a program of the last kernel, and of those they are compared with at once."""
WIDEST = MERGED // 2
"""Largest beam_width: merging must shorten lists."""


class _Lists(NamedTuple):
    """Candidates [B, M] of the requests, in order of (parent, code); -inf: none."""

    scores: Tensor
    children: Tensor
    parents: Tensor

    @classmethod
    def empty(cls, like: Tensor, dtype: torch.dtype, length: int) -> _Lists:
        shape = (like.shape[0], length)
        ids = (like.new_empty(shape, dtype=torch.int32) for _ in range(2))
        return cls(like.new_empty(shape, dtype=dtype), *ids)


class Legal(NamedTuple):
    """What may follow which beam; see `glass_kernels.trie_beam_step`."""

    nodes: Tensor
    child_offsets: Tensor
    child_codes: Tensor
    max_children: int
    mask_before_softmax: bool
    filter_offsets: Tensor | None
    filter_nodes: Tensor | None
    filter_keeps: bool


def tile_of(tile: int, num_beams: int, max_children: int) -> tuple[int, int]:
    """(beams, children of each) of a program: powers of two, one beam if it has more children."""
    children = min(triton.next_power_of_2(max(max_children, 1)), tile)
    return min(triton.next_power_of_2(num_beams), tile // children), children


def _candidates(
    logits: Tensor, scores: Tensor, legal: Legal | None, beam_width: int, tile: int
) -> _Lists:
    num_requests, num_beams, num_codes = logits.shape
    dtype = computing_dtype(logits, scores)
    filtered = None if legal is None else legal.filter_nodes
    num_filtered = 0 if filtered is None else filtered.shape[0]
    if legal is None:
        max_children, num_parents, num_children, masked = num_codes, 0, 0, True
        nodes = child_offsets = child_codes = logits
    else:
        nodes, child_offsets, child_codes = (x.contiguous() for x in legal[:3])
        num_parents, num_children = child_offsets.shape[0] - 1, child_codes.shape[0]
        # a node has no two children of one code, and at most one that is the end
        max_children = min(legal.max_children, num_children, num_codes + 1)
        masked = legal.mask_before_softmax
    filter_offsets = None if legal is None else legal.filter_offsets
    beams, children = tile_of(tile, num_beams, max_children)
    beam_blocks = triton.cdiv(num_beams, beams)
    child_blocks = max(triton.cdiv(max_children, children), 1)
    width = min(beam_width, beams * children)
    lists = _Lists.empty(logits, dtype, beam_blocks * child_blocks * width)
    _candidates_kernel[(num_requests * beam_blocks * child_blocks,)](
        logits, scores, nodes, child_offsets, child_codes,
        *(logits if x is None else x.contiguous() for x in (filter_offsets, filtered)),
        *lists,
        num_beams, num_codes, num_parents, num_children, max_children, num_filtered,
        num_filtered.bit_length(), min(num_filtered, max_children).bit_length(),
        beam_blocks, child_blocks, width,
        TRIE=legal is not None, MASKED=masked, FILTERED=filtered is not None,
        KEEPS=legal is not None and legal.filter_keeps, LARGEST=torch.finfo(dtype).max,
        BW=beams, BC=children, num_warps=WARPS,
    )  # fmt: skip
    return lists


def beam_step_launch(
    logits: Tensor, scores: Tensor, beam_width: int, legal: Legal | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(scores, nodes, parents, codes), each [B, beam_width]; nodes is empty without a trie."""
    logits, scores = logits.contiguous(), scores.contiguous()
    num_requests = logits.shape[0]
    dtype = computing_dtype(logits, scores)
    tile = TILE if dtype == torch.float32 else TILE_FLOAT64
    shape = (num_requests, beam_width)
    best = logits.new_empty(shape, dtype=dtype)
    parents, codes = (logits.new_empty(shape, dtype=torch.int32) for _ in range(2))
    nodes = logits.new_empty(shape if legal else (0,), dtype=torch.int32)
    if num_requests == 0:
        return best, nodes, parents, codes
    with on_device(logits):
        lists = _candidates(logits, scores, legal, beam_width, tile)
        while lists.scores.shape[1] > beam_width:
            length = lists.scores.shape[1]
            size = min(MERGED, triton.next_power_of_2(length))
            groups, width = triton.cdiv(length, size), min(beam_width, size)
            merged = _Lists.empty(logits, dtype, groups * width)
            _merge_kernel[(num_requests * groups,)](
                *lists, *merged, length, groups, width, TILE=size, num_warps=WARPS
            )
            lists = merged
        blocks = triton.cdiv(beam_width, RANKED)
        _rank_kernel[(num_requests * blocks,)](
            *lists, legal.child_codes.contiguous() if legal else codes,
            best, nodes, parents, codes, lists.scores.shape[1], blocks, beam_width,
            TRIE=legal is not None, BI=RANKED, BJ=AGAINST,
        )  # fmt: skip
    return best, nodes, parents, codes
