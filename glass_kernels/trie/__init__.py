"""Decoding over the catalogue: the trie of its semantic IDs and steps of beam search over it.

Generative retrieval with semantic IDs: TIGER (arXiv 2305.05065).
"""

from __future__ import annotations

from torch import Tensor

from glass_kernels.backend import resolve
from glass_kernels.checks import FLOATS, INTEGERS, check_ids, check_tensor
from glass_kernels.trie.cuda import AVAILABLE as CUDA_AVAILABLE
from glass_kernels.trie.cuda import beam_step_cuda, trie_beam_step_cuda
from glass_kernels.trie.eager import beam_step_eager, trie_beam_step_eager
from glass_kernels.trie.filter import TrieFilter
from glass_kernels.trie.library import AVAILABLE, beam_step_cpp, trie_beam_step_cpp
from glass_kernels.trie.reference import beam_step_reference, trie_beam_step_reference
from glass_kernels.trie.sid_trie import SidTrie
from glass_kernels.trie.triton_ops import AVAILABLE as TRITON_AVAILABLE
from glass_kernels.trie.triton_ops import beam_step_triton, trie_beam_step_triton

__all__ = ["SidTrie", "TrieFilter", "beam_step", "trie_beam_step"]

_TRIE_BEAM_STEP = {"eager": trie_beam_step_eager, "reference": trie_beam_step_reference}
_BEAM_STEP = {"eager": beam_step_eager, "reference": beam_step_reference}
if AVAILABLE:
    _TRIE_BEAM_STEP["cpp"] = trie_beam_step_cpp
    _BEAM_STEP["cpp"] = beam_step_cpp
if CUDA_AVAILABLE:
    _TRIE_BEAM_STEP["cuda"] = trie_beam_step_cuda
    _BEAM_STEP["cuda"] = beam_step_cuda
if TRITON_AVAILABLE:
    _TRIE_BEAM_STEP["triton"] = trie_beam_step_triton
    _BEAM_STEP["triton"] = beam_step_triton


