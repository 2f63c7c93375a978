"""SID-Tier from the byte table: C++ against eager PyTorch, with `index_select` as the floor."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.timing import interleaved
from glass_kernels import lengths_to_offsets, offsets_to_segments, sid_tier

ITEMS, USERS, BATCHES = 13_000, 64, 3


def make_batch(seed: int) -> tuple[Tensor, Tensor]:
    """Skewed lengths (mean near 600, some empty) and Zipf items."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.empty(USERS).log_normal_(6.1, 0.7, generator=g).clamp(max=10_000).long()
    lengths[::16] = 0
    popularity = 1.0 / torch.arange(1, ITEMS + 1)
    ids = torch.multinomial(popularity, int(lengths.sum()), replacement=True, generator=g)
    return ids, lengths_to_offsets(lengths)


def eager(ids: Tensor, offsets: Tensor, table: Tensor, tiers: int) -> Tensor:
    """What a good practitioner writes: one scatter over all events and codes."""
    users, codes = offsets_to_segments(offsets, len(ids)), table.shape[1]
    index = (users[:, None] * codes + torch.arange(codes)) * tiers + table[ids]
    counts = torch.bincount(index.view(-1), minlength=(len(offsets) - 1) * codes * tiers)
    length = offsets.diff().clamp_min(1)[:, None, None]
    return counts.view(-1, codes, tiers) / length


def run(quick: bool) -> list[dict[str, str]]:
    """Rows of the table; RuntimeError if a side differs from the reference or cannot run."""
    rows = []
    for codes, tiers in ((64, 4), (128, 4), (128, 20)):
        g = torch.Generator().manual_seed(0)
        table = torch.randint(0, tiers, (ITEMS, codes), generator=g).to(torch.uint8)
        batches = [make_batch(seed) for seed in range(BATCHES)]
        for ids, offsets in batches:
            truth = sid_tier(ids, offsets, table, tiers, backend="reference")
            for name, got in (
                ("cpp", sid_tier(ids, offsets, table, tiers, backend="cpp")),
                ("eager", eager(ids, offsets, table, tiers)),
            ):
                if not torch.equal(got, truth):
                    raise RuntimeError(f"sid_tier: {name} differs from the reference")
        sides = {
            "cpp": lambda r, b=batches, t=table, n=tiers: sid_tier(*b[r % BATCHES], t, n),
            "eager": lambda r, b=batches, t=table, n=tiers: eager(*b[r % BATCHES], t, n),
            "floor": lambda r, b=batches, t=table: t.index_select(0, b[r % BATCHES][0]),
        }
        ms = interleaved(sides, repeats=6 if quick else 30)
        rows.append(
            {
                "job": f"sid_tier B{USERS} K{codes} N{tiers}",
                "events": str(len(batches[0][0])),
                "cpp ms": f"{ms['cpp']:.2f}",
                "eager ms": f"{ms['eager']:.1f}",
                "index_select ms": f"{ms['floor']:.2f}",
                "eager / cpp": f"{ms['eager'] / ms['cpp']:.0f}",
                "cpp / index_select": f"{ms['cpp'] / ms['floor']:.1f}",
            }
        )
    return rows
