"""Drop-in `nn.Module`s over the operations."""

from glass_kernels.modules.gated_fusion import GatedFusion
from glass_kernels.modules.hard_search import HardSearch
from glass_kernels.modules.recursive_assignment import RecursiveAssignment
from glass_kernels.modules.retrieved_attention import RetrievedAttention
from glass_kernels.modules.sid_tier import SidTier
from glass_kernels.modules.tier_edges import sid_prototypes, tier_edges, tier_occupancy
from glass_kernels.modules.tier_histogram import TierHistogram
from glass_kernels.modules.tier_state import TierState

__all__ = [
    "GatedFusion",
    "HardSearch",
    "RecursiveAssignment",
    "RetrievedAttention",
    "SidTier",
    "TierHistogram",
    "TierState",
    "sid_prototypes",
    "tier_edges",
    "tier_occupancy",
]
