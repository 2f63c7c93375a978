"""The CUDA kernels of `glass::trie_beam_step` and `glass::beam_step`."""

from __future__ import annotations

from torch import Tensor

from glass_kernels.sid_tier.cuda import AVAILABLE
from glass_kernels.trie.eager import beam_step_eager, trie_beam_step_eager
from glass_kernels.trie.library import beam_step_cpp, trie_beam_step_cpp

__all__ = ["AVAILABLE", "beam_step_cuda", "trie_beam_step_cuda"]

WIDEST = 2048
"""Largest beam_width of the kernels, which keep it in shared memory; eager code takes others."""


def trie_beam_step_cuda(
    logits: Tensor,
    scores: Tensor,
    nodes: Tensor,
    child_offsets: Tensor,
    child_codes: Tensor,
    max_children: int,
    beam_width: int,
    mask_before_softmax: bool,
    filter_offsets: Tensor | None = None,
    filter_nodes: Tensor | None = None,
    filter_keeps: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The CUDA kernel; see `glass_kernels.trie_beam_step`."""
    # One operator has both kernels, so its call is the same.
    run = trie_beam_step_cpp if beam_width <= WIDEST else trie_beam_step_eager
    return run(
        logits, scores, nodes, child_offsets, child_codes, max_children, beam_width,
        mask_before_softmax, filter_offsets, filter_nodes, filter_keeps,
    )  # fmt: skip


def beam_step_cuda(
    logits: Tensor, scores: Tensor, beam_width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The CUDA kernel; see `glass_kernels.beam_step`."""
    run = beam_step_cpp if beam_width <= WIDEST else beam_step_eager
    return run(logits, scores, beam_width)
