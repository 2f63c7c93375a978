"""One level of beam search: every way of extending beams that `generate` knows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from glass.generation.filters import cut_to_children, of_requests
from glass_kernels import SidTrie, TrieFilter, trie_beam_step
from glass_kernels.trie import beam_step


@dataclass(frozen=True)
class Frontier:
    """The beams of B users after some level."""

    codes: Tensor  # int64 [B, W, level], -1 from the end of a SID on
    scores: Tensor  # float32 [B, W], -inf: dead
    nodes: Tensor  # int32 [B, W] of the trie, -1: dead; unconstrained, 0 wherever a beam is alive

    @classmethod
    def root(cls, size: int, device: torch.device) -> Frontier:
        """Where a search starts: one empty beam a user."""
        return cls(
            torch.zeros(size, 1, 0, dtype=torch.int64, device=device),
            torch.zeros(size, 1, device=device),
            torch.zeros(size, 1, dtype=torch.int32, device=device),
        )

    @property
    def level(self) -> int:
        """The level whose code comes next."""
        return self.codes.shape[2]


@dataclass(frozen=True)
class Rule:
    """How beams may be extended; the options of `generate`."""

    trie: SidTrie
    beam_width: int
    constrained: bool
    mask_before_softmax: bool
    filter: TrieFilter | None
    max_per_sid1: int | None

    def of_users(self, rows: Tensor) -> Rule:
        """The rule for users `rows` int64 [b] of the batch alone."""
        return self if self.filter is None else replace(self, filter=of_requests(self.filter, rows))

    def extend(self, beams: Frontier, logits: Tensor) -> tuple[Frontier, Tensor]:
        """The beams one code longer, best first, and their parents int64 [B, W]."""
        if self.max_per_sid1 is None or beams.level == 0 or self.max_per_sid1 >= self.beam_width:
            scores, nodes, parents, codes = self._best(
                logits, beams.scores, beams.nodes, beams.level, self.beam_width, self.filter
            )
            index = parents.long()
        else:
            scores, nodes, index, codes = self._diverse(beams, logits, self.max_per_sid1)
        paths = codes.long()[..., None]
        if beams.level > 0:
            before = beams.codes.gather(1, index[..., None].expand(-1, -1, beams.level))
            before.masked_fill_((nodes < 0)[..., None], -1)
            paths = torch.cat((before, paths), 2)
        return Frontier(paths, scores, nodes), index

    def _best(
        self,
        logits: Tensor,
        scores: Tensor,
        nodes: Tensor,
        level: int,
        width: int,
        only: TrieFilter | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(scores, nodes, parents, codes) [B, width] of the best continuations."""
        if self.constrained:
            return trie_beam_step(
                logits, scores, nodes, self.trie, level, width,
                mask_before_softmax=self.mask_before_softmax, filter=only,
            )  # fmt: skip
        scores, parents, codes = beam_step(logits, scores, width)
        return scores, codes.clamp(max=0), parents, codes

    def _diverse(
        self, beams: Frontier, logits: Tensor, most: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `_best`, with at most `most` beams of one sid_1.

        No beam can contribute more than its own best `most`; of these, best first, each whose sid_1
        has been taken `most` times is passed over.
        """
        users = beams.scores.shape[0]
        each = min(most, logits.shape[2] + 1)  # the end of a SID comes on top of its codes
        only = None
        if self.filter is not None:
            only = cut_to_children(self.filter, self.trie, beams.level, beams.nodes)
        scores, nodes, _, codes = self._best(
            logits.flatten(0, 1)[:, None],
            beams.scores.reshape(-1, 1),
            beams.nodes.reshape(-1, 1),
            beams.level,
            each,
            only,
        )
        # Columns are in (parent, rank) order, so the stable sort keeps the (parent, code) order.
        scores, order = scores.view(users, -1).sort(dim=1, descending=True, stable=True)
        parents = order // each
        sid1 = beams.codes[..., 0].gather(1, parents)
        kept = scores.isneginf().logical_not_() & (rank_within(sid1) < most)
        chosen = kept.int().argsort(dim=1, descending=True, stable=True)[:, : self.beam_width]
        alive, place = kept.gather(1, chosen), order.gather(1, chosen)
        found = (
            torch.where(alive, scores.gather(1, chosen), -torch.inf),
            torch.where(alive, nodes.view(users, -1).gather(1, place), -1),
            torch.where(alive, parents.gather(1, chosen), 0),
            torch.where(alive, codes.view(users, -1).gather(1, place), -1),
        )
        missing = self.beam_width - chosen.shape[1]
        if missing <= 0:
            return found
        fills = (-torch.inf, -1, 0, -1)
        padded = [
            torch.nn.functional.pad(part, (0, missing), value=fill)
            for part, fill in zip(found, fills, strict=True)
        ]
        return padded[0], padded[1], padded[2], padded[3]


def rank_within(groups: Tensor) -> Tensor:
    """How many earlier columns of its row hold the same number: int64, for `groups` int [B, N]."""
    sorted_groups, order = groups.sort(dim=1, stable=True)
    place = torch.arange(groups.shape[1], device=groups.device).expand_as(order)
    begins = torch.ones_like(sorted_groups, dtype=torch.bool)
    begins[:, 1:] = sorted_groups[:, 1:] != sorted_groups[:, :-1]
    first = torch.where(begins, place, 0).cummax(dim=1).values
    return torch.empty_like(order).scatter_(1, order, place - first)
