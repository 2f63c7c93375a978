"""Sizes of tiles from which Triton's autotuner chooses, by dtype, rows and columns.

Under `torch.use_deterministic_algorithms` the first is taken: results are then the same in every
process, not only from call to call.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

from itertools import product

import torch
import triton

# (BM rows, BK codes, BD columns, warps, stages)
HALF_FORWARD = [(128, 64, 64, 8, 3), (64, 64, 64, 4, 3)]
HALF_FEW = [(16, 64, 32, 4, 3)]
# float32 (IEEE) products run on no tensor core and keep their operands in registers: small tiles
FLOAT_FORWARD = [(64, 64, 16, 8, 2), (64, 32, 32, 4, 2)]
FLOAT_FEW = [(16, 32, 32, 4, 2)]
FEW_ROWS = 8192
"""Up to here small tiles, or too few programs for a card."""

# (BM rows, BK codes, warps, stages), by the largest BD they take: whole rows are held. All of these
# compile without spills for every NVIDIA card of docs/gpu_static.csv, larger ones do not; for AMD's
# at least one of each list does.
QUERY_GRAD = {128: [(64, 64, 8, 2), (32, 64, 4, 2)], 256: [(64, 32, 8, 1), (32, 32, 4, 2)]}
CODEBOOK_GRAD = {
    128: [(64, 32, 4, 2), (64, 32, 8, 2), (16, 32, 4, 1)],
    256: [(64, 32, 8, 2), (16, 32, 8, 1)],
}
MOST_COLUMNS = 256

Sizes = dict[int, list[tuple[int, int, int, int]]]


def forward_choices(few: bool, dtype: torch.dtype) -> list[triton.Config]:
    """Settings of the forward for few rows or for many, and for the dtype."""
    if dtype == torch.float32:
        sizes = FLOAT_FEW if few else FLOAT_FORWARD
    else:
        sizes = HALF_FEW if few else HALF_FORWARD
    return [
        triton.Config({"BM": rows, "BK": codes, "BD": columns}, num_warps=warps, num_stages=stages)
        for rows, codes, columns, warps, stages in sizes
    ]


def backward_choices(settings: Sizes, columns: int) -> list[triton.Config]:
    """Settings of a kernel of the backward for rows padded to `columns`."""
    sizes = next(settings[largest] for largest in sorted(settings) if columns <= largest)
    return [
        triton.Config({"BM": rows, "BK": codes}, num_warps=warps, num_stages=stages)
        for rows, codes, warps, stages in sizes
    ]


def all_forward() -> list[triton.Config]:
    """Every one, from which a kernel's `choose` then takes some."""
    cases = product((False, True), (torch.float32, torch.bfloat16))
    return [config for few, dtype in cases for config in forward_choices(few, dtype)]


def all_backward(settings: Sizes) -> list[triton.Config]:
    """Likewise, of a kernel of the backward."""
    return [config for columns in settings for config in backward_choices(settings, columns)]
