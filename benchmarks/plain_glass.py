"""GLASS written plainly: no kernel, no shared work, as the released code and Hugging Face's T5 do.

Every layer projects every retrieved token anew, attention is product, softmax and product, the
gate concatenates. Parameter names are those of `glass.models.Glass`, so that its weights load.
Shapes: B users, S targets, P levels, N keys, C model width, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import eager, eager_search
from benchmarks.histories import Batch as Histories
from benchmarks.searches import Searches
from glass.config import ModelConfig
from glass.data.batches import Batch
from glass.models import Glass
from glass.models.layers import RelativePositionBias


class Norm(nn.Module):
    """T5's layer norm: no mean, no bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        variance = x.pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(variance + 1e-6))


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, attention_dropout: float) -> None:
        super().__init__()
        inner = config.num_heads * config.head_dim
        self.heads = (config.num_heads, config.head_dim)
        self.dropout = attention_dropout
        self.query = nn.Linear(config.d_model, inner, bias=False)
        self.key = nn.Linear(config.d_model, inner, bias=False)
        self.value = nn.Linear(config.d_model, inner, bias=False)
        self.output = nn.Linear(inner, config.d_model, bias=False)

    def forward(self, x: Tensor, context: Tensor, bias: Tensor) -> Tensor:
        """x [R, Q, C] attends to context [R, N, C] under bias [R or 1, H or 1, Q, N]."""
        query, key, value = (
            part.unflatten(-1, self.heads).transpose(1, 2)
            for part in (self.query(x), self.key(context), self.value(context))
        )
        scores = torch.matmul(query, key.transpose(3, 2)) + bias
        weights = F.softmax(scores.float(), dim=-1).type_as(scores)
        weights = F.dropout(weights, self.dropout, self.training)
        out = torch.matmul(weights, value).transpose(1, 2).contiguous().flatten(2)
        projected: Tensor = self.output(out)
        return projected


class SelfAttention(nn.Module):
    def __init__(self, config: ModelConfig, attention_dropout: float) -> None:
        super().__init__()
        self.proj = Attention(config, attention_dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        out: Tensor = self.proj(x, x, bias)
        return out


class FeedForward(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.dropout(F.relu(self.up(x))))
        return out


class Layer(nn.Module):
    """Of the encoder, or with `decoder` of the decoder."""

    def __init__(self, config: ModelConfig, attention_dropout: float, *, decoder: bool) -> None:
        super().__init__()
        self.attention_norm = Norm(config.d_model)
        self.attention = SelfAttention(config, attention_dropout)
        if decoder:
            self.cross_norm = Norm(config.d_model)
            self.short = Attention(config, attention_dropout)
            self.retrieved = Attention(config, attention_dropout)
            self.fusion = nn.Linear(2 * config.d_model, config.d_model)
        self.ff_norm = Norm(config.d_model)
        self.ff = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, bias: Tensor, cross: Cross | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), bias))
        if cross is not None:
            normed = self.cross_norm(x)
            short = self.short(normed, cross.encoded, cross.encoded_mask)
            found = self.retrieved(normed, cross.retrieved, cross.retrieved_mask)
            gate = torch.sigmoid(self.fusion(torch.cat((short, found), dim=-1)))
            gate = gate * cross.has_retrieval
            x = x + self.dropout((1 - gate) * short + gate * found)
        out: Tensor = x + self.dropout(self.ff(self.ff_norm(x)))
        return out


@dataclass(frozen=True)
class Cross:
    """What every target's decoder attends to; masks are added to the scores."""

    encoded: Tensor  # [B*S, N, C]
    encoded_mask: Tensor  # [B*S, 1, 1, N]
    retrieved: Tensor  # [B*S, M * L, C]
    retrieved_mask: Tensor  # [B*S, 1, 1, M * L]
    has_retrieval: Tensor  # [B*S, P, 1]


class Stack(nn.Module):
    def __init__(self, config: ModelConfig, attention_dropout: float, *, decoder: bool) -> None:
        super().__init__()
        self.position = RelativePositionBias(config.num_heads, bidirectional=not decoder)
        count = config.num_decoder_layers if decoder else config.num_encoder_layers
        layers = (Layer(config, attention_dropout, decoder=decoder) for _ in range(count))
        self.layers = nn.ModuleList(layers)
        self.norm = Norm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor, cross: Cross | None = None) -> Tensor:
        """x [R, Q, C]; mask broadcastable to [R, H, Q, Q], shared with the bias by all layers."""
        bias = self.position(x.shape[1], x.shape[1]) + mask
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, bias, cross)
        out: Tensor = self.dropout(self.norm(x))
        return out


def mask_of(present: Tensor) -> Tensor:
    """0 where bool [R, N] is true, else the lowest number: [R, 1, 1, N]."""
    return (1.0 - present[:, None, None].float()) * torch.finfo(torch.float32).min


