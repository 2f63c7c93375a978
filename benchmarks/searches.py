"""Inputs of hard search and its attention: codes of a catalogue, and what beams search for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from benchmarks.histories import Batch

LEVELS = {64: (64, 128, 128), 128: (128, 128, 128), 256: (256, 256, 256)}
"""First codebook -> codebooks: the paper's main setting, its comparison, and a large one."""
UNSEEN = 0.1
"""Weight of codes that are not in a user's history, against those that are."""


@dataclass(frozen=True)
class Searches:
    """Histories by first-level code, and the codes that are looked for in them."""

    histories: Batch
    sid1: Tensor
    """int32 [T]"""
    query: Tensor
    """int64 [B, S]"""
    num_codes: int

    @cached_property
    def padded(self) -> Tensor:
        """int32 [B, L], -1 after a history's end."""
        inside = self.histories.inside
        return self.sid1.new_full(inside.shape, -1).masked_scatter_(inside, self.sid1)

    @cached_property
    def padded_index(self) -> Tensor:
        """int64 [B, L], the number of codes after a history's end."""
        codes = self.padded.long()
        return torch.where(codes < 0, self.num_codes, codes)

    @cached_property
    def starts(self) -> Tensor:
        """int64 [B]"""
        return self.histories.offsets[:-1].clone()


def make_codes(items: int, codebook_sizes: tuple[int, ...]) -> Tensor:
    """int32 [V, n_tok], each level drawn uniformly; popularity makes the buckets uneven."""
    generator = torch.Generator().manual_seed(1)
    levels = [torch.randint(size, (items,), generator=generator) for size in codebook_sizes]
    return torch.stack(levels, 1).int()


def make_neighbours(num_codes: int, count: int) -> Tensor | None:
    """int32 [K, n] other codes; None for 0."""
    if count == 0:
        return None
    generator = torch.Generator().manual_seed(2)
    nearness = torch.rand(num_codes, num_codes, generator=generator).fill_diagonal_(-1.0)
    return nearness.topk(count).indices.int()


def make_searches(
    histories: Batch, sid1: Tensor, num_codes: int, sets: int, seed: int, *, distinct: bool = False
) -> Searches:
    """Codes as the beams or targets of a user have them: likelier the more events they have.

    Beams of one user may share a code, unless `distinct`: the search's first step, when a beam is
    its code.
    """
    generator = torch.Generator().manual_seed(seed)
    keys = histories.users * num_codes + sid1
    counts = torch.bincount(keys, minlength=len(histories.lengths) * num_codes)
    weights = counts.view(-1, num_codes).double()
    weights += UNSEEN * weights.mean(1, keepdim=True) + 1e-6
    query = torch.multinomial(weights, sets, replacement=not distinct, generator=generator)
    return Searches(histories, sid1, query, num_codes)
