"""SID-Tier problems for property tests: every shape, dtype and vector that is hard to get right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from glass_kernels import lengths_to_offsets
from glass_kernels.sid_tier.tiers import cosines, unit_vectors

PAPER = (-1.0, -0.1, 0.0, 0.1, 1.0)
ROWS = ("random", "lattice", "zero", "nan", "inf", "huge", "tiny", "prototype", "opposite", "axis")
WIDTHS = (1, 2, 7, 15, 16, 17, 33, 63, 64, 65, 100, 130)
TIERS = (1, 2, 3, 4, 5, 8, 9, 16, 17, 20, 64, 65, 255)


@dataclass
class History:
    """Jagged histories, perhaps as views that are not contiguous."""

    ids: Tensor
    offsets: Tensor
    num_items: int


@st.composite
def histories(draw: st.DrawFn, longest: int = 70) -> History:
    """Up to six users; empty ones, none at all, and lengths around the sizes of blocks."""
    near = [n for n in (31, 32, 33, 63, 64, 65, 255, 256, 257) if n <= longest]
    length = st.integers(0, 9) | st.sampled_from(near or [longest])
    lengths = draw(st.lists(length, max_size=6))
    num_items = draw(st.integers(1, 30))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    ids = torch.randint(0, num_items, (sum(lengths),), generator=generator)
    ids = ids.to(draw(st.sampled_from([torch.int32, torch.int64])))
    offsets = lengths_to_offsets(torch.tensor(lengths, dtype=torch.int64))
    if draw(st.booleans()):
        ids, offsets = torch.stack([ids, ids], 1)[:, 1], torch.stack([offsets, offsets], 1)[:, 0]
    return History(ids, offsets, num_items)


@st.composite
def tables(
    draw: st.DrawFn, num_items: int, widths: Sequence[int] = WIDTHS, tiers: Sequence[int] = TIERS
) -> tuple[Tensor, int]:
    """Byte table [V, K] and N; some use one tier only."""
    codes, num_tiers = draw(st.sampled_from(widths)), draw(st.sampled_from(tiers))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    table = torch.randint(0, num_tiers, (num_items, codes), generator=generator)
    if draw(st.integers(0, 4)) == 0:
        table.fill_(num_tiers - 1)
    table = table.to(torch.uint8)
    return (table.T.contiguous().T if draw(st.booleans()) else table), num_tiers


def _row(kind: str, prototypes: Tensor, generator: torch.Generator) -> Tensor:
    dim = prototypes.shape[1]
    row = torch.randn(dim, generator=generator, dtype=torch.float64)
    pick = int(torch.randint(0, len(prototypes), (1,), generator=generator))
    at = int(torch.randint(0, dim, (1,), generator=generator))
    scale = 2.0 ** float(torch.randint(-6, 7, (1,), generator=generator))
    if kind == "lattice":
        return torch.randint(-3, 4, (dim,), generator=generator).double()
    if kind == "zero":
        return torch.zeros(dim, dtype=torch.float64)
    if kind in ("nan", "inf"):
        row[at] = float(kind)
        return row
    if kind == "huge":
        return row / row.abs().max() * 3e38
    if kind == "tiny":
        return row / row.abs().max() * 1e-42
    if kind in ("prototype", "opposite"):  # 1 + eps once it is rounded
        return prototypes[pick] * scale * 1.1 * (1 if kind == "prototype" else -1)
    if kind == "axis":
        return torch.zeros(dim, dtype=torch.float64).index_fill_(0, torch.tensor(at), scale)
    return row


@dataclass
class Vectors:
    """Item vectors [V, D], prototypes [K, D] and edges [N+1]."""

    items: Tensor
    prototypes: Tensor
    edges: Tensor


def _edges(kind: str, num_tiers: int, items: Tensor, prototypes: Tensor) -> Tensor:
    if kind == "paper":
        return torch.tensor(PAPER)
    if kind == "narrow":  # many cosines lie outside
        return torch.linspace(-0.3, 0.4, num_tiers + 1)
    if kind == "equal":
        return torch.linspace(-1, 1, num_tiers + 1)
    found = cosines(items, unit_vectors(prototypes)).flatten().unique()
    if kind == "hits":  # the edges are cosines that occur, to the last bit
        chosen = found[(found > -1) & (found < 1)].to(torch.float32).unique()
    else:  # "between": no cosine is near an edge, so that every rounding gives one tier
        apart = found.diff() > 1e-2
        chosen = ((found[:-1] + found[1:]) / 2)[apart].to(torch.float32).clamp(-0.999, 0.999)
        chosen = chosen.unique()
    chosen = (
        chosen[torch.linspace(0, max(len(chosen) - 1, 0), num_tiers - 1).long()].unique()
        if (len(chosen) and num_tiers > 1)
        else chosen[:0]
    )
    return torch.cat([torch.tensor([-1.0]), chosen.to(torch.float32), torch.tensor([1.0])])


@st.composite
def vectors(
    draw: st.DrawFn,
    num_items: int,
    *,
    kinds: Sequence[str] = ("paper", "narrow", "equal", "hits", "between"),
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.float64, torch.bfloat16, torch.float16),
    widths: Sequence[int] = WIDTHS,
) -> Vectors:
    """Items of every kind of `ROWS`, prototypes too, and edges of one of `kinds`."""
    codes, dim = draw(st.sampled_from(widths)), draw(st.sampled_from([1, 2, 3, 8, 17, 33]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    base = torch.randn(codes, dim, generator=generator, dtype=torch.float64)
    rows = draw(st.lists(st.sampled_from(ROWS), min_size=1, max_size=4))
    usual = base.clone()
    for code, kind in enumerate(draw(st.lists(st.sampled_from(ROWS), max_size=min(codes, 2)))):
        base[code] = _row(kind, usual, generator)
    items = torch.stack([_row(rows[i % len(rows)], usual, generator) for i in range(num_items)])
    dtype = draw(st.sampled_from(dtypes))
    other = draw(st.sampled_from(dtypes)) if draw(st.booleans()) else dtype
    items, prototypes = items.to(dtype), base.to(other)
    kind = draw(st.sampled_from(kinds))
    if kind == "hits" and dtype == torch.float64:
        kind = "between"  # cosines in float64 end where the summation order begins
    edges = _edges(kind, draw(st.sampled_from([1, 2, 4, 5, 20])), items, prototypes)
    return Vectors(items, prototypes, edges)


def broken_offsets(offsets: Tensor, kind: str) -> Tensor:
    """Offsets of at least two users that do not add up."""
    broken = offsets.clone().contiguous()
    if kind == "start":
        broken[0] = 1
    elif kind == "end":
        broken[-1] += 1
    elif kind == "falls":
        broken[1] = broken[-1] + 1
    elif kind == "negative":
        broken[1] = -1
    elif kind == "dtype":
        broken = broken.to(torch.int32)
    return broken
