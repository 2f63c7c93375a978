"""The causal Transformer: a T5 stack without cross-attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glass.config import SequenceConfig
from glass.models.dropout import Dropout
from glass.models.layers import FeedForward, attend, initialise
from glass.models.sequence.backbone import Backbone, Bias, Layer, Projected
from glass_kernels.modules.projections import Projections


class TransformerLayer(Layer):
    """Self-attention and feed-forward, each after an RMSNorm."""

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.d_model, eps=1e-6)
        self.proj = Projections(config.d_model, config.num_heads, config.head_dim)
        self.ff_norm = nn.RMSNorm(config.d_model, eps=1e-6)
        self.ff = FeedForward(config.d_model, config.d_ff, config.dropout)
        self.dropout = Dropout(config.dropout)

    def project(self, x: Tensor) -> Projected:
        """Of tokens x [..., C]; there is no gate."""
        normed = self.attention_norm(x)
        query = self.proj.split(self.proj.query(normed))
        return Projected(query, *self.proj.keys_values(normed), None)

    def weights(self, scores: Tensor, hidden: Tensor) -> Tensor:
        """Softmax."""
        floor = torch.finfo(scores.dtype).min
        return torch.softmax(scores.masked_fill(hidden, floor), dim=-1)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, hidden: Tensor
    ) -> Tensor:
        """The same by torch's kernels; the bias, hidden keys included, is one for all users."""
        return attend(query, key, value, bias.masked_fill(hidden, torch.finfo(bias.dtype).min))

    def finish(self, x: Tensor, attended: Tensor, gate: Tensor | None) -> Tensor:
        """Output projection and feed-forward, each added to what it read."""
        x = x + self.dropout(self.proj.output(attended))
        out: Tensor = x + self.dropout(self.ff(self.ff_norm(x)))
        return out


def transformer(config: SequenceConfig) -> Backbone:
    """T5's decoder without cross-attention: one relative position bias for all layers."""
    stack = Backbone(
        [TransformerLayer(config) for _ in range(config.num_layers)],
        [Bias(config.num_heads, time=False)],
        nn.RMSNorm(config.d_model, eps=1e-6),
        config.dropout,
    )
    initialise(stack, config.d_model)
    return stack
