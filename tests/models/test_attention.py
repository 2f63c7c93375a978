"""Self-attention in training: torch's own, bit for bit, without what it does in vain."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from glass.models import layers
from glass.models.layers import SelfAttention


def outcome(attention: SelfAttention, x: Tensor, bias: Tensor, cotangent: Tensor) -> list[Tensor]:
    out, _ = attention(x, bias)
    wanted = (x, bias, *attention.parameters())
    return [out, *torch.autograd.grad(out, wanted, cotangent)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, 3], ids=["shared bias", "bias with padding"])
def test_trained_bias_gives_the_bits_of_torch(
    dtype: torch.dtype, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = SelfAttention(12, 2, 8).to(dtype)
    x = torch.randn(3, 7, 12, dtype=dtype, requires_grad=True)
    bias = torch.randn(rows, 2, 7, 7, dtype=dtype)
    if rows == 3:
        bias[1, ..., 4:] = torch.finfo(dtype).min
        bias[2] = torch.finfo(dtype).min  # nothing to attend to
    bias.requires_grad_()
    cotangent = torch.randn(3, 7, 12, dtype=dtype)
    ours = outcome(attention, x, bias, cotangent)
    calls = []

    def torchs(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        calls.append(bias)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)

    monkeypatch.setattr(layers, "attend", torchs)
    theirs = outcome(attention, x, bias, cotangent)
    assert len(calls) == 1
    for mine, wanted in zip(ours, theirs, strict=True):
        assert torch.equal(mine, wanted)
