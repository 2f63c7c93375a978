"""Decoder whose layers fuse short-term context and hard-searched history by a gate.

Shapes: B users, S sets a user (targets in training, beams in generation), P positions (levels),
C model width, H heads, D head width, Vt rows of the token table. All sets of a user share the
encoder's keys and values, the history index and the projected token table.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass.config import ModelConfig
from glass.models.dropout import Dropout
from glass.models.layers import FeedForward, RelativePositionBias, SelfAttention
from glass_kernels.modules import GatedFusion, RetrievedAttention
from glass_kernels.modules.projections import Projections


@dataclass(frozen=True)
class Retrieval:
    """What the hard search found: `positions` into `tokens` for every set."""

    tokens: Tensor  # int [T, L] token ids of the searched history
    positions: Tensor  # int32 [B, S, M]
    lengths: Tensor  # int32 [B, S]

    def reorder(self, parents: Tensor) -> Retrieval:
        """Sets follow their beams: parents [B, S'] -> Retrieval of S' sets."""
        index = parents.long()
        positions = self.positions.gather(
            1, index[..., None].expand(-1, -1, self.positions.shape[-1])
        )
        return Retrieval(self.tokens, positions, self.lengths.gather(1, index))


@dataclass(frozen=True)
class Memory:
    """Per-user tensors that one encoder pass yields and every decoder step reuses."""

    keys_values: list[tuple[Tensor, Tensor]]  # per layer [B, H, N, D]
    mask: Tensor | None  # bool [B, 1, 1, N], true where a key may be attended to; None: all
    tables: list[tuple[Tensor, Tensor]] | None  # per layer [Vt, H, D]; none without hard search


class DecoderLayer(nn.Module):
    """Self-attention, two cross-attentions fused by a gate, feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = (config.d_model, config.num_heads, config.head_dim)
        self.attention_norm = nn.RMSNorm(config.d_model, eps=1e-6)
        self.attention = SelfAttention(*size)
        self.cross_norm = nn.RMSNorm(config.d_model, eps=1e-6)
        self.short = Projections(*size)
        self.retrieved: RetrievedAttention | None = None
        self.fusion: GatedFusion | None = None
        if config.use_hard_search:
            # What is frozen are the token embeddings; the projection between them and `tables`,
            # which all layers share, is trained in either case.
            self.retrieved = RetrievedAttention(*size, train_table=True)
            self.fusion = GatedFusion(
                config.d_model,
                gate=config.gate,
                fixed_gate=config.fixed_gate,
                gate_input=config.gate_input,
                track_gate=False,
            )
        self.ff_norm = nn.RMSNorm(config.d_model, eps=1e-6)
        self.ff = FeedForward(config.d_model, config.d_ff, config.dropout)
        self.dropout = Dropout(config.dropout)
        self.keep_gate = False
        self.gate: Tensor | None = None  # [B, S, P, C] of the last forward while `keep_gate`

    def cross(self, x: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Z_short: x [B, S*P, C] attends to the encoder output of its user."""
        query = self.short.split(self.short.query(x)).transpose(1, 2)
        out = F.scaled_dot_product_attention(query, *keys_values, attn_mask=mask, scale=1.0)
        z: Tensor = self.short.output(out.transpose(1, 2).flatten(2))
        return z

    def fuse(
        self,
        context: Tensor,
        x: Tensor,
        table: tuple[Tensor, Tensor],
        retrieval: Retrieval,
        has_retrieval: Tensor | None,
    ) -> Tensor:
        """Z: Z_short `context` and what x [B, S, P, C] finds in its set's items, by the gate."""
        assert self.retrieved is not None
        assert self.fusion is not None
        found = self.retrieved(x, table, retrieval.tokens, retrieval.positions, retrieval.lengths)
        fused = self.fusion(context, found, has_retrieval, state=x, return_gate=self.keep_gate)
        if self.keep_gate:
            fused, gate = fused
            self.gate = gate.detach()
        z: Tensor = fused
        return z

    def forward(
        self,
        x: Tensor,
        bias: Tensor,
        past: tuple[Tensor, Tensor] | None,
        keys_values: tuple[Tensor, Tensor],
        mask: Tensor | None,
        table: tuple[Tensor, Tensor] | None,
        retrieval: Retrieval | None,
        has_retrieval: Tensor | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x [B, S, P, C] -> [B, S, P, C] and this layer's self-attention keys and values."""
        batch, sets, positions, width = x.shape
        flat = x.reshape(batch * sets, positions, width)
        attended, present = self.attention(self.attention_norm(flat), bias, past)
        x = x + self.dropout(attended.view_as(x))
        normed = self.cross_norm(x)
        context = self.cross(normed.flatten(1, 2), keys_values, mask).view_as(x)
        if retrieval is not None and table is not None:
            context = self.fuse(context, normed, table, retrieval, has_retrieval)
        x = x + self.dropout(context)
        return x + self.dropout(self.ff(self.ff_norm(x))), present


class Decoder(nn.Module):
    """Stack of decoder layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.position = RelativePositionBias(config.num_heads, bidirectional=False)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        self.norm = nn.RMSNorm(config.d_model, eps=1e-6)
        self.dropout = Dropout(config.dropout)

    def memory(self, encoded: Tensor, valid: Tensor | None, table: Tensor | None) -> Memory:
        """Project the encoder output [B, N, C] and the token table [Vt, C] once for all layers."""
        keys_values, tables = [], []
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            key, value = layer.short.keys_values(encoded)
            keys_values.append((key.transpose(1, 2), value.transpose(1, 2)))
            if layer.retrieved is not None and table is not None:
                tables.append(layer.retrieved.tables(table))
        mask = None if valid is None else valid[:, None, None, :]
        return Memory(keys_values, mask, tables or None)

    def forward(
        self,
        x: Tensor,
        memory: Memory,
        retrieval: Retrieval | None = None,
        has_retrieval: Tensor | None = None,
        past: list[tuple[Tensor, Tensor]] | None = None,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """x [B, S, P, C] -> [B, S, P, C] and the self-attention keys and values of every layer.

        has_retrieval bool [B, S, P]; `past` holds the positions decoded before (generation).
        """
        first = 0 if past is None else past[0][0].shape[2]
        total = first + x.shape[2]
        bias = self.position(total, total, first_query=first)
        future = torch.ones(total, total, dtype=torch.bool, device=x.device).triu(1)[first:]
        bias = bias.masked_fill(future, torch.finfo(bias.dtype).min)
        x = self.dropout(x)
        presents = []
        for i, layer in enumerate(self.layers):
            x, present = layer(
                x,
                bias,
                None if past is None else past[i],
                memory.keys_values[i],
                memory.mask,
                None if memory.tables is None else memory.tables[i],
                retrieval,
                has_retrieval,
            )
            presents.append(present)
        return self.dropout(self.norm(x)), presents
