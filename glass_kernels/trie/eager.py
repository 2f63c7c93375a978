"""One step of beam search in plain PyTorch over the legal children alone.

Nothing waits for a GPU and every shape is known beforehand.
"""

from __future__ import annotations

import torch
from torch import Tensor

from glass_kernels.jagged import offsets_to_segments
from glass_kernels.trie.reference import (
    NEVER,
    add_scores,
    children,
    clean,
    codes_of,
    computing_dtype,
    pad_beams,
)


def top_candidates(total: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Best k of each row of `total` [B, N]: (values [B, k], columns int64 [B, k]), best first.

    Of equal values the lower column wins, which `topk` alone does not promise: it finds the k-th
    value, and a second `topk` over whole numbers picks the columns.
    """
    num_columns = total.shape[1]
    threshold = total.topk(k, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    # Above 2N - column, at the threshold N - column: distinct, and in both the lower column first.
    falling = torch.arange(num_columns, 0, -1, dtype=torch.int32, device=total.device)
    rank = torch.where(total == threshold, falling, 0)
    rank = torch.where(total > threshold, falling + num_columns, rank)
    column = num_columns - rank.topk(k, dim=1).values.to(torch.int64)
    column = torch.where(column < 0, column + num_columns, column)
    values, order = total.gather(1, column).sort(dim=1, descending=True, stable=True)
    return values, column.gather(1, order)


def listed_by_bisection(
    child: Tensor, num_children: int, filter_offsets: Tensor, filter_nodes: Tensor
) -> Tensor:
    """`reference.listed` without its table of every request and node."""
    num_requests = child.shape[0]
    if filter_nodes.shape[0] == 0:
        return torch.zeros_like(child, dtype=torch.bool)
    # (request, node) as one number: rising, as requests follow each other and their nodes rise.
    rows = offsets_to_segments(filter_offsets, filter_nodes.shape[0])
    keys = rows * num_children + filter_nodes
    request = torch.arange(num_requests, device=child.device)[:, None]
    wanted = request * num_children + child.flatten(1)
    place = torch.searchsorted(keys, wanted).clamp(max=keys.shape[0] - 1)
    return (keys[place] == wanted).view_as(child)


@torch.no_grad()
def beam_step_eager(
    logits: Tensor, scores: Tensor, beam_width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(scores, parents, codes), each [B, beam_width]; shapes as in `beam_step`."""
    num_codes = logits.shape[2]
    log_probs = clean(logits, computing_dtype(logits, scores)).log_softmax(-1)
    total = add_scores(log_probs, scores).flatten(1)
    best, place = top_candidates(total, min(beam_width, total.shape[1]))
    alive = best > NEVER
    parents = torch.where(alive, place // num_codes, 0).to(torch.int32)
    codes = torch.where(alive, place % num_codes, -1).to(torch.int32)
    return (
        pad_beams(best, beam_width, NEVER),
        pad_beams(parents, beam_width, 0),
        pad_beams(codes, beam_width, -1),
    )


@torch.no_grad()
def trie_beam_step_eager(
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
    """(scores, nodes, parents, codes), each [B, beam_width]; shapes as in `trie_beam_step`."""
    dtype = computing_dtype(logits, scores)
    num_children = child_codes.shape[0]
    child, legal = children(nodes, child_offsets, num_children, max_children)
    code = codes_of(child, child_codes)
    ended, column = legal & (code < 0), code.clamp(min=0).to(torch.int64)
    scored = legal & ~ended
    if mask_before_softmax:
        kept = clean(logits.gather(2, column), dtype).masked_fill(~scored, NEVER)
        log_probs = kept.log_softmax(-1)
    else:
        log_probs = clean(logits, dtype).log_softmax(-1).gather(2, column)
        log_probs = log_probs.masked_fill(~scored, NEVER)
    log_probs = log_probs.masked_fill(ended, 0.0)
    if filter_offsets is not None and filter_nodes is not None:
        found = listed_by_bisection(child, num_children, filter_offsets, filter_nodes)
        log_probs = log_probs.masked_fill(found != filter_keeps, NEVER)
    total = add_scores(log_probs, scores).flatten(1)
    # Children are in rising order of their codes, so columns are in (parent, code) order.
    best, place = top_candidates(total, min(beam_width, total.shape[1]))
    alive = best > NEVER
    chosen = torch.where(alive, child.flatten(1).gather(1, place), -1)
    parents = torch.where(alive, place // max_children, 0)
    codes = torch.where(alive, code.flatten(1).gather(1, place), -1)
    return (
        pad_beams(best, beam_width, NEVER),
        pad_beams(chosen, beam_width, -1),
        pad_beams(parents.to(torch.int32), beam_width, 0),
        pad_beams(codes, beam_width, -1),
    )
