"""The opponents: SID-Tier as a good practitioner writes it in plain PyTorch.

Each counts tiers [T, K] (histories one after another) or [B, L, K] (padded) to fractions float32
[B, K, N]. What does not depend on the tiers, such as the user of each event or the padded ids, is
made before the clock starts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.histories import Batch

MOST_WASTE = 1.5
"""Padded forms take part where padding adds at most half."""
MOST_ONE_HOT_BYTES = 1 << 30
COMPILED = ("scatter_add", "comparison")
"""Forms whose gather and count `torch.compile` fuses; the others' count stays a call."""


@dataclass(frozen=True)
class Form:
    """One way to write it: `function` of tensors that `arguments` has from the batch."""

    function: Callable[..., Tensor]
    arguments: Callable[[Batch], tuple[Tensor, ...]]

    def __call__(self, batch: Batch) -> Tensor:
        return self.function(*self.arguments(batch))

    def compiled(self) -> Form:
        """Batches of one benchmark have the same shapes, so static ones compile once."""
        return replace(self, function=torch.compile(self.function, dynamic=False, fullgraph=True))


def _index(users: Tensor, tiers: Tensor, num_tiers: int) -> Tensor:
    codes = torch.arange(tiers.shape[1], device=tiers.device)
    return ((users[:, None] * tiers.shape[1] + codes) * num_tiers + tiers).view(-1)


def _shares(counts: Tensor, lengths: Tensor) -> Tensor:
    return counts / lengths.clamp_min(1)[:, None, None]


def by_bincount(users: Tensor, lengths: Tensor, tiers: Tensor, num_tiers: int) -> Tensor:
    size = len(lengths) * tiers.shape[1] * num_tiers
    counts = torch.bincount(_index(users, tiers, num_tiers), minlength=size)
    return _shares(counts.view(len(lengths), -1, num_tiers), lengths)


def by_scatter(users: Tensor, lengths: Tensor, tiers: Tensor, num_tiers: int) -> Tensor:
    size = len(lengths) * tiers.shape[1] * num_tiers
    counts = torch.zeros(size, device=tiers.device)
    index = _index(users, tiers, num_tiers)
    counts.scatter_add_(0, index, counts.new_ones(()).expand(index.shape))
    return _shares(counts.view(len(lengths), -1, num_tiers), lengths)


def by_index_add(users: Tensor, lengths: Tensor, tiers: Tensor, num_tiers: int) -> Tensor:
    """A one-hot column at a time: the whole one-hot tensor would be N times larger."""
    empty = torch.zeros(len(lengths), tiers.shape[1], device=users.device)
    counts = [
        torch.zeros_like(empty).index_add_(0, users, (tiers == i).float()) for i in range(num_tiers)
    ]
    return _shares(torch.stack(counts, -1), lengths)


def by_comparison(inside: Tensor, lengths: Tensor, tiers: Tensor, num_tiers: int) -> Tensor:
    """Padded histories, one-hot and summed a tier at a time."""
    tiers = torch.where(inside[..., None], tiers, 255)
    counts = [(tiers == i).sum(1, dtype=torch.int32) for i in range(num_tiers)]
    return _shares(torch.stack(counts, -1), lengths)


def _forms(tiers_of: Callable[[Tensor], Tensor], num_tiers: int, waste: float) -> dict[str, Form]:
    """Forms over `tiers_of` [n] ids, [n, K]."""

    def jagged(count: Callable[..., Tensor]) -> Form:
        return Form(
            lambda ids, users, lengths: count(users, lengths, tiers_of(ids), num_tiers),
            lambda b: (b.ids, b.users, b.lengths),
        )

    def padded(ids: Tensor, inside: Tensor, lengths: Tensor) -> Tensor:
        tiers = tiers_of(ids.view(-1)).view(*ids.shape, -1)
        return by_comparison(inside, lengths, tiers, num_tiers)

    forms = {
        "bincount": jagged(by_bincount),
        "scatter_add": jagged(by_scatter),
        "index_add": jagged(by_index_add),
    }
    if waste <= MOST_WASTE:
        forms["comparison"] = Form(padded, lambda b: (b.padded, b.inside, b.lengths))
    return forms


def table_forms(table: Tensor, num_tiers: int, waste: float) -> dict[str, Form]:
    """Forms that start from the byte table."""
    return _forms(lambda ids: table.index_select(0, ids), num_tiers, waste)


def vector_forms(
    vectors: Tensor, prototypes: Tensor, edges: Tensor, waste: float
) -> dict[str, Form]:
    """Forms that start from unit vectors [V, D] and [K, D]."""
    inner, num_tiers = edges[1:-1].contiguous(), len(edges) - 1

    def tiers_of(ids: Tensor) -> Tensor:
        similarity = vectors.index_select(0, ids) @ prototypes.T
        return torch.bucketize(similarity, inner, right=True, out_int32=True)

    def distinct(ids: Tensor, users: Tensor, lengths: Tensor) -> Tensor:
        ids, inverse = torch.unique(ids, return_inverse=True)
        return by_bincount(users, lengths, tiers_of(ids).index_select(0, inverse), num_tiers)

    forms = _forms(tiers_of, num_tiers, waste)
    forms["unique + bincount"] = Form(distinct, forms["bincount"].arguments)
    return forms


def compiled_forms(forms: dict[str, Form]) -> dict[str, Form]:
    torch.compiler.reset()  # what was compiled for another number of threads
    return {name: forms[name].compiled() for name in COMPILED if name in forms}


def one_hot_form(table: Tensor, num_tiers: int) -> Form | None:
    """`embedding_bag` over one-hot rows float32 [V, K * N] made beforehand; None if too large.

    Not from the byte table: this takes 4 N times its memory. The strongest that plain PyTorch has.
    """
    if table.numel() * num_tiers * 4 > MOST_ONE_HOT_BYTES:
        return None
    rows = (table[..., None] == torch.arange(num_tiers, device=table.device)).float().flatten(1)

    def bag(ids: Tensor, offsets: Tensor, lengths: Tensor) -> Tensor:
        sums = torch.nn.functional.embedding_bag(
            ids, rows, offsets, mode="sum", include_last_offset=True
        )
        return _shares(sums.view(len(lengths), -1, num_tiers), lengths)

    return Form(bag, lambda b: (b.ids, b.offsets, b.lengths))
