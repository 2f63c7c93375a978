"""Decoding over a catalogue in plain PyTorch and plain Python, after published descriptions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.catalogues import CODES, LEVELS, Decoding
from glass_kernels import SidTrie

NEVER = float("-inf")
DENSE_LEVELS = 2
Found = tuple[Tensor, Tensor]
"""Scores float32 [B, W], SIDs int64 [B, W, L]."""


def log_probs(logits: Tensor, legal: Tensor, mask_before_softmax: bool) -> Tensor:
    """[B, W, K], -inf where not legal."""
    if mask_before_softmax:
        return logits.masked_fill(~legal, NEVER).log_softmax(-1).masked_fill(~legal, NEVER)
    return logits.log_softmax(-1).masked_fill(~legal, NEVER)


@dataclass(frozen=True)
class Static:
    """The trie of STATIC (arXiv 2602.22647): tables for the first two levels, then sparse rows.

    A state is a node of a depth. The tables give the next state for each code, -1 if there is none.
    A sparse row is read to the largest number of children a node of its depth has, all at once.
    """

    tables: tuple[Tensor, ...]
    """int64 [nodes, K] of the dense levels."""
    starts: tuple[Tensor, ...]
    """int64 [nodes + 1] of the levels after them, as are the others."""
    codes: tuple[Tensor, ...]
    """int64, padded so that a row can be read past its end."""
    most: tuple[int, ...]

    @classmethod
    def of(cls, trie: SidTrie) -> Static:
        tables, starts, codes = [], [], []
        for level in range(LEVELS):
            offsets = trie.child_offsets[level].long()
            of_level = trie.child_codes[level].long()
            if level < DENSE_LEVELS:
                table = offsets.new_full((len(offsets) - 1, CODES), -1)
                parents = torch.arange(len(offsets) - 1, device=offsets.device)
                parents = parents.repeat_interleave(offsets.diff())
                nodes = torch.arange(len(of_level), device=offsets.device)
                table[parents, of_level] = nodes
                tables.append(table)
                continue
            starts.append(offsets)
            codes.append(torch.nn.functional.pad(of_level, (0, trie.max_children[level])))
        most = trie.max_children[DENSE_LEVELS:]
        return cls(tuple(tables), tuple(starts), tuple(codes), most)

    def row(self, level: int, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(codes, next states, whether it is a child) [B, W, most] of a sparse level."""
        at = level - DENSE_LEVELS
        first = self.starts[at][states]
        places = first[..., None] + torch.arange(self.most[at], device=first.device)
        return self.codes[at][places], places, places < self.starts[at][states + 1][..., None]

    def legal(self, level: int, states: Tensor) -> Tensor:
        """The mask alone: bool [B, W, K]."""
        if level < DENSE_LEVELS:
            return self.tables[level][states] >= 0
        codes, _, inside = self.row(level, states)
        mask = states.new_zeros(*states.shape, CODES + 1, dtype=torch.bool)
        mask.scatter_(2, torch.where(inside, codes, CODES), True)
        return mask[..., :CODES]

    def step(
        self, level: int, logits: Tensor, scores: Tensor, states: Tensor, beams: int, mask: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scores, states, parents, codes [B, beams]; the best of all K codes of each beam."""
        alive = states.clamp(min=0)
        if level < DENSE_LEVELS:
            following = self.tables[level][alive]
        else:
            codes, places, inside = self.row(level, alive)
            following = states.new_full((*states.shape, CODES + 1), -1)
            following.scatter_(2, torch.where(inside, codes, CODES), places)
            following = following[..., :CODES]
        total = log_probs(logits, following >= 0, mask) + scores[..., None]
        best, place = total.flatten(1).topk(min(beams, total[0].numel()))
        states = following.flatten(1).gather(1, place)
        return best, states, place // CODES, place % CODES

    def narrow_step(
        self, level: int, logits: Tensor, scores: Tensor, states: Tensor, beams: int, mask: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same; sparse levels look at what the rows hold, not at all K codes."""
        if level < DENSE_LEVELS:
            return self.step(level, logits, scores, states, beams, mask)
        codes, places, inside = self.row(level, states.clamp(min=0))
        kept = codes.where(inside, 0)
        if mask:
            total = logits.gather(2, kept).masked_fill(~inside, NEVER).log_softmax(-1)
        else:
            total = logits.log_softmax(-1).gather(2, kept)
        total = total.masked_fill(~inside, NEVER) + scores[..., None]
        width = total.shape[2]
        best, place = total.flatten(1).topk(min(beams, total[0].numel()))
        return (
            best,
            places.flatten(1).gather(1, place),
            place // width,
            codes.flatten(1).gather(1, place),
        )

    def decode(self, batch: Decoding, *, narrow: bool) -> Found:
        scores, states = start(batch)
        run, steps = self.narrow_step if narrow else self.step, []
        for level, logits in enumerate(batch.logits):
            scores, states, parents, codes = run(
                level, logits, scores, states, batch.beams, batch.mask_before_softmax
            )
            steps.append((parents, codes))
        return scores, trace(steps)


def start(batch: Decoding) -> tuple[Tensor, Tensor]:
    """Scores and states of the root."""
    scores = batch.logits[0].new_zeros(batch.requests, 1)
    return scores, scores.new_zeros(scores.shape, dtype=torch.int64)


def trace(steps: list[tuple[Tensor, Tensor]]) -> Tensor:
    """SIDs [B, W, L] of the last beams, from the (parents, codes) of every step."""
    parents, last = steps[-1]
    codes = [last]
    for before, code in reversed(steps[:-1]):
        index = parents.long()
        codes.append(code.gather(1, index))
        parents = before.gather(1, index)
    return torch.stack(codes[::-1], -1).long()


class PrefixTable:
    """Allowed codes by prefix in a dict, asked beam by beam, and a mask filled beam by beam.

    As Hugging Face's `PrefixConstrainedLogitsProcessor` does with a function over such a dict.
    """

    def __init__(self, sids: Tensor) -> None:
        self.allowed: dict[tuple[int, ...], list[int]] = {}
        for prefix in {tuple(sid[:end]) for sid in sids.tolist() for end in range(1, LEVELS + 1)}:
            self.allowed.setdefault(prefix[:-1], []).append(prefix[-1])

    def decode(self, batch: Decoding) -> Found:
        scores, _ = start(batch)
        sids = scores.new_zeros(batch.requests, 1, 0, dtype=torch.int64)
        for logits in batch.logits:
            legal = torch.zeros_like(logits, dtype=torch.bool)
            for request, beams in enumerate(sids.tolist()):
                for beam, prefix in enumerate(beams):
                    legal[request, beam, self.allowed.get(tuple(prefix), [])] = True
            total = log_probs(logits, legal, batch.mask_before_softmax) + scores[..., None]
            scores, place = total.flatten(1).topk(min(batch.beams, total[0].numel()))
            chosen = sids.gather(1, (place // CODES)[..., None].expand(-1, -1, sids.shape[2]))
            sids = torch.cat((chosen, (place % CODES)[..., None]), -1)
        return scores, sids
