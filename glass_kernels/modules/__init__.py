"""Drop-in `nn.Module`s over the operations."""

from glass_kernels.modules.gated_fusion import GatedFusion
from glass_kernels.modules.hard_search import HardSearch
from glass_kernels.modules.sid_tier import (
    SidTier,
    sid_prototypes,
    tier_edges,
    tier_occupancy,
)

__all__ = [
    "GatedFusion",
    "HardSearch",
    "SidTier",
    "sid_prototypes",
    "tier_edges",
    "tier_occupancy",
]
