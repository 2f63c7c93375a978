"""`glass::trie_beam_step_triton` and `glass::beam_step_triton`: registered launches.

Triton is imported at the first call: TRITON_INTERPRET decides then for the whole process, and a
machine without it imports this as any other.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from glass_kernels.trie.eager import beam_step_eager, trie_beam_step_eager
from glass_kernels.trie.fakes import beam_step_fake, trie_beam_step_fake
from glass_kernels.triton_launch import check_device

AVAILABLE = importlib.util.find_spec("triton") is not None


@torch.library.custom_op("glass::trie_beam_step_triton", mutates_args=())
def _trie_beam_step(
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
    check_device("glass::trie_beam_step_triton", logits.device)
    from glass_kernels.trie.triton_step import WIDEST, Legal, beam_step_launch

    legal = Legal(
        nodes, child_offsets, child_codes, max_children, mask_before_softmax, filter_offsets,
        filter_nodes, filter_keeps,
    )  # fmt: skip
    if beam_width > WIDEST:
        return trie_beam_step_eager(
            logits, scores, nodes, child_offsets, child_codes, max_children, beam_width,
            mask_before_softmax, filter_offsets, filter_nodes, filter_keeps,
        )  # fmt: skip
    return beam_step_launch(logits, scores, beam_width, legal)


@torch.library.custom_op("glass::beam_step_triton", mutates_args=())
def _beam_step(logits: Tensor, scores: Tensor, beam_width: int) -> tuple[Tensor, Tensor, Tensor]:
    check_device("glass::beam_step_triton", logits.device)
    from glass_kernels.trie.triton_step import WIDEST, beam_step_launch

    if beam_width > WIDEST:
        return beam_step_eager(logits, scores, beam_width)
    best, _, parents, codes = beam_step_launch(logits, scores, beam_width)
    return best, parents, codes


_trie_beam_step.register_fake(trie_beam_step_fake)
_beam_step.register_fake(beam_step_fake)


def trie_beam_step_triton(
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
    """The Triton kernels; see `glass_kernels.trie_beam_step`."""
    result: tuple[Tensor, Tensor, Tensor, Tensor] = _trie_beam_step(
        logits.detach(), scores.detach(), nodes, child_offsets, child_codes, max_children,
        beam_width, mask_before_softmax, filter_offsets, filter_nodes, filter_keeps,
    )  # fmt: skip
    return result


def beam_step_triton(
    logits: Tensor, scores: Tensor, beam_width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The Triton kernels; see `glass_kernels.beam_step`."""
    result: tuple[Tensor, Tensor, Tensor] = _beam_step(logits.detach(), scores.detach(), beam_width)
    return result
