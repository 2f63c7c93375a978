"""`glass::sid_tier`: its schema and kernels come with the compiled library, the rest is here."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from glass_kernels import library

AVAILABLE = library.load("cpp")[0]


def _fake(
    item_ids: Tensor, offsets: Tensor, table: Tensor, num_tiers: int, normalize: bool
) -> Tensor:
    shape = (offsets.shape[0] - 1, table.shape[1], num_tiers)
    return table.new_empty(shape, dtype=torch.float32)


def _no_gradient(ctx: Any, grad: Tensor) -> None:
    raise RuntimeError("glass::sid_tier is piecewise constant and has no gradient")


if AVAILABLE:
    torch.library.register_fake("glass::sid_tier")(_fake)
    torch.library.register_autograd("glass::sid_tier", _no_gradient)


def sid_tier_cpp(
    item_ids: Tensor, offsets: Tensor, table: Tensor, num_tiers: int, normalize: bool
) -> Tensor:
    """The C++ kernel; see `glass_kernels.sid_tier`."""
    result: Tensor = torch.ops.glass.sid_tier(item_ids, offsets, table, num_tiers, normalize)
    return result
