"""IntRR's levels in generation: what of f_l depends on a code alone is made once for every code.

Values are those of `RecursiveAssignment.level_logits` up to rounding; gradients do not pass.

Shapes: B users, W beams a user, d width, h hidden width of f_l, K_l codes of level l.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from glass_kernels.modules import RecursiveAssignment


@dataclass(frozen=True)
class LevelTables:
    """f_l of a `RecursiveAssignment`: the context's half of its first layer for every code."""

    guidance: Tensor  # [(L-1) h, d]: the other halves, one below another
    bias: Tensor  # [(L-1) h]
    contexts: list[list[Tensor]]  # of level l = 1 .. L-1: [K_j, h] of each level j that it sees

    @classmethod
    def of(cls, network: RecursiveAssignment) -> LevelTables:
        """From the weights as they are now."""
        follow = [network.query(level) for level in range(1, network.num_levels)]
        d, books = network.d_model, list(network.codebooks)
        seen = [
            books[:level] if network.context == "sum" else books[level - 1 : level]
            for level in range(1, network.num_levels)
        ]
        return cls(
            torch.cat([books[0][:0], *(f.inner.weight[:, d:] for f in follow)]).contiguous(),
            torch.cat([books[0][0, :0], *(f.inner.bias for f in follow)]),
            [[f.of_context(b) for b in before] for f, before in zip(follow, seen, strict=True)],
        )


class Levels:
    """Logits level by level, of beams that the chosen codes extend.

    Args:
        network: of the model.
        tables: of the network.
        guidance: float [B, d], one row a user, which all its beams share.
    """

    def __init__(self, network: RecursiveAssignment, tables: LevelTables, guidance: Tensor) -> None:
        self._network = network
        self._guidance = guidance
        self._tables = tables
        halves = F.linear(guidance, tables.guidance, tables.bias)
        self._halves = halves.chunk(max(network.num_levels - 1, 1), dim=1)
        self._codes: list[Tensor] = []  # [B, W] of each level that the next one sees
        self._level = 0

    def first(self) -> Tensor:
        """Logits [B, 1, K_0]."""
        return self._network.level_logits(0, self._guidance[:, None])

    def next(self, parents: Tensor, codes: Tensor) -> Tensor:
        """Logits [B, W, K_l] of the next level of beams that `codes` [B, W] extend."""
        half = self._halves[self._level][:, None]
        before = []
        if self._network.context == "sum":
            before = [earlier.gather(1, parents) for earlier in self._codes]
        self._codes = [*before, codes]
        for chosen, table in zip(self._codes, self._tables.contexts[self._level], strict=True):
            half = F.embedding(chosen, table) + half
        self._level += 1
        query = self._network.query(self._level).outer(half.relu_())
        return F.linear(query, self._network.codebooks[self._level].to(query.dtype))
