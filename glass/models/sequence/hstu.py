"""HSTU (arXiv 2402.17152), and the form of it in IntRR's released code."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glass.config import SequenceConfig
from glass.models.dropout import Dropout
from glass.models.layers import initialise
from glass.models.sequence.backbone import Backbone, Bias, Layer, Projected


class HstuLayer(Layer):
    """Gated attention without softmax and without feed-forward.

    u, v, q, k = SiLU(W LayerNorm(x)); A = SiLU(q k^T + bias) / n; out = x + W'(LayerNorm(A v) * u).
    n is the longest history the backbone reads, in tokens, as in the authors' code: a constant, so
    that no user's states depend on the others of its batch.
    """

    def __init__(self, config: SequenceConfig, max_tokens: int) -> None:
        super().__init__()
        inner = config.num_heads * config.head_dim
        self.heads = (config.num_heads, config.head_dim)
        self.max_tokens = max_tokens
        self.norm = nn.LayerNorm(config.d_model, eps=1e-6)
        self.inputs = nn.Linear(config.d_model, 4 * inner, bias=False)
        self.output = nn.Linear(inner, config.d_model, bias=False)
        self.dropout = Dropout(config.dropout)
        nn.init.normal_(self.inputs.weight, std=config.d_model**-0.5)
        nn.init.normal_(self.output.weight, std=inner**-0.5)

    def project(self, x: Tensor) -> Projected:
        """Of tokens x [..., C], all through SiLU."""
        return self._split(F.silu(self.inputs(self.norm(x))))

    def _split(self, projected: Tensor) -> Projected:
        gate, value, query, key = projected.chunk(4, dim=-1)
        query, key, value = (torch.unflatten(part, -1, self.heads) for part in (query, key, value))
        return Projected(query, key, value, gate)

    def weights(self, scores: Tensor, hidden: Tensor) -> Tensor:
        """SiLU(scores) / n."""
        weights: Tensor = F.silu(scores).masked_fill(hidden, 0.0) / self.max_tokens
        return weights

    def finish(self, x: Tensor, attended: Tensor, gate: Tensor | None) -> Tensor:
        """Normed, gated and projected, added to x."""
        assert gate is not None
        normed = F.layer_norm(attended, attended.shape[-1:], eps=1e-6)
        out: Tensor = x + self.output(self.dropout(normed * gate))
        return out


class ReleasedHstuLayer(HstuLayer):
    """The layer of IntRR's released code: SiLU on the gate alone, weights that sum to 1.

    u = SiLU(..); v, q, k linear; A = softplus(q k^T / sqrt(D) + bias), rows divided by their sums;
    output x + W'(A v * u). The factor of the scores and the bias are our choice.
    """

    def project(self, x: Tensor) -> Projected:
        """Of tokens x [..., C]."""
        found = self._split(self.inputs(self.norm(x)))
        assert found.gate is not None
        return found._replace(gate=F.silu(found.gate))

    def scaled(self, query: Tensor) -> Tensor:
        """query / sqrt(D)."""
        scaled: Tensor = query * self.heads[1] ** -0.5
        return scaled

    def weights(self, scores: Tensor, hidden: Tensor) -> Tensor:
        """softplus(scores), rows divided by their sums."""
        weights: Tensor = F.softplus(scores).masked_fill(hidden, 0.0)
        floor = torch.finfo(weights.dtype).tiny
        shares: Tensor = weights / weights.sum(dim=-1, keepdim=True).clamp(min=floor)
        return shares

    def finish(self, x: Tensor, attended: Tensor, gate: Tensor | None) -> Tensor:
        """Gated and projected, added to x."""
        assert gate is not None
        out: Tensor = x + self.output(self.dropout(attended * gate))
        return out


def hstu(config: SequenceConfig, max_tokens: int) -> Backbone:
    """HSTU as `config.hstu` says, each layer with its own bias by position and time.

    Args:
        config: sizes and switches.
        max_tokens: n, tokens of the longest history.
    """
    kind = ReleasedHstuLayer if config.hstu == "released" else HstuLayer
    stack = Backbone(
        [kind(config, max_tokens) for _ in range(config.num_layers)],
        [Bias(config.num_heads, time=config.time_bias) for _ in range(config.num_layers)],
        nn.LayerNorm(config.d_model, eps=1e-6),
        config.dropout,
    )
    initialise(stack, config.d_model)
    return stack
