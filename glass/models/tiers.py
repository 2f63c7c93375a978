"""SID-Tier of a catalogue as the settings want it: prototypes, edges, and table or vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from glass.config import ModelConfig
from glass_kernels.modules import TierHistogram, sid_prototypes, tier_edges

if TYPE_CHECKING:
    from glass.data import Dataset
    from glass.sid.table import SidTable


def table_bytes(config: ModelConfig) -> int:
    """Bytes of the largest tier table."""
    return config.tier_table_limit << 20


def fitted_edges(
    config: ModelConfig, vectors: Tensor, prototypes: Tensor, dataset: Dataset
) -> Tensor:
    """Edges float32 [N+1] for item vectors [V, D] and prototypes [K, D].

    Items are weighted by their training events.
    """
    weights = torch.from_numpy(dataset.train_counts).float()
    return tier_edges(config.tier_edges, config.num_tiers, vectors, prototypes, weights=weights)


def fit_tiers(config: ModelConfig, table: SidTable, dataset: Dataset) -> TierHistogram:
    """The tiers that `Glass.from_data` gives a model of these settings, SIDs and data."""
    table.require_vectors("SID-Tier")
    vectors, num_codes = torch.from_numpy(table.vectors), table.codebook_sizes[0]
    prototypes = sid_prototypes(vectors, torch.from_numpy(table.codes)[:, 0], num_codes)
    tiers = TierHistogram(
        *(table.num_items, num_codes, config.num_tiers, vectors.shape[1]),
        table_limit=table_bytes(config),
    )
    tiers.rebuild(vectors, prototypes, fitted_edges(config, vectors, prototypes, dataset))
    return tiers
