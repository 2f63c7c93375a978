"""SID-Tier as a module: the histogram of a history, standardised, and the MLP of its token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glass_kernels.checks import check_tensor
from glass_kernels.modules.tier_edges import EdgeKind, sid_prototypes, tier_edges
from glass_kernels.modules.tier_histogram import TABLE_LIMIT, TierHistogram

MIN_DEVIATION = 1e-3
"""A feature that varies less over the training histories is centred but not scaled."""
MAX_DEVIATIONS = 32.0
"""Standardised features end here: of a rare code, one unusual history could be hundreds."""


class SidTier(TierHistogram):
    """The tier token of GLASS (arXiv 2602.05663): MLP of the SID-Tier histogram of a history.

    e = Linear(K*N -> d), ReLU, Dropout, Linear(d -> d). The table, the edges and the prototypes
    are buffers in the state dict, the same on every backend; a loaded model needs no embeddings
    unless its catalogue passes `table_limit` (see `TierHistogram`).

    Args:
        num_items: V.
        num_codes: K, size of the first codebook.
        num_tiers: N.
        embedding_dim: D, width of the item vectors behind the prototypes.
        d_model: width of the token.
        dropout: dropout rate.
        table_limit: bytes of the largest table; above it the embedding path runs.

    A new module is empty: call `rebuild` or load a state dict before `forward`.

    The fractions of the histogram are small and vary little between users, so the first Linear
    learns slowly from them. After `standardize` it is fed `(histogram - feature_mean) *
    feature_scale`, clamped to 32 deviations either way; since that is affine up to there, the
    module can represent the same functions as before.
    """

    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(
        self,
        num_items: int,
        num_codes: int,
        num_tiers: int,
        embedding_dim: int,
        d_model: int,
        dropout: float = 0.1,
        *,
        table_limit: int = TABLE_LIMIT,
    ) -> None:
        super().__init__(num_items, num_codes, num_tiers, embedding_dim, table_limit=table_limit)
        self.register_buffer("feature_mean", torch.zeros(num_codes * num_tiers))
        self.register_buffer("feature_scale", torch.ones(num_codes * num_tiers))
        self.mlp = nn.Sequential(
            nn.Linear(num_codes * num_tiers, d_model),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(d_model, d_model),
        )

    @classmethod
    def from_embeddings(
        cls,
        embeddings: Tensor,
        sid1: Tensor,
        num_codes: int,
        num_tiers: int,
        d_model: int,
        *,
        edges: EdgeKind = "quantile",
        weights: Tensor | None = None,
        dropout: float = 0.1,
        table_limit: int = TABLE_LIMIT,
    ) -> SidTier:
        """Module with prototypes, edges and table of `embeddings` [V, D] and `sid1` [V]."""
        prototypes = sid_prototypes(embeddings, sid1, num_codes)
        bounds = tier_edges(edges, num_tiers, embeddings, prototypes, weights=weights)
        num_items, dim = embeddings.shape
        module = cls(
            num_items, num_codes, num_tiers, dim, d_model, dropout, table_limit=table_limit
        )
        module.rebuild(embeddings, prototypes, bounds)
        return module

    @torch.no_grad()
    def rebuild(self, embeddings: Tensor, prototypes: Tensor, edges: Tensor) -> None:
        """Sets prototypes [K, D] and edges [N+1], and the tiers of `embeddings` [V, D] with them.

        What `standardize` had set is forgotten: it belonged to the old histograms.
        """
        super().rebuild(embeddings, prototypes, edges)
        self.feature_mean.zero_()
        self.feature_scale.fill_(1.0)

    @torch.no_grad()
    def standardize(self, item_ids: Tensor, offsets: Tensor) -> None:
        """Scales the histogram to zero mean and unit variance over the given histories.

        Args:
            item_ids: int32 or int64 [T], histories of training samples one after another.
            offsets: int64 [B+1], B at least 2.

        A feature of a deviation below 1e-3 keeps its scale: what hardly varies here must not
        dominate elsewhere.

        Raises ValueError for fewer than two histories and for what `sid_tier` refuses.
        """
        histogram = self.histogram(item_ids, offsets)
        if len(histogram) < 2:
            raise ValueError(
                f"item_ids and offsets must hold at least 2 histories to have a deviation, held "
                f"{len(histogram)}; give more training histories or do not standardize"
            )
        features = histogram.flatten(1).to(torch.float64)
        deviation = features.std(0)
        varies = deviation >= MIN_DEVIATION
        self.feature_mean.copy_(features.mean(0))
        self.feature_scale.copy_(deviation.where(varies, 1.0).reciprocal())

    def token(self, histogram: Tensor) -> Tensor:
        """Tier token [B, d] of fractions float32 [B, K, N], as `histogram` or `TierState` has them.

        Raises ValueError for another shape.
        """
        check_tensor("histogram", histogram, shape=(None, self.num_codes, self.num_tiers))
        features = (histogram.flatten(1) - self.feature_mean) * self.feature_scale
        features = features.clamp(-MAX_DEVIATIONS, MAX_DEVIATIONS)
        weight: Tensor = self.get_parameter("mlp.0.weight")
        token: Tensor = self.mlp(features.to(weight.dtype))
        return token

    def forward(self, item_ids: Tensor, offsets: Tensor) -> Tensor:
        """Tier token [B, d] of the histories `item_ids` [T], `offsets` int64 [B+1]."""
        return self.token(self.histogram(item_ids, offsets))
