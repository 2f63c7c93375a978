"""Inputs of the benchmarks: skewed history lengths, Zipf popularity, clustered catalogues."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from glass_kernels import tier_table

MEAN_LENGTH = 900
LONGEST = {"paper": 1_000, "long tail": 10_000}
PAPER_EDGES = (-1.0, -0.1, 0.0, 0.1, 1.0)


@dataclass(frozen=True)
class Batch:
    """Histories one after another, and the other forms that an opponent may want."""

    ids: Tensor
    """int64 [T]"""
    lengths: Tensor
    """int64 [B]"""

    @cached_property
    def offsets(self) -> Tensor:
        return torch.cat([self.lengths.new_zeros(1), self.lengths.cumsum(0)])

    @cached_property
    def users(self) -> Tensor:
        """int64 [T], the user of every event."""
        return torch.repeat_interleave(
            torch.arange(len(self.lengths), device=self.lengths.device), self.lengths
        )

    @cached_property
    def inside(self) -> Tensor:
        """bool [B, L]: where the padded form has an event."""
        return torch.arange(int(self.lengths.max()), device=self.ids.device) < self.lengths[:, None]

    @cached_property
    def padded(self) -> Tensor:
        """int64 [B, L], 0 after a history's end."""
        return self.ids.new_zeros(self.inside.shape).masked_scatter_(self.inside, self.ids)

    @property
    def waste(self) -> float:
        """Elements of the padded form for each event."""
        return len(self.lengths) * int(self.lengths.max()) / max(len(self.ids), 1)


def _with_sum(lengths: Tensor, total: int, longest: int) -> Tensor:
    """Moves lengths in proportion until they sum to `total`; 0 and `longest` of user 1 stay."""
    movable = lengths > 0
    movable[1:2] = False
    missing = total - int(lengths.sum())
    room = torch.where(movable, longest - lengths if missing > 0 else lengths - 1, 0)
    lengths = lengths + torch.div(missing * room, room.sum().clamp_min(1), rounding_mode="trunc")
    missing = total - int(lengths.sum())  # by rounding, less than one a user
    step = 1 if missing > 0 else -1
    fits = movable & (lengths + step >= 1) & (lengths + step <= longest)
    lengths[fits.nonzero()[: abs(missing), 0]] += step
    assert int(lengths.sum()) == total
    return lengths


def make_lengths(kind: str, users: int, generator: torch.Generator) -> Tensor:
    """int64 [users] with a mean of 900, the same sum for every seed.

    "paper": most histories are cut at 1,000, as in the paper's data. "long tail": up to 10,000, and
    each 16th user has none.
    """
    if kind == "paper":
        lengths = torch.empty(users).log_normal_(7.8, 1.0, generator=generator)
    else:
        lengths = torch.empty(users).log_normal_(6.2, 1.2, generator=generator)
    lengths = lengths.clamp(1, LONGEST[kind]).long()
    lengths[1:2] = LONGEST[kind]  # so that padded forms of all seeds have one shape
    if kind == "long tail":
        lengths[::16] = 0
    return _with_sum(lengths, users * MEAN_LENGTH, LONGEST[kind])


@lru_cache(maxsize=2)
def _popularity(items: int) -> tuple[Tensor, Tensor]:
    """Cumulative Zipf shares float64 [V], and which item has each rank."""
    shares = 1.0 / torch.arange(1, items + 1, dtype=torch.float64)
    order = torch.randperm(items, generator=torch.Generator().manual_seed(items))
    return shares.cumsum(0) / shares.sum(), order


def make_events(count: int, items: int, generator: torch.Generator) -> Tensor:
    """int64 [count] item ids, the r-th most popular with weight 1 / r."""
    cumulative, order = _popularity(items)
    drawn = torch.rand(count, dtype=torch.float64, generator=generator)
    return order[torch.searchsorted(cumulative, drawn).clamp_max(items - 1)]


def make_batch(kind: str, users: int, items: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    lengths = make_lengths(kind, users, generator)
    return Batch(make_events(int(lengths.sum()), items, generator), lengths)


def same_lengths(users: int, length: int, items: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.full((users,), length, dtype=torch.int64)
    return Batch(make_events(users * length, items, generator), lengths)


def make_edges(tiers: int) -> Tensor:
    """float32 [N+1]: the paper's for 4 tiers, else equal ones."""
    return torch.tensor(PAPER_EDGES) if tiers == 4 else torch.linspace(-1, 1, tiers + 1)


@lru_cache(maxsize=1)
def make_vectors(items: int, dim: int, codes: int) -> tuple[Tensor, Tensor]:
    """Unit item vectors [V, D] around unit prototypes [K, D]."""
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.nn.functional.normalize(torch.randn(codes, dim, generator=generator))
    vectors = torch.randn(items, dim, generator=generator) * (0.7 / dim**0.5)
    vectors += prototypes[torch.randint(codes, (items,), generator=generator)]
    return torch.nn.functional.normalize(vectors), prototypes


@lru_cache(maxsize=1)
def make_table(items: int, codes: int, tiers: int) -> Tensor:
    """uint8 [V, K]"""
    vectors, prototypes = make_vectors(items, 32, codes)
    return tier_table(vectors, prototypes, make_edges(tiers))
