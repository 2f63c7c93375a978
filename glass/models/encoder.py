"""Encoder over the short history's SID tokens and the SID-Tier token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glass.config import ModelConfig
from glass.models.dropout import Dropout
from glass.models.layers import FeedForward, RelativePositionBias, SelfAttention


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.d_model, eps=1e-6)
        self.attention = SelfAttention(config.d_model, config.num_heads, config.head_dim)
        self.ff_norm = nn.RMSNorm(config.d_model, eps=1e-6)
        self.ff = FeedForward(config.d_model, config.d_ff, config.dropout)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x [B, N, C], bias [B, H, N, N] -> [B, N, C]."""
        attended, _ = self.attention(self.attention_norm(x), bias)
        x = x + self.dropout(attended)
        out: Tensor = x + self.dropout(self.ff(self.ff_norm(x)))
        return out


class Encoder(nn.Module):
    """Stack of encoder layers with one shared relative position bias."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.position = RelativePositionBias(config.num_heads, bidirectional=True)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_encoder_layers))
        self.norm = nn.RMSNorm(config.d_model, eps=1e-6)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """x [B, N, C], valid bool [B, N] -> [B, N, C]; padded positions are never attended to.

        Without padding pass None: the bias then stays one for all users, and so does its gradient.
        """
        length = x.shape[1]
        bias = self.position(length, length)
        if valid is not None:
            # A finite floor keeps a history without any valid token free of NaN.
            floor = torch.finfo(bias.dtype).min
            bias = bias.masked_fill(~valid[:, None, None, :], floor)
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, bias)
        out: Tensor = self.dropout(self.norm(x))
        return out
