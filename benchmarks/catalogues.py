"""Inputs of decoding: catalogues of semantic IDs, and logits of a model that does not look."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from glass_kernels import SidTrie

LEVELS, CODES = 4, 256


@cache
def make_sids(kind: str, items: int) -> Tensor:
    """int64 [V, 4]: "random", every code uniform, or "clustered", as of real items.

    Clustered codes are Zipf distributed, and which are frequent depends on the codes before: few
    nodes have most of the items, and many few children.
    """
    generator = torch.Generator().manual_seed(items)
    if kind == "random":
        return torch.randint(CODES, (items, LEVELS), generator=generator)
    weights = 1.0 / torch.arange(1, CODES + 1)
    prefix = torch.zeros(items, dtype=torch.int64)
    levels = []
    for _ in range(LEVELS):
        rank = torch.multinomial(weights, items, replacement=True, generator=generator)
        code = (rank + prefix * 40_503 // 64) % CODES
        prefix = prefix * CODES + code
        levels.append(code)
    return torch.stack(levels, 1)


@cache
def make_trie(kind: str, items: int) -> SidTrie:
    return SidTrie.build(make_sids(kind, items), (CODES,) * LEVELS)


@dataclass(frozen=True)
class Decoding:
    """A batch of requests, and the logits that a model would give its beams."""

    trie: SidTrie
    logits: tuple[Tensor, ...]
    """Of each level, float32 [B, W, K]; W is 1 at the first."""
    beams: int
    mask_before_softmax: bool

    @property
    def requests(self) -> int:
        return self.logits[0].shape[0]


def make_decoding(
    trie: SidTrie, requests: int, beams: int, mask_before_softmax: bool, seed: int
) -> Decoding:
    generator = torch.Generator().manual_seed(seed)
    logits = tuple(
        torch.randn(requests, 1 if level == 0 else beams, CODES, generator=generator)
        for level in range(LEVELS)
    )
    return Decoding(trie, logits, beams, mask_before_softmax)
