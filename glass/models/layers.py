"""T5-style layers: no linear bias, no 1/sqrt(d) in attention, RMSNorm before each block.

Shapes: B batch, Q queries, N keys, H heads, D head width, C model width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass.models.dropout import Dropout
from glass_kernels.modules.projections import Projections


class RelativePositionBias(nn.Module):
    """Learned bias per head and distance bucket (Raffel et al. 2020, section 2.1).

    Half of the buckets hold exact small distances, the rest grow logarithmically up to
    `max_distance`. One instance is shared by all layers of a stack.
    """

    def __init__(
        self, num_heads: int, *, bidirectional: bool, num_buckets: int = 32, max_distance: int = 128
    ) -> None:
        super().__init__()
        self.bidirectional = bidirectional
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.weight = nn.Parameter(torch.empty(num_buckets, num_heads))

    def buckets(self, num_queries: int, num_keys: int, device: torch.device) -> Tensor:
        """Bucket of every (query, key) pair, int64 [Q, N]; query i stands at position i."""
        query = torch.arange(num_queries, device=device)[:, None]
        return self._buckets(torch.arange(num_keys, device=device)[None, :] - query)

    def _buckets(self, distance: Tensor) -> Tensor:
        """Bucket of every key's position less that of the query."""
        count = self.num_buckets
        base = torch.zeros_like(distance)
        if self.bidirectional:
            count //= 2
            base = (distance > 0).long() * count
            distance = distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        exact = count // 2
        ratio = (distance.clamp(min=1).float() / exact).log() / math.log(self.max_distance / exact)
        far = (exact + (ratio * (count - exact)).long()).clamp(max=count - 1)
        return base + torch.where(distance < exact, distance, far)

    def forward(self, num_queries: int, num_keys: int, *, first_query: int = 0) -> Tensor:
        """Bias [1, H, Q - first_query, N] of queries first_query .. Q-1."""
        index = self.buckets(num_queries, num_keys, self.weight.device)[first_query:]
        return F.embedding(index, self.weight).permute(2, 0, 1)[None]

    def by_distance(self, length: int) -> Tensor:
        """Bias [H, 2N - 1] of a key whose position less that of the query is 1 - N .. N - 1."""
        distance = torch.arange(1 - length, length, device=self.weight.device)
        return F.embedding(self._buckets(distance), self.weight).t().contiguous()


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Attention of query [B, H, Q, D] to key and value [B, H, N, D] under a finite additive bias.

    Where the bias is trained, torch has no fused form on a CPU: its three steps also look for rows
    of -inf, which takes a fifth of the time. The same steps without that give the same bits.
    """
    plain = query.device.type == "cpu" and query.dtype in (torch.float32, torch.float64)
    if torch.compiler.is_compiling() or not (plain and bias.requires_grad):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
    scores = torch.matmul(query, key.transpose(2, 3))
    scores += bias
    return torch.matmul(F.softmax(scores, dim=-1), value)


class SelfAttention(nn.Module):
    """Self-attention with an additive bias; keys and values of earlier positions may be given."""

    def __init__(self, d_model: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.proj = Projections(d_model, num_heads, head_dim)

    def forward(
        self, x: Tensor, bias: Tensor, past: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x [B, Q, C], bias broadcastable to [B, H, Q, N] -> output [B, Q, C], (keys, values).

        The keys and values returned are [B, H, N, D] and include `past`.
        """
        query = self.proj.split(self.proj.query(x)).transpose(1, 2)
        key, value = (part.transpose(1, 2) for part in self.proj.keys_values(x))
        if past is not None:
            key = torch.cat((past[0], key), dim=2)
            value = torch.cat((past[1], value), dim=2)
        bias = bias.to(query.dtype)
        if torch.compiler.is_exporting():  # else the graph is not for a batch of 1
            bias = bias.expand(query.shape[0], -1, -1, -1)
        out = attend(query, key, value, bias)
        return self.proj.output(out.transpose(1, 2).flatten(2)), (key, value)


class FeedForward(nn.Module):
    """Linear, ReLU, dropout, Linear; no bias."""

    def __init__(self, d_model: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., C] -> [..., C]."""
        hidden: Tensor = self.down(self.dropout.of_relu_(self.up(x)))
        return hidden


def initialise(module: nn.Module, d_model: int) -> None:
    """T5's initialisation: variances that make attention logits O(1) without 1/sqrt(d)."""
    for child in module.modules():
        if isinstance(child, Projections):
            inner = child.num_heads * child.head_dim
            nn.init.normal_(child.query.weight, std=(d_model * child.head_dim) ** -0.5)
            nn.init.normal_(child.key.weight, std=d_model**-0.5)
            nn.init.normal_(child.value.weight, std=d_model**-0.5)
            nn.init.normal_(child.output.weight, std=inner**-0.5)
        elif isinstance(child, FeedForward):
            nn.init.normal_(child.up.weight, std=d_model**-0.5)
            nn.init.normal_(child.down.weight, std=child.down.in_features**-0.5)
        elif isinstance(child, RelativePositionBias):
            nn.init.normal_(child.weight, std=d_model**-0.5)


def initialise_copy(proj: Projections, query_scale: float = 0.3) -> None:
    """Starts a cross-attention as a copy: output(value(x)) = x and nearly uniform attention.

    With the tied head, the logits then begin as the frequencies of the codes attended to.

    Raises:
        ValueError: the heads together are narrower than the model, so that they cannot hold x.
    """
    inner, d_model = proj.value.weight.shape
    if inner < d_model:
        raise ValueError(
            "model.initialization is 'copy', which needs model.num_heads * model.head_dim of at "
            f"least model.d_model, were {proj.num_heads} * {proj.head_dim} = {inner} and {d_model};"
            " raise model.head_dim or set model.initialization to t5"
        )
    with torch.no_grad():
        nn.init.orthogonal_(proj.value.weight)
        proj.output.weight.copy_(proj.value.weight.T)
        proj.query.weight.mul_(query_scale)
