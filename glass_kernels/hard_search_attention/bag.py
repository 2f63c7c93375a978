"""Attention over the bag of retrieved tokens: exact, and without gathering any embedding.

There is no positional bias, so a set's attention depends only on how often each token occurs.
A token that occurs c times has the weight c * exp(score) = exp(score + log c): dense attention over
the small table with log c as bias. Its work is matrix products, and the largest tensor is
[H, B * S * P, Vt].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from glass_kernels.hard_search_attention.reference import accumulation_dtype


def token_counts(tokens: Tensor, positions: Tensor, lengths: Tensor, num_tokens: int) -> Tensor:
    """How often each token occurs in each retrieved set: int32 [B, S, Vt]."""
    num_users, num_sets, max_items = positions.shape
    slots = torch.arange(max_items, device=positions.device)
    filled = (slots < lengths[..., None]) & (positions >= 0)
    if tokens.shape[0] == 0:
        tokens = tokens.new_zeros(1, tokens.shape[1])
    gathered = tokens[positions.clamp(0, tokens.shape[0] - 1)].long()
    ones = filled[..., None].expand_as(gathered).flatten(2).int()
    counts = ones.new_zeros(num_users, num_sets, num_tokens)
    return counts.scatter_add_(2, gathered.flatten(2), ones)


def hard_search_attention_bag(
    query: Tensor,
    key_table: Tensor,
    value_table: Tensor,
    tokens: Tensor,
    positions: Tensor,
    lengths: Tensor,
    *,
    scale: float = 1.0,
) -> Tensor:
    """Equals `hard_search_attention_reference`; shapes as in `hard_search_attention`."""
    num_users, num_sets, width, num_heads, head_dim = query.shape
    with torch.autocast(query.device.type, enabled=False):
        dtype = accumulation_dtype(query)
        counts = token_counts(tokens, positions, lengths, key_table.shape[0])
        empty = (counts == 0).all(dim=2, keepdim=True)  # [B, S, 1]
        # A count is at most M * n_tok, so its logarithm is looked up: far cheaper than log itself.
        # log 0 = -inf hides absent tokens; an empty set sees all of them and is zeroed below.
        most = positions.shape[2] * tokens.shape[1]
        logs = torch.arange(most + 1, device=counts.device, dtype=dtype).log()
        bias = logs.index_select(0, counts.flatten()).view_as(counts).masked_fill(empty, 0.0)
        bias = bias[:, :, None, :].expand(-1, -1, width, -1).reshape(1, 1, -1, counts.shape[2])
        out = scaled_dot_product_attention(
            query.to(dtype).reshape(1, -1, num_heads, head_dim).transpose(1, 2),
            key_table.to(dtype)[None].transpose(1, 2),
            value_table.to(dtype)[None].transpose(1, 2),
            attn_mask=bias,
            scale=scale,
        )
        out = out.transpose(1, 2).reshape(num_users, num_sets, width, num_heads, head_dim)
        return out.masked_fill(empty[..., None, None], 0.0).to(query.dtype)
