"""The linear maps of an attention block, shared by those that attend in different ways."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Projections(nn.Module):
    """Query, key, value and output projections of one attention block, without bias."""

    def __init__(self, d_model: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim
        inner = num_heads * head_dim
        self.query = nn.Linear(d_model, inner, bias=False)
        self.key = nn.Linear(d_model, inner, bias=False)
        self.value = nn.Linear(d_model, inner, bias=False)
        self.output = nn.Linear(inner, d_model, bias=False)

    def split(self, x: Tensor) -> Tensor:
        """[..., H*D] -> [..., H, D]."""
        return torch.unflatten(x, -1, (self.num_heads, self.head_dim))

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[..., C] -> keys and values [..., H, D]."""
        return self.split(self.key(x)), self.split(self.value(x))