def trie_beam_step(
    logits: Tensor,
    scores: Tensor,
    nodes: Tensor,
    trie: SidTrie,
    level: int,
    beam_width: int,
    *,
    mask_before_softmax: bool = True,
    filter: TrieFilter | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Extends every beam by one code, so that only SIDs of the catalogue can arise.

    Candidates are the children of the beams' nodes. A candidate's score is its beam's score plus
    the log-probability of its code: softmax over the legal children, or over all codes with
    `mask_before_softmax=False`. The best `beam_width` are returned, best first; of equal scores the
    lowest parent wins, then the lowest code. Start with W = 1, score 0 and node 0, the root.

    Where a SID shorter than L has ended, the candidate of code -1 keeps its beam's score: it has no
    logit and no part in a softmax. It comes before the codes of equal score, and its node, unlike
    that of a dead beam, is not -1.

    Beam search is inference: it runs under `no_grad`, and no gradient passes.

    Args:
        logits: float [B, W, K], K = trie.codebook_sizes[level]; any float dtype. NaN counts as
            -inf, +inf as the largest finite number.
        scores: float [B, W], log-probabilities of the beams so far; NaN counts as -inf.
        nodes: int32 or int64 [B, W], node of each beam at depth `level` of the trie; -1: a dead
            beam, which has no continuation.
        trie: the catalogue.
        level: 0 ... L - 1, the code that is being generated.
        beam_width: W' >= 1, beams to keep.
        mask_before_softmax: normalise over the legal children alone.
        filter: what `trie.filter` made for B requests: takes candidates away, and leaves the
            probabilities of the others as they are.
        backend: a name of `glass_kernels.BACKENDS`, or None for the best available.

    Returns:
        scores [B, W'], float32 (float64 if an input is); nodes int32 [B, W'] at depth level + 1;
        parents int32 [B, W'], the beam that was extended; codes int32 [B, W']. Where fewer than W'
        candidates have a score above -inf, the rest is score -inf, node -1, parent 0, code -1.

    Raises:
        ValueError: a wrong shape, dtype or device, a level that the trie lacks, a beam_width
            below 1, a filter of another trie or number of requests, or a node outside its depth
            (on a GPU, where such a beam is dead, only under GLASS_CHECK=1).
        RuntimeError: the backend asked for is not available.
    """
    if not _plainly_right(logits, scores, nodes, trie, level, beam_width):
        _check_step(logits, scores, nodes, trie, level, beam_width)
    listed: tuple[Tensor | None, Tensor | None, bool] = (None, None, False)
    if filter is not None:
        _check_filter(filter, trie, level, logits.shape[0])
        listed = (filter.offsets[level], filter.nodes[level], filter.keeps)
    step = resolve("trie_beam_step", logits.device, backend, _TRIE_BEAM_STEP)
    if step is not trie_beam_step_cpp:
        check_ids("nodes", nodes, -1, trie.nodes_per_depth[level])  # C++ does it as it reads
    return step(
        logits,
        scores,
        nodes,
        trie.child_offsets[level],
        trie.child_codes[level],
        trie.max_children[level],
        beam_width,
        mask_before_softmax,
        *listed,
    )


def _plainly_right(
    logits: Tensor, scores: Tensor, nodes: Tensor, trie: SidTrie, level: int, beam_width: int
) -> bool:
    """Whether `_check_step` has nothing to find, in a tenth of its time."""
    if not (type(trie) is SidTrie and type(logits) is type(scores) is type(nodes) is Tensor):
        return False
    shape = logits.shape
    return (
        len(shape) == 3
        and 0 <= level < len(trie.codebook_sizes)
        and shape[2] == trie.codebook_sizes[level]
        and shape[1] >= 1
        and scores.shape == nodes.shape == shape[:2]
        and logits.dtype in FLOATS
        and scores.dtype in FLOATS
        and nodes.dtype in INTEGERS
        and logits.device == scores.device == nodes.device == trie.device
        and beam_width >= 1
    )


def _check_step(
    logits: Tensor, scores: Tensor, nodes: Tensor, trie: SidTrie, level: int, beam_width: int
) -> None:
    if not isinstance(trie, SidTrie):
        raise ValueError(f"trie must be a SidTrie, was {type(trie).__name__}")
    if not 0 <= level < trie.num_levels:
        raise ValueError(f"level must be in [0, {trie.num_levels}), was {level}")
    _check_beams(logits, scores, beam_width)
    num_codes = trie.codebook_sizes[level]
    if logits.shape[2] != num_codes:
        raise ValueError(
            f"logits must have the {num_codes} codes of level {level} last, "
            f"had shape {list(logits.shape)}; slice the logits of that level out"
        )
    check_tensor("nodes", nodes, shape=scores.shape, dtypes=INTEGERS, device=logits.device)
    if trie.device != logits.device:
        raise ValueError(
            f"trie must be on {logits.device} like the other tensors, was on {trie.device}; "
            "move it once with trie.to(device)"
        )


def _check_filter(filter: TrieFilter, trie: SidTrie, level: int, num_requests: int) -> None:
    if not isinstance(filter, TrieFilter):
        raise ValueError(
            f"filter must be the TrieFilter of trie.filter(), was {type(filter).__name__}"
        )
    if len(filter) != num_requests:
        raise ValueError(
            f"filter must be of the {num_requests} requests of the logits, was of {len(filter)}"
        )
    if filter.nodes_per_depth != trie.nodes_per_depth:
        raise ValueError("filter was made for another trie; make it with trie.filter()")
    if filter.device != trie.device:
        raise ValueError(
            f"filter must be on {trie.device} like the other tensors, was on {filter.device}; "
            "move it once with filter.to(device)"
        )


def beam_step(
    logits: Tensor, scores: Tensor, beam_width: int, *, backend: str | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Extends every beam by one code of all K: beam search without a catalogue.

    Scores, ties, NaN and missing candidates as in `trie_beam_step`. Codes that must not arise (a
    smaller codebook than K) are the caller's to mask with -inf; a dead beam has score -inf.

    Args:
        logits: float [B, W, K]; any float dtype.
        scores: float [B, W], log-probabilities of the beams so far.
        beam_width: W' >= 1, beams to keep.
        backend: a name of `glass_kernels.BACKENDS`, or None for the best available.

    Returns:
        scores [B, W'], float32 (float64 if an input is); parents int32 [B, W']; codes int32
        [B, W'].

    Raises:
        ValueError: a wrong shape, dtype or device, or a beam_width below 1.
        RuntimeError: the backend asked for is not available.
    """
    _check_beams(logits, scores, beam_width)
    step = resolve("beam_step", logits.device, backend, _BEAM_STEP)
    return step(logits, scores, beam_width)


def _check_beams(logits: Tensor, scores: Tensor, beam_width: int) -> None:
    check_tensor("logits", logits, ndim=3, dtypes=FLOATS)
    if logits.shape[1] < 1 or logits.shape[2] < 1:
        raise ValueError(
            f"logits must be [B, W, K] with W and K at least 1, had shape {list(logits.shape)}"
        )
    check_tensor("scores", scores, shape=logits.shape[:2], dtypes=FLOATS, device=logits.device)
    if beam_width < 1:
        raise ValueError(f"beam_width must be at least 1, was {beam_width}")