class Tier(nn.Module):
    """The MLP of the tier token; the histogram is counted by `counts`."""

    def __init__(self, glass: Glass) -> None:
        super().__init__()
        config, width = glass.config, glass.config.d_model
        self.mlp = nn.Sequential(
            nn.Linear(glass.codebook_sizes[0] * config.num_tiers, width),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(width, width),
        )

    def forward(self, histogram: Tensor) -> Tensor:
        out: Tensor = self.mlp(histogram.flatten(1))
        return out


class PlainGlass(nn.Module):
    """The same function of a batch as `glass`, with copies of its parameters.

    Args:
        glass: with SID-Tier, hard search and the paper's gate; its history is never padded here.
        vectors: float32 [V, D] unit item vectors behind its tiers.
        attention_dropout: of the attention weights, as T5 has and `glass` has not.
    """

    def __init__(self, glass: Glass, vectors: Tensor, attention_dropout: float = 0.0) -> None:
        super().__init__()
        config = glass.config
        assert glass.tier is not None
        assert glass.hard_search is not None
        assert config.gate == "learned"
        assert config.gate_input == config.empty_retrieval == "short"
        assert config.tier_token_last
        assert not config.train_retrieved
        assert not config.copy_head
        self.config, self.codebook_sizes = config, glass.codebook_sizes
        self.codes, self.level_start = glass.codes.clone(), glass.level_start.clone()
        self.counts: Callable[[Histories], Tensor] = eager.vector_forms(
            vectors, F.normalize(glass.tier.prototypes), glass.tier.edges, waste=2.0
        )["bincount"]
        self.fill = eager_search.Fill.of(glass.hard_search.neighbours, config.search_min_items)
        self.token_table = nn.Parameter(torch.empty_like(glass.token_table))
        self.bos = nn.Parameter(torch.empty_like(glass.bos))
        self.tier = Tier(glass)
        self.encoder = Stack(config, attention_dropout, decoder=False)
        self.decoder = Stack(config, attention_dropout, decoder=True)
        self.retrieved_projection = nn.Linear(config.d_model, config.d_model, bias=False)
        missing, unknown = self.load_state_dict(glass.state_dict(), strict=False)
        parameters = {name for name, _ in glass.named_parameters()}
        assert not missing
        assert not parameters & set(unknown)

    def tokens(self, items: Tensor) -> Tensor:
        """int64 [..., L]"""
        return self.codes[items].long() + self.level_start

    def encode(self, batch: Batch) -> Tensor:
        """[B, N, C]: the short history's tokens and the tier token."""
        histories = Histories(batch.long_items, batch.long_offsets.diff())
        x = F.embedding(self.tokens(batch.short_items).flatten(1), self.token_table)
        x = torch.cat((x, self.tier(self.counts(histories))[:, None]), dim=1)
        present = torch.ones(x.shape[:2], dtype=torch.bool)
        out: Tensor = self.encoder(x, mask_of(present))
        return out

    def search(self, batch: Batch, sid1: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens int64 [B*S, M * L] of what sid1 [B, S] retrieves, and which there are."""
        histories = Histories(batch.long_items, batch.long_offsets.diff())
        searches = Searches(
            histories, self.codes[batch.long_items, 0], sid1, self.codebook_sizes[0]
        )
        most = self.config.search_max_items
        positions, lengths = eager_search.search_all(
            searches,
            lambda hit: eager_search.newest_by_topk(hit, most, torch.int32),
            self.fill,
            distinct=False,
        )
        items = batch.long_items[positions.flatten(0, 1).clamp(min=0)]
        present = torch.arange(most) < lengths.flatten()[:, None]
        levels = len(self.codebook_sizes)
        return self.tokens(items).flatten(1), present.repeat_interleave(levels, dim=1)

    def forward(self, batch: Batch) -> Tensor:
        """Mean cross-entropy over all levels of all targets."""
        codes = self.codes[batch.targets].long()  # [B, S, L]
        sets, levels = codes.shape[1], codes.shape[2]
        encoded = self.encode(batch).repeat_interleave(sets, dim=0)
        tokens, present = self.search(batch, codes[..., 0])
        retrieved = self.retrieved_projection(F.embedding(tokens, self.token_table.detach()))
        # BOS predicts sid_1, before anything can be searched.
        has = present.any(1)[:, None] & (torch.arange(levels) > 0)
        everything = torch.ones(encoded.shape[:2], dtype=torch.bool)
        cross = Cross(
            encoded, mask_of(everything), retrieved, mask_of(present), has[..., None].float()
        )
        prefix = (codes + self.level_start).flatten(0, 1)[:, :-1]
        x = F.embedding(prefix, self.token_table)
        x = torch.cat((self.bos.expand(len(x), 1, -1), x), dim=1)
        future = torch.ones(levels, levels, dtype=torch.bool).triu(1)
        causal = future.float() * torch.finfo(torch.float32).min
        hidden = self.decoder(x, causal, cross) * self.config.d_model**-0.5
        heads = torch.split(self.token_table, list(self.codebook_sizes))
        targets = codes.flatten(0, 1)
        losses = [
            F.cross_entropy(hidden[:, level] @ head.T, targets[:, level])
            for level, head in enumerate(heads)
        ]
        return torch.stack(losses).mean()
