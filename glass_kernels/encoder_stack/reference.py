"""An encoder in plain PyTorch: the equations every other backend is judged by."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from glass_kernels.encoder_stack.weights import EncoderWeights

EPSILON = 1e-6
"""Of the norms: `kEncoderEpsilon` of csrc/cpu/encoder_rows.h."""


def encoder_stack_reference(
    x: Tensor, bias: Tensor, weights: EncoderWeights, valid: Tensor | None
) -> Tensor:
    """Keys and values [M, B, N, 2, H, D]; shapes as in `encoder_stack`."""
    (users, length, width), (_, _, heads, dim, _) = x.shape, weights.qkv.shape

    def normed(rows: Tensor) -> Tensor:
        return F.rms_norm(rows, (width,), eps=EPSILON)

    def split(rows: Tensor, count: int) -> Tensor:  # [B, N, count*H*D] -> [count, B, N, H, D]
        return rows.view(users, length, count, heads, dim).permute(2, 0, 1, 3, 4)

    place = torch.arange(length, device=x.device)
    added = bias[:, place[None, :] - place[:, None] + length - 1][None]
    if valid is not None:
        x = x.masked_fill(~valid[..., None], 0)
        # A finite floor keeps a user without any valid row free of NaN.
        added = added.masked_fill(~valid[:, None, None, :], torch.finfo(added.dtype).min)
    for qkv, output, up, down in zip(
        weights.qkv, weights.output, weights.up, weights.down, strict=True
    ):
        query, key, value = split(F.linear(normed(x), qkv.flatten(0, 2)), 3).transpose(2, 3)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=added, scale=1.0)
        x = x + F.linear(out.transpose(1, 2).flatten(2), output)
        x = x + F.linear(F.linear(normed(x), up).relu(), down)
    read = F.linear(normed(x), weights.memory.flatten(0, 3))
    if valid is not None:
        read = read.masked_fill(~valid[..., None], 0)
    keys_values = read.view(users, length, -1, 2, heads, dim)
    return keys_values.permute(2, 0, 1, 3, 4, 5)
