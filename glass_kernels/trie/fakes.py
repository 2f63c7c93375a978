"""Shapes of the steps' operators for compilers; for every backend."""

from __future__ import annotations

import torch
from torch import Tensor

from glass_kernels.trie.reference import computing_dtype


def trie_beam_step_fake(
    logits: Tensor,
    scores: Tensor,
    nodes: Tensor,
    child_offsets: Tensor,
    child_codes: Tensor,
    max_children: int,
    beam_width: int,
    mask_before_softmax: bool,
    filter_offsets: Tensor | None,
    filter_nodes: Tensor | None,
    filter_keeps: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of `trie_beam_step`: (scores, nodes, parents, codes), each [B, W']."""
    best, parents, codes = beam_step_fake(logits, scores, beam_width)
    return best, torch.empty_like(parents), parents, codes


def beam_step_fake(
    logits: Tensor, scores: Tensor, beam_width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Of `beam_step`: (scores, parents, codes), each [B, W']."""
    shape = (logits.shape[0], beam_width)
    best = logits.new_empty(shape, dtype=computing_dtype(logits, scores))
    parents = logits.new_empty(shape, dtype=torch.int32)
    return best, parents, torch.empty_like(parents)
