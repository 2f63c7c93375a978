"""Sizes of tiles from which Triton's autotuner chooses, by a head's columns and the dtype.

Under `torch.use_deterministic_algorithms` the first is taken: results are then the same in every
process, not only from call to call.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

import torch
import triton

from glass_kernels.triton_tuning import Known

# (BR, BV, warps, stages)
Sizes = tuple[int, int, int, int]


class Settings:
    """Settings of one kernel: for half precision and for float32, by the largest BD they take."""

    def __init__(self, half: dict[int, list[Sizes]], wide: dict[int, list[Sizes]]) -> None:
        self._sizes = {False: half, True: wide}

    def choices(self, head: int, wide: bool) -> list[triton.Config]:
        """Settings for heads of `head` (a power of two) columns, of float32 or half precision."""
        sizes = self._sizes[wide]
        found = next(sizes[largest] for largest in sorted(sizes) if head <= largest)
        return [
            triton.Config({"BR": rows, "BV": columns}, num_warps=warps, num_stages=stages)
            for rows, columns, warps, stages in found
        ]

    def choose(self, known: Known) -> list[triton.Config]:
        """Of these, what a kernel with arguments `query` and BD may take."""
        return self.choices(known["BD"], known["query"].dtype == torch.float32)

    def all(self) -> list[triton.Config]:
        """Every one, from which `choose` then takes some."""
        return [
            config
            for wide, sizes in self._sizes.items()
            for largest in sizes
            for config in self.choices(largest, wide)
        ]


# float32 (IEEE) products run on no tensor core and keep their operands in registers: small tiles.
# All of these compile without spills for every NVIDIA card of docs/gpu_static.csv, larger ones do
# not; for AMD's at least one of each list does.
_HALF_ROWS = {64: [(64, 64, 4, 3), (128, 32, 8, 3)], 128: [(64, 32, 4, 2), (128, 32, 8, 2)]}
_WIDE_ROWS = {64: [(32, 32, 4, 2), (64, 32, 8, 2)], 128: [(32, 16, 8, 1)]}
FORWARD = Settings(half=_HALF_ROWS, wide=_WIDE_ROWS)
QUERY_GRAD = Settings(half=_HALF_ROWS, wide=_WIDE_ROWS)
TABLE_GRADS = Settings(
    half={
        64: [(64, 64, 8, 2), (64, 32, 4, 2)],
        128: [(32, 64, 8, 2), (64, 32, 8, 2), (32, 32, 4, 1)],
    },
    wide={64: [(32, 32, 8, 1), (32, 32, 4, 1)], 128: [(16, 32, 8, 1), (16, 16, 4, 1)]},
)
