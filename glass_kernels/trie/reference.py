"""One step of beam search in plain PyTorch: dense over all codes, one stable sort.

Every other backend is judged by these. They run under `no_grad`: beam search is inference.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEVER = float("-inf")


def computing_dtype(logits: Tensor, scores: Tensor) -> torch.dtype:
    """float64 if either is, else float32."""
    return torch.float64 if torch.float64 in (logits.dtype, scores.dtype) else torch.float32


def clean(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Logits in `dtype` with NaN as -inf and +inf as the largest finite number."""
    return logits.to(dtype).nan_to_num(nan=NEVER, posinf=torch.finfo(dtype).max, neginf=NEVER)


def add_scores(log_probs: Tensor, scores: Tensor) -> Tensor:
    """Candidate scores [B, W, C] of beams with `scores` [B, W]; what is undefined is -inf."""
    total = log_probs + scores.to(log_probs.dtype)[..., None]
    return total.nan_to_num(nan=NEVER, posinf=float("inf"), neginf=NEVER)


def children(
    nodes: Tensor, child_offsets: Tensor, num_children: int, max_children: int
) -> tuple[Tensor, Tensor]:
    """Children of `nodes` int [B, W], padded: (node int32 [B, W, max_children], legal bool).

    Padding, and all of a node that the trie lacks, is not legal and points at some real child.
    """
    num_parents = child_offsets.shape[0] - 1
    alive = (nodes >= 0) & (nodes < num_parents)
    parent = torch.where(alive, nodes, 0).to(torch.int64)
    first, stop = child_offsets[parent], child_offsets[parent + 1]
    rank = torch.arange(max_children, dtype=torch.int32, device=nodes.device)
    child = first[..., None] + rank
    legal = alive[..., None] & (child < stop[..., None])
    return child.clamp(max=num_children - 1), legal


def codes_of(child: Tensor, child_codes: Tensor) -> Tensor:
    """Code of each child int32 [B, W, C], int32."""
    # On a CPU index_select is several times faster than indexing with brackets.
    return child_codes.index_select(0, child.flatten()).view_as(child)


def pad_beams(values: Tensor, beam_width: int, fill: float) -> Tensor:
    """`values` [B, k] with columns of `fill` up to `beam_width`."""
    return torch.nn.functional.pad(values, (0, beam_width - values.shape[1]), value=fill)


@torch.no_grad()
def beam_step_reference(
    logits: Tensor, scores: Tensor, beam_width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(scores, parents, codes), each [B, beam_width]; shapes as in `beam_step`."""
    log_probs = clean(logits, computing_dtype(logits, scores)).log_softmax(-1)
    return _best(add_scores(log_probs, scores), beam_width)


def _best(total: Tensor, beam_width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best of `total` [B, W, K]; the stable sort keeps the (parent, code) order of ties."""
    num_codes = total.shape[2]
    best, place = total.flatten(1).sort(dim=1, descending=True, stable=True)
    best, place = best[:, :beam_width], place[:, :beam_width].to(torch.int32)
    alive = best > NEVER
    parents = torch.where(alive, place // num_codes, 0)
    codes = torch.where(alive, place % num_codes, -1)
    return (
        pad_beams(best, beam_width, NEVER),
        pad_beams(parents, beam_width, 0),
        pad_beams(codes, beam_width, -1),
    )


@torch.no_grad()
def trie_beam_step_reference(
    logits: Tensor,
    scores: Tensor,
    nodes: Tensor,
    child_offsets: Tensor,
    child_codes: Tensor,
    max_children: int,
    beam_width: int,
    mask_before_softmax: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(scores, nodes, parents, codes), each [B, beam_width]; shapes as in `trie_beam_step`."""
    num_children = child_codes.shape[0]
    child, legal = children(nodes, child_offsets, num_children, max_children)
    # Child of each (beam, code), -1 where illegal; padding writes to a column that is cut off.
    num_codes = logits.shape[2]
    column = torch.where(legal, codes_of(child, child_codes), num_codes).to(torch.int64)
    by_code = child.new_full((*nodes.shape, num_codes + 1), -1).scatter_(2, column, child)
    by_code = by_code[..., :num_codes]

    logits = clean(logits, computing_dtype(logits, scores))
    if mask_before_softmax:
        logits = logits.masked_fill(by_code < 0, NEVER)
    log_probs = logits.log_softmax(-1).masked_fill(by_code < 0, NEVER)
    best, parents, codes = _best(add_scores(log_probs, scores), beam_width)
    row = torch.arange(nodes.shape[0], device=nodes.device)[:, None]
    chosen = by_code[row, parents, codes.clamp(min=0)]
    return best, torch.where(codes >= 0, chosen, -1), parents, codes
