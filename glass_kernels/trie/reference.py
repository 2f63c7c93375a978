"""One step of beam search in plain PyTorch: dense over all codes, one stable sort.

Every other backend is judged by these. They run under `no_grad`: beam search is inference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from glass_kernels.jagged import offsets_to_segments

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


def listed(
    child: Tensor, num_children: int, filter_offsets: Tensor, filter_nodes: Tensor
) -> Tensor:
    """Whether the filter lists each of `child` int32 [B, W, C] for its request: bool."""
    rows = offsets_to_segments(filter_offsets, filter_nodes.shape[0])
    inside = (filter_nodes >= 0) & (filter_nodes < num_children)
    column = torch.where(inside, filter_nodes, num_children).to(torch.int64)
    table = torch.zeros(child.shape[0], num_children + 1, dtype=torch.bool, device=child.device)
    table.index_put_((rows, column), torch.ones_like(inside))
    return table.gather(1, child.flatten(1).to(torch.int64)).view_as(child)


@torch.no_grad()
def beam_step_reference(
    logits: Tensor, scores: Tensor, beam_width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(scores, parents, codes), each [B, beam_width]; shapes as in `beam_step`."""
    log_probs = clean(logits, computing_dtype(logits, scores)).log_softmax(-1)
    return _best(add_scores(log_probs, scores), beam_width)


def _best(total: Tensor, beam_width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best of `total` [B, W, C] with parent and column (-1: none), each [B, beam_width].

    The stable sort keeps the (parent, column) order of ties.
    """
    num_columns = total.shape[2]
    best, place = total.flatten(1).sort(dim=1, descending=True, stable=True)
    best, place = best[:, :beam_width], place[:, :beam_width].to(torch.int32)
    alive = best > NEVER
    parents = torch.where(alive, place // num_columns, 0)
    columns = torch.where(alive, place % num_columns, -1)
    return (
        pad_beams(best, beam_width, NEVER),
        pad_beams(parents, beam_width, 0),
        pad_beams(columns, beam_width, -1),
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
    filter_offsets: Tensor | None,
    filter_nodes: Tensor | None,
    filter_keeps: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(scores, nodes, parents, codes), each [B, beam_width]; shapes as in `trie_beam_step`."""
    num_children, num_codes = child_codes.shape[0], logits.shape[2]
    child, legal = children(nodes, child_offsets, num_children, max_children)
    # Child of each (beam, code + 1), -1 where illegal: column 0 is that of ended SIDs, and padding
    # writes to a last column that is cut off.
    column = torch.where(legal, codes_of(child, child_codes) + 1, num_codes + 1).to(torch.int64)
    by_code = child.new_full((*nodes.shape, num_codes + 2), -1).scatter_(2, column, child)
    by_code = by_code[..., :-1]
    ended, continued = by_code[..., :1], by_code[..., 1:]

    logits = clean(logits, computing_dtype(logits, scores))
    if mask_before_softmax:
        logits = logits.masked_fill(continued < 0, NEVER)
    of_codes = logits.log_softmax(-1).masked_fill(continued < 0, NEVER)
    of_end = torch.zeros_like(of_codes[..., :1]).masked_fill(ended < 0, NEVER)
    total = add_scores(torch.cat((of_end, of_codes), -1), scores)
    if filter_offsets is not None and filter_nodes is not None:
        found = listed(by_code.clamp(min=0), num_children, filter_offsets, filter_nodes)
        total = total.masked_fill(found != filter_keeps, NEVER)
    best, parents, columns = _best(total, beam_width)
    row = torch.arange(nodes.shape[0], device=nodes.device)[:, None]
    chosen = by_code[row, parents, columns.clamp(min=0)]
    alive = columns >= 0
    return (
        best,
        torch.where(alive, chosen, -1),
        parents,
        torch.where(alive, columns - 1, -1),
    )
