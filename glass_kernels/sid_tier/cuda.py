"""The CUDA kernel of `glass::sid_tier`, in a library of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from glass_kernels import library

# The schema is in the C++ library. Without CUDA in torch there is no tensor to run on; whether a
# device is present is not asked here, since that would start the driver when this is imported.
AVAILABLE = torch.version.cuda is not None and library.load("cpp")[0] and library.load("cuda")[0]


def sid_tier_cuda(
    item_ids: Tensor, offsets: Tensor, table: Tensor, num_tiers: int, normalize: bool
) -> Tensor:
    """The CUDA kernel; see `glass_kernels.sid_tier`."""
    result: Tensor = torch.ops.glass.sid_tier(item_ids, offsets, table, num_tiers, normalize)
    return result
