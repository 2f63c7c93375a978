"""`glass::trie_beam_step` and `glass::beam_step` of the library, called.

The kernel looks at every node anyway, so nothing looks at them beforehand; one outside of its depth
is a ValueError, in compiled code a RuntimeError.
"""

from __future__ import annotations

import torch
from torch import Tensor

from glass_kernels import library
from glass_kernels.trie.fakes import beam_step_fake, trie_beam_step_fake

AVAILABLE = library.load("cpp")[0]

if AVAILABLE:
    torch.library.register_fake("glass::trie_beam_step")(trie_beam_step_fake)
    torch.library.register_fake("glass::beam_step")(beam_step_fake)

_CALLERS_MISTAKES = ("nodes must be in",)


def trie_beam_step_cpp(
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
    """The C++ kernel; see `glass_kernels.trie_beam_step`."""
    arguments = (
        *_without_gradients(logits, scores), nodes, child_offsets, child_codes, max_children,
        beam_width, mask_before_softmax, filter_offsets, filter_nodes, filter_keeps,
    )  # fmt: skip
    run = torch.ops.glass.trie_beam_step
    if torch.compiler.is_compiling():
        compiled: tuple[Tensor, Tensor, Tensor, Tensor] = run(*arguments)
        return compiled
    try:
        result: tuple[Tensor, Tensor, Tensor, Tensor] = run(*arguments)
    except RuntimeError as error:
        mistake = library.caller_mistake(error, _CALLERS_MISTAKES)
        if mistake is None:
            raise
        raise mistake from None
    return result


def beam_step_cpp(logits: Tensor, scores: Tensor, beam_width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The C++ kernel; see `glass_kernels.beam_step`."""
    inputs = _without_gradients(logits, scores)
    result: tuple[Tensor, Tensor, Tensor] = torch.ops.glass.beam_step(*inputs, beam_width)
    return result


def _without_gradients(logits: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Beam search is inference; cheaper than `no_grad` where, as a rule, nothing is to be done."""
    if logits.requires_grad or scores.requires_grad:
        return logits.detach(), scores.detach()
    return logits, scores
